"""The thread that owns the service: loads it, then runs one request after another.

A run belongs to the worker, not to the browser tab that asked for it: closing the tab loses the
player, never the song, because the worker saves the files itself.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from acestep.errors import Cancelled, Unavailable
from acestep.progress import CancelToken, Progress
from acestep.request import MusicRequest, Plan, Preset
from acestep.ui.sources import original

MAX_WAITING = 20  # runs behind the running one

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Report(Protocol):
    """What the page needs of an `EditReport`."""

    def sentences(self) -> Sequence[str]: ...


class Take(Protocol):
    """What the page needs of a finished track."""

    @property
    def take(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def duration(self) -> float: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...
    @property
    def warnings(self) -> Sequence[str]: ...
    @property
    def recipe(self) -> Mapping[str, Any]: ...
    @property
    def report(self) -> Report | None: ...
    def save_in(self, folder: Path, /) -> Path: ...


class Service(Protocol):
    """What the page needs of `MusicService`; tests stand in for it here."""

    @property
    def model(self) -> str: ...
    @property
    def device_name(self) -> str: ...
    @property
    def has_planner(self) -> bool: ...
    @property
    def planner_engine(self) -> str: ...
    @property
    def preset(self) -> Preset: ...
    def run(
        self,
        request: Any,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Sequence[Take]: ...
    def understand(
        self,
        source: Path,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Plan: ...


Work = Callable[[Service, "Run[Result]"], Result]


@dataclass(frozen=True)
class SavedTake:
    """One finished take on disk. `duration` is seconds of music, `seconds` of work by stage;
    `report` says what an edit did, a sentence each."""

    path: Path
    take: int
    seed: int
    duration: float
    seconds: Mapping[str, float]
    warnings: Sequence[str]
    recipe: Mapping[str, Any]
    report: Sequence[str] = ()


class Run(Generic[Result]):
    """Work on its way: ask it where it is, wait for it, or cancel it, from any thread."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.token = CancelToken()
        self.ended: Future[Result] = Future()

    def cancel(self) -> None:
        """End at the next step, tile or token; at once when the run has not begun."""
        self.token.cancel()
        self.ended.cancel()

    @property
    def cancelled(self) -> bool:
        return self.token.cancelled

    @property
    def done(self) -> bool:
        return self.ended.done()

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; whether the run is done."""
        if not self.done:  # a run cancelled before it began is done, but `wait_for` waits on
            wait_for([self.ended], timeout=seconds)
        return self.done

    def result(self) -> Result:
        """What came of it, once done.

        Raises:
            AceStepError: what stopped the run.
        """
        if self.ended.cancelled():
            raise Cancelled("Cancelled. Nothing was written.")
        return self.ended.result()

    def report(self, progress: Progress) -> None:
        self.progress = progress


class Worker:
    """Loads the service on `start` and runs requests in the order they came.

    Args:
        load_service: called on the worker's own thread, again after a failure.
        output_dir: where finished songs go.
    """

    def __init__(self, load_service: Callable[[], Service], output_dir: Path) -> None:
        self.output_dir = output_dir
        self._load_service = load_service
        self._loading: Future[Service] | None = None
        self._runs: list[Run[Any]] = []
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="acestep")

    def start(self) -> Future[Service]:
        """The service, loading or loaded. A load that failed is tried again."""
        with self._lock:
            failed = self._loading is not None and self._loading.done() and _failed(self._loading)
            if self._loading is None or failed:
                self._loading = self._thread.submit(self._load_service)
            return self._loading

    @property
    def service(self) -> Service | None:
        """The loaded service, if it is."""
        loading = self._loading
        return loading.result() if loading and loading.done() and not _failed(loading) else None

    def submit(self, request: MusicRequest) -> Run[list[SavedTake]]:
        """Queue a request; its result is the finished takes.

        Raises:
            InvalidRequest: the loaded checkpoint cannot do it.
            Unavailable: too many are waiting.
        """
        request = self._with_originals(request)
        loading = self.start()
        if (service := self.service) is not None:
            request.check(service.preset, has_planner=service.has_planner)
        return self._queue(loading, partial(self._render, request))

    def understand(self, upload: Path) -> Run[Plan]:
        """Queue a look at a recording; the result is what the planner hears in it.

        Raises:
            Unavailable: too many runs are waiting.
        """
        song = original(upload, self.output_dir)
        return self._queue(
            self.start(),
            lambda service, run: service.understand(song, run.report, run.token),
        )

    def _queue(self, loading: Future[Service], work: Work[Result]) -> Run[Result]:
        run: Run[Result] = Run()
        with self._lock:
            self._runs = [other for other in self._runs if not other.done]
            if len(self._runs) > MAX_WAITING:
                raise Unavailable(f"{MAX_WAITING} songs are already waiting. Try again later.")
            self._runs.append(run)
            run.ended = self._thread.submit(lambda: work(loading.result(), run))
        return run

    def ahead_of(self, run: Run[Any]) -> int:
        """How many unfinished runs are before this one."""
        with self._lock:
            before = self._runs[: self._runs.index(run)] if run in self._runs else []
        return sum(not other.done for other in before)

    def _render(
        self, request: MusicRequest, service: Service, run: Run[list[SavedTake]]
    ) -> list[SavedTake]:
        tracks = service.run(request, run.report, run.token)
        saved: list[SavedTake] = []
        for track in tracks:
            run.report(Progress("saving", len(saved), len(tracks)))
            saved.append(_save(track, self.output_dir))
        return saved

    def _with_originals(self, request: MusicRequest) -> MusicRequest:
        """The request, about our own songs where it names copies of them."""
        source = getattr(request, "source_audio", None)
        if source is None:
            return request
        return request.model_copy(update={"source_audio": original(source, self.output_dir)})

    def close(self) -> None:
        """Cancel what runs and what waits. Does not wait for it."""
        with self._lock:
            for run in self._runs:
                run.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _failed(loading: Future[Service]) -> bool:
    """Whether a load that is done has no service to show for it."""
    return loading.cancelled() or loading.exception() is not None


def _save(track: Take, output_dir: Path) -> SavedTake:
    path = track.save_in(output_dir)
    logger.info("saved %s", path)
    return SavedTake(
        path=path,
        take=track.take,
        seed=track.seed,
        duration=track.duration,
        seconds=dict(track.seconds),
        warnings=list(track.warnings),
        recipe=dict(track.recipe),
        report=track.report.sentences() if track.report else (),
    )
