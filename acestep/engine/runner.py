"""What makes the music for an engine: the service in this process, or in a process of its own."""

import gc
import json
import logging
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from acestep.config import ServiceConfig
from acestep.engine.engine import Loaded
from acestep.engine.jobs import Failure, Job, Outcome, Take
from acestep.errors import Cancelled, EngineStopped
from acestep.library.output_paths import Destination
from acestep.progress import CancelToken, OnProgress, Progress
from acestep.request import Plan, Preset, parse_request
from acestep.request.asked import Recording

if TYPE_CHECKING:
    from acestep.library.track import Track

CANCEL_SECONDS = 30.0  # for a process to notice that its job is cancelled, before it is ended
END_SECONDS = 5.0  # for a process to end once its input has
CANCEL_LOOK_SECONDS = 0.05  # how often a running job's token is looked at
LAST_LINES = 20  # of a process's stderr, kept to say why it ended


logger = logging.getLogger(__name__)


class Runner(Protocol):
    """Loads one configuration at a time and runs one job at a time, for one thread."""

    def watch(self, on_stopped: Callable[[EngineStopped], None]) -> None:
        """Whom to tell, from any thread, when what was loaded is gone and nobody unloaded it."""
        ...

    def load(self, config: ServiceConfig, on_progress: OnProgress) -> Loaded:
        """Read the networks of a configuration, after letting go of what was loaded before; what
        can change without reading them again just changes.

        Raises:
            AceStepError: why they cannot be had. Nothing is loaded then.
        """
        ...

    def run(self, job: Job, on_progress: OnProgress, cancel: CancelToken) -> Outcome:
        """Do a job with what is loaded, and save what comes of it.

        Raises:
            AceStepError: why it did not end well.
            EngineStopped: what was loaded is gone.
        """
        ...

    def unload(self) -> None:
        """Give the memory back."""
        ...

    def close(self) -> None:
        """Free everything; nothing can be run afterwards."""
        ...


class Service(Protocol):
    """What a runner needs of `MusicService`; tests stand in for it here."""

    @property
    def config(self) -> ServiceConfig: ...
    @property
    def model(self) -> str: ...
    @property
    def preset(self) -> Preset: ...
    @property
    def has_planner(self) -> bool: ...
    @property
    def planner_engine(self) -> str: ...
    @property
    def device_name(self) -> str: ...
    @property
    def adapters_said(self) -> list[str]: ...
    @property
    def memory_said(self) -> str: ...
    def adapt(self, config: ServiceConfig) -> None: ...
    def prepare(self) -> None: ...
    def run(
        self,
        request: Any,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
    ) -> "list[Track]": ...
    def plan(
        self,
        request: Any,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
    ) -> Plan: ...
    def understand(
        self,
        source: Path,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
    ) -> Plan: ...


LoadService = Callable[[ServiceConfig, OnProgress], Service]


def load_music_service(config: ServiceConfig, on_progress: OnProgress) -> Service:
    """The real service; imports torch."""
    from acestep.service import MusicService

    return MusicService.load(config, on_progress=on_progress)


class InProcessRunner:
    """Runs the service in this process, for the command line, programs and the engine's child."""

    def __init__(self, load_service: LoadService = load_music_service) -> None:
        self._load_service = load_service
        self._service: Service | None = None

    def watch(self, on_stopped: Callable[[EngineStopped], None]) -> None:
        """Nobody is told: when this process ends, so does who would be."""

    def load(self, config: ServiceConfig, on_progress: OnProgress) -> Loaded:
        started = time.perf_counter()
        if self._service is not None and self._service.config.is_live_change(config):
            self._service.adapt(config)
        else:
            self.unload()
            self._service = self._load_service(config, on_progress)
        service = self._service
        return Loaded(
            model=service.model,
            preset=service.preset,
            has_planner=service.has_planner,
            planner=service.planner_engine,
            device=service.device_name,
            adapters=service.adapters_said,
            memory=service.memory_said,
            seconds=time.perf_counter() - started,
        )

    def prepare(self) -> None:
        """Do now, in an idle moment, what the first song would have to wait for."""
        if self._service is not None:
            self._service.prepare()

    def run(self, job: Job, on_progress: OnProgress, cancel: CancelToken) -> Outcome:
        assert self._service is not None, "asked to run before anything was loaded"
        act = {"render": _render, "plan": _plan, "understand": _understand}[job.action]
        outcome = act(self._service, job, on_progress, cancel)
        known = {"model": self._service.model, "device": self._service.device_name}
        return outcome.model_copy(update=known)

    def unload(self) -> None:
        if self._service is not None:
            self._service = None
            gc.collect()  # networks and their store refer to each other

    def close(self) -> None:
        self.unload()


