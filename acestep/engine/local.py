"""The engine of one computer: one thread that takes jobs in turn, and switches what is loaded."""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from acestep.config import ServiceConfig
from acestep.engine import songs
from acestep.engine.engine import (
    Change,
    DeviceRow,
    EngineState,
    Estimate,
    MemoryLine,
    SettingNote,
)
from acestep.engine.estimates import estimated
from acestep.engine.jobs import Action, Event, Failure, Job, Outcome, State
from acestep.engine.memory import device_rows, memory_line, setting_notes, unused_cards
from acestep.engine.runner import Runner
from acestep.engine.table import JobTable, first_version
from acestep.errors import Cancelled, EngineStopped, Unavailable
from acestep.library.output_paths import Destination
from acestep.progress import CancelToken, Progress
from acestep.request import MusicRequest
from acestep.request.asked import Asked
from acestep.runtime.machine import Computer

MAX_WAITING = 20  # jobs behind the running one
LOOK_SECONDS = 5.0  # for which what was free on this computer counts as free
CLOSING_SECONDS = 5.0  # for what runs to notice that it is cancelled, before it is ended

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Load:
    """In the queue: load what was chosen, if it still is."""

    config: ServiceConfig


@dataclass(frozen=True)
class _Unload:
    """In the queue: give the memory back, and say when that is done."""

    done: threading.Event = field(default_factory=threading.Event)