def _render(service: Service, job: Job, on_progress: OnProgress, cancel: CancelToken) -> Outcome:
    request = parse_request(job.request)
    destination = Destination.parse(job.out) if job.out else None
    if destination is not None:
        destination.reserve(request.takes)
    tracks = [
        replace(track, recipe={**track.recipe, "job": job.id})
        for track in service.run(request, on_progress, cancel)
    ]
    if destination is None:
        return Outcome(takes=[_take(track, "") for track in tracks])
    on_progress(Progress("saving", 0, len(tracks)))
    files = destination.save(tracks)
    logger.info("saved %s", ", ".join(map(str, files)))
    return Outcome(takes=[_take(*pair) for pair in zip(tracks, map(str, files), strict=True)])


def _plan(service: Service, job: Job, on_progress: OnProgress, cancel: CancelToken) -> Outcome:
    planned = service.plan(parse_request(job.request), on_progress, cancel)
    return Outcome(plan=planned.model_dump(mode="json"))


def _understand(
    service: Service, job: Job, on_progress: OnProgress, cancel: CancelToken
) -> Outcome:
    recording = Recording.model_validate(job.request)
    heard = service.understand(recording.source_audio, on_progress, cancel)
    return Outcome(plan=heard.model_dump(mode="json"))


def _take(track: "Track", path: str) -> Take:
    return Take(
        path=path,
        take=track.take,
        seed=track.seed,
        duration=track.duration,
        seconds=dict(track.seconds),
        warnings=list(track.warnings),
        report=None if track.report is None else track.report.to_dict(),
        said=[] if track.report is None else list(track.report.sentences()),
        sha256=track.recipe["sha256"],
        recipe=track.recipe,
    )


def child_command() -> list[str]:
    """What starts the engine's process: this Python, whatever folder it was started in."""
    level = logging.getLogger("acestep").getEffectiveLevel()
    options = ["-P", "-X", "faulthandler"]
    return [sys.executable, *options, "-m", "acestep.engine.child", str(level)]