class LocalEngine:
    """Runs jobs in the order they came, each under the configuration it was submitted under.

    Only its own thread speaks to the runner. A job belongs to the engine, not to who submitted it:
    closing a page loses nothing.
    """

    def __init__(
        self,
        runner: Runner,
        table: JobTable,
        output_dir: Path,
        config: ServiceConfig | None = None,
    ) -> None:
        """Begin with what an engine before this one left waiting.

        Args:
            output_dir: where songs go that nobody sends elsewhere.
            config: what jobs run under until `configure`; nothing is loaded before it is needed.
        """
        self.output_dir = output_dir
        self._runner = runner
        self._table = table
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._listeners: list[Callable[[Change], None]] = []
        self._config = config or ServiceConfig()  # what was chosen last
        self._loaded: ServiceConfig | None = None  # what the runner has
        self._state = EngineState(status="empty", config=self._config, version=first_version())
        self._looking = threading.Lock()
        self._seen: tuple[float, Computer] | None = None  # and when
        self._queue: deque[str | _Load | _Unload] = deque()
        self._running: str | None = None
        self._is_loading = False
        self._is_closed = False
        self._token = CancelToken()
        left = [job for job in reversed(table.all()) if job.state == "waiting"]
        self._queue.extend(job.id for job in left)
        if any(job.config != self._dumped() for job in left):
            self._queue.append(_Load(self._config))
        runner.watch(self._on_stopped)
        self._thread = threading.Thread(target=self._consume, name="acestep engine", daemon=True)
        self._thread.start()

    @property
    def state(self) -> EngineState:
        return self._state

    def configure(self, config: ServiceConfig) -> None:
        self._computer()  # before anything is loaded
        with self._lock:
            self._config = config
            self._queue = deque(entry for entry in self._queue if not isinstance(entry, _Load))
            self._queue.append(_Load(config))
            self._say(config=config)
            self._work.notify()

    def unload(self) -> None:
        request = _Unload()
        with self._lock:
            jobs = [self._running, *(entry for entry in self._queue if isinstance(entry, str))]
            if ahead := [id for id in jobs if id is not None]:
                name = self._table.get(ahead[0]).name
                raise Unavailable(f"Finish or cancel the running job first: {name}.")
            if self._is_loading or any(isinstance(entry, _Load) for entry in self._queue):
                raise Unavailable("The models are still being loaded. Unload them afterwards.")
            self._queue.append(request)
            self._work.notify()
        request.done.wait()

    def submit(self, request: Asked, *, action: Action = "render", out: str | None = None) -> Job:
        """Queue a job.

        Raises:
            InvalidRequest: the loaded checkpoint cannot do it, the source has no such region, or
                the songs cannot be saved where they should go.
            AudioError: the source is not a recording that can be used.
            Unavailable: too many are waiting.
        """
        request = songs.with_original(request, self.output_dir)
        songs.look(request)
        out = str(self.output_dir) if out is None else out
        if action == "render" and out:
            request = _placed(cast(MusicRequest, request), out)
        with self._lock:
            loaded = self._state.loaded
            if loaded is not None and self._loaded == self._config:
                request.check(loaded.preset, has_planner=loaded.has_planner)
            return self._submit(request.model_dump(mode="json"), action, self._dumped(), out)

    def rerun(self, id: str, config: ServiceConfig | None = None) -> Job:
        """Queue a job that is over once more, under its own configuration or another.

        Raises:
            Unavailable: there is none with this id, or too many are waiting.
        """
        job = self._table.get(id)
        if not job.is_over:
            raise Unavailable(f"This job is not over yet: {job.name}.")
        with self._lock:
            dumped = job.config if config is None else config.model_dump(mode="json")
            again = self._submit(job.request, job.action, dumped, job.out)
            if again.config != self._dumped():
                self._queue.append(_Load(self._config))
            return again

    def jobs(self) -> Sequence[Job]:
        return self._table.all()

    def job(self, id: str) -> Job:
        return self._table.get(id)

    def since(self, version: int) -> tuple[int, Sequence[Job]]:
        """The version now, and the jobs that changed after another: what a page polls."""
        return self._table.since(version)

    def cancel(self, id: str) -> None:
        with self._lock:
            job = self._table.get(id)
            if id == self._running:
                self._token.cancel()
            elif job.state == "waiting":
                self._queue.remove(id)
                self._end(job, "cancelled", Failure.of(_cancelled()))

    def subscribe(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        with self._lock:
            self._listeners.append(listener)

        def end() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def estimate(self, request: Asked) -> Estimate:
        """What the model took for such songs here."""
        with self._lock:
            loaded = self._state.loaded if self._loaded == self._config else None
            model = self._config.model
        preset = None if loaded is None else loaded.preset
        return estimated(self._table.all(), request, model, preset)

    def memory(self, config: ServiceConfig, request: MusicRequest | None = None) -> MemoryLine:
        return memory_line(config, request, self._computer())

    def devices(self) -> Sequence[DeviceRow]:
        return device_rows(self._computer())

    def notes(self, config: ServiceConfig) -> Mapping[str, SettingNote]:
        return setting_notes(config, self.devices(), unused_cards(self._computer()))

    def _computer(self) -> Computer:
        """What this computer has, and has free but for what is loaded here: that makes room. Its
        drivers are not asked at every key press."""
        with self._looking:
            now = time.monotonic()
            is_free = self._state.status in ("empty", "failed")
            if self._seen is None or (is_free and now - self._seen[0] > LOOK_SECONDS):
                self._seen = now, Computer.here()
            return self._seen[1]

    def close(self) -> None:
        """Cancel what runs, keep what waits for the next start, free everything."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._token.cancel()
            self._work.notify()
        self._thread.join(CLOSING_SECONDS)
        self._runner.close()
        self._thread.join(1.0)  # what did not notice has been ended with its process
        self._table.close()

    # The rest runs on the engine's thread, or under its lock.

    def _submit(
        self, request: dict[str, Any], action: Action, config: dict[str, Any], out: str
    ) -> Job:
        with self._lock:
            if self._is_closed:
                raise Unavailable("The engine is closed.")
            if sum(isinstance(entry, str) for entry in self._queue) >= MAX_WAITING:
                raise Unavailable(f"{MAX_WAITING} songs are already waiting. Try again later.")
            job = Job(
                id=uuid.uuid4().hex,
                action=action,
                request=request,
                config=config,
                out=out,
                created=time.time(),
            )
            self._table.insert(job)
            self._queue.append(job.id)
            self._tell(job)
            self._work.notify()
            return job

    def _consume(self) -> None:
        while (entry := self._next()) is not None:
            match entry:
                case _Load(config):
                    self._load(config, None)
                case _Unload(done):
                    self._runner.unload()
                    self._gone("empty", None)
                    done.set()
                case str():
                    self._do(entry)

    def _next(self) -> "str | _Load | _Unload | None":
        """The next entry of the queue, once there is one; None when the engine closes."""
        with self._lock:
            self._running, self._is_loading = None, False
            self._say()
            while not self._queue and not self._is_closed:
                was_told = self._work.wait(self._patience)
                if not (was_told or self._queue or self._is_closed):
                    logger.info("Unloaded: nothing was asked for in a while.")
                    self._queue.append(_Unload())
            if self._is_closed:
                for entry in self._queue:
                    if isinstance(entry, _Unload):
                        entry.done.set()  # closing does it
                return None
            entry = self._queue.popleft()
            if isinstance(entry, str):
                self._running = entry
                self._token = CancelToken()
            self._is_loading = isinstance(entry, _Load)
            return entry

    @property
    def _patience(self) -> float | None:
        """Seconds without work after which the memory is given back; None waits for ever."""
        return self._config.unload_after * 60 or None if self._loaded is not None else None

    def _do(self, id: str) -> None:
        """One job, from the queue to its end."""
        with self._lock:
            job = self._table.get(id).model_copy(
                update={"state": "running", "started": time.time()}
            )
            self._put(job)
            self._say()
        try:
            outcome, loading = self._outcome(job)
        except Cancelled as error:
            self._end(self._table.get(id), "cancelled", Failure.of(error))
        except EngineStopped as error:
            is_ours = self._is_closed  # it was ended because it did not notice
            failure = Failure.of(_cancelled() if is_ours else error)
            self._end(self._table.get(id), "cancelled" if is_ours else "lost", failure)
        except Exception as error:  # a job's boundary: whatever went wrong is its failure
            logger.debug("%s failed.", job.name, exc_info=True)
            self._end(self._table.get(id), "failed", Failure.of(error))
        else:
            job = self._table.get(id)
            assert job.started is not None
            seconds = {"loading": loading, "total": time.time() - job.started}
            self._end(job, "done", outcome=outcome.model_copy(update={"seconds": seconds}))

    def _outcome(self, job: Job) -> tuple[Outcome, float]:
        """What comes of a job, and the seconds that loading for it took."""
        started = time.perf_counter()
        config = type(self._config).model_validate(job.config)
        if (failure := self._load(config, job.id)) is not None:
            raise failure.to_error()
        loading = time.perf_counter() - started
        if self._token.cancelled:
            raise _cancelled()
        outcome = self._runner.run(job, lambda step: self._on_step(job.id, step), self._token)
        return outcome, loading

    def _load(self, config: ServiceConfig, id: str | None) -> Failure | None:
        """Load a configuration unless it is loaded, for a job or because it was chosen; a failure
        is that of every job that waits for the same."""
        if self._loaded == config:
            return None
        with self._lock:
            self._loaded = None
            self._say(status="loading", loaded=None, failure=None)

        def on_step(step: Progress) -> None:
            self._say(loading=_event(step))
            if id is not None:
                self._on_step(id, step)

        try:
            loaded = self._runner.load(config, on_step)
        except Exception as error:  # an engine that cannot load this may load something else
            logger.debug("Loading failed.", exc_info=True)
            failure = Failure.of(error)
            with self._lock:
                self._gone("failed", failure)
                for other in self._waiting(config):
                    self._queue.remove(other.id)
                    self._end(other, "failed", failure)
            return failure
        with self._lock:
            self._loaded, self._is_loading = config, False  # who reads "ready" may unload at once
            self._say(status="ready", loaded=loaded, loading=None)
        return None

    def _waiting(self, config: ServiceConfig) -> list[Job]:
        """Jobs that wait for a configuration."""
        jobs = [self._table.get(entry) for entry in self._queue if isinstance(entry, str)]
        return [job for job in jobs if job.config == config.model_dump(mode="json")]

    def _on_step(self, id: str, step: Progress) -> None:
        with self._lock:
            job = self._table.get(id)
            events = {event.stage: event for event in job.events} | {step.stage: _event(step)}
            self._put(job.model_copy(update={"events": list(events.values())}))

    def _end(
        self,
        job: Job,
        state: State,
        failure: Failure | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        ended = {"state": state, "failure": failure, "outcome": outcome, "ended": time.time()}
        with self._lock:
            self._put(job.model_copy(update=ended))

    def _put(self, job: Job) -> None:
        self._table.update(job)
        self._tell(job)

    def _on_stopped(self, error: EngineStopped) -> None:
        """What was loaded is gone; the next job loads it again."""
        self._gone("failed", Failure.of(error))

    def _gone(self, status: Any, failure: Failure | None) -> None:
        with self._lock:
            self._loaded = None
            self._say(status=status, loaded=None, loading=None, failure=failure)

    def _say(self, **changes: Any) -> None:
        """Change the state, and tell who listens if that made a difference."""
        with self._lock:
            loads = [entry for entry in self._queue if isinstance(entry, _Load)]
            waits = any(load.config != self._loaded for load in loads)
            changes |= {"waiting_for": self._running if waits else None}
            now = self._state.model_copy(update=changes)
            if now == self._state:
                return
            if (now.loaded, now.config) != (self._state.loaded, self._state.config):
                now = now.model_copy(update={"version": now.version + 1})
            self._state = now
            self._tell(now)

    def _tell(self, change: Change) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(change)
            except Exception:  # who listens must not end who works
                logger.exception("A listener failed and is not told any more.")
                self._listeners.remove(listener)

    def _dumped(self) -> dict[str, Any]:
        return self._config.model_dump(mode="json")


def _cancelled() -> Cancelled:
    return Cancelled("Cancelled. Nothing was written.")


def _event(step: Progress) -> Event:
    return Event(at=time.time(), stage=step.stage, done=step.done, total=step.total)


def _placed(request: MusicRequest, out: str) -> MusicRequest:
    """The request in the format that its destination has, which can be had.

    Raises:
        InvalidRequest: it cannot.
    """
    destination = Destination.parse(out)
    placed = destination.formatted(request, chosen="format" in request.model_fields_set)
    destination.reserve(placed.takes)
    return placed