class ChildRunner:
    """Runs the service in a process of its own: a crash there ends a job, and ending it gives
    every byte of its memory back."""

    def __init__(
        self, command: Sequence[str] | None = None, *, cancel_seconds: float = CANCEL_SECONDS
    ) -> None:
        """
        Args:
            command: starts the process; None is `child_command`.
            cancel_seconds: after which a process that does not answer a cancel is ended.
        """
        self._command = command
        self._cancel_seconds = cancel_seconds
        self._process: _Process | None = None
        self._on_stopped: Callable[[EngineStopped], None] = lambda error: None

    def watch(self, on_stopped: Callable[[EngineStopped], None]) -> None:
        self._on_stopped = on_stopped

    def load(self, config: ServiceConfig, on_progress: OnProgress) -> Loaded:
        if self._process is None or self._process.has_ended:
            self._process = _Process(self._command or child_command(), self._stopped)
        self._process.tell(op="load", config=config.model_dump(mode="json"))
        answer = self._answer(self._process, on_progress)
        return Loaded.model_validate(answer["loaded"])

    def run(self, job: Job, on_progress: OnProgress, cancel: CancelToken) -> Outcome:
        assert self._process is not None, "asked to run before anything was loaded"
        self._process.tell(op="run", job=job.model_dump(mode="json"))
        answer = self._answer(self._process, on_progress, job.id, cancel)
        return Outcome.model_validate(answer["outcome"])

    def unload(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def close(self) -> None:
        self.unload()

    def _answer(
        self,
        process: "_Process",
        on_progress: OnProgress,
        id: str = "",
        cancel: CancelToken | None = None,
    ) -> dict[str, Any]:
        """What comes of an operation, once it is over."""
        deadline: float | None = None
        while True:
            if cancel is not None and cancel.cancelled and deadline is None:
                process.tell(op="cancel", id=id)
                deadline = time.monotonic() + self._cancel_seconds
            if deadline is not None and time.monotonic() > deadline:
                process.kill()
                raise Cancelled("Cancelled. Nothing was written.")
            try:
                message = process.messages.get(timeout=CANCEL_LOOK_SECONDS)
            except queue.Empty:
                continue
            if message is None:
                raise process.stopped()
            if "failure" in message:
                raise Failure.model_validate(message["failure"]).to_error()
            if "progress" not in message:
                return message
            on_progress(Progress(*message["progress"]))

    def _stopped(self, process: "_Process") -> None:
        """A process has ended that nobody ended."""
        self._on_stopped(process.stopped())


class _Process:
    """The engine's process, seen from outside.

    Attributes:
        messages: what it says; None once it has ended.
    """

    def __init__(self, command: Sequence[str], on_stopped: Callable[["_Process"], None]) -> None:
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        assert self._child.stdin and self._child.stdout and self._child.stderr
        self._input: IO[bytes] = self._child.stdin
        self.messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.has_ended = False
        self._is_ending = False
        self._on_stopped = on_stopped
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._threads = [
            threading.Thread(target=work, args=[stream], name=f"engine {name}", daemon=True)
            for work, stream, name in (
                (self._echo, self._child.stderr, "stderr"),
                (self._read, self._child.stdout, "messages"),
            )
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def tell(self, **operation: Any) -> None:
        """Send an operation; a process that has ended is noticed where its answer is awaited."""
        with suppress(BrokenPipeError, ValueError):  # ValueError: the input is closed
            self._input.write(json.dumps(operation).encode() + b"\n")
            self._input.flush()

    def end(self) -> None:
        """End it in order: with its input."""
        self._is_ending = True
        self._close_input()
        try:
            self._child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
        for thread in self._threads:
            thread.join(END_SECONDS)

    def kill(self) -> None:
        """End it at once, whatever it does; who watches is told."""
        self._child.kill()
        self._threads[-1].join(END_SECONDS)

    def _close_input(self) -> None:
        with suppress(BrokenPipeError):
            self._input.close()

    def stopped(self) -> EngineStopped:
        """How it ended, in a sentence."""
        code = self._child.wait()
        if code < 0:
            how = f"was ended by signal {-code} ({signal.Signals(-code).name})"
            if code == -signal.SIGKILL:
                how += ", as the system does when memory runs out"
        else:
            how = f"ended with exit code {code}"
            if self._last:
                how += f" ({self._last[-1].rstrip('.')})"
        return EngineStopped(f"The engine's process {how}. The next job starts it again.")

    def _read(self, stdout: IO[bytes]) -> None:
        with stdout:
            for line in stdout:
                try:
                    self.messages.put(json.loads(line))
                except ValueError:  # printed before the child took its stdout for itself, or cut
                    logger.warning("The engine's process said: %r", line)
        self._close_input()
        self._child.wait()
        self._threads[0].join(END_SECONDS)  # its last words
        self.has_ended = True
        if not self._is_ending:
            self._on_stopped(self)
        self.messages.put(None)

    def _echo(self, stderr: IO[bytes]) -> None:
        """What it logs and prints is logged and printed here."""
        with stderr:
            for line in stderr:
                text = line.decode("utf-8", "replace").rstrip()
                self._last.append(text)
                print(text, file=sys.stderr, flush=True)
