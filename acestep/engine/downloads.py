"""Downloads in the background, for every page and program that looks.

Nothing here uses the network but a download that somebody started.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from acestep.checkpoints.download import DownloadProgress, download, plan, to_download
from acestep.checkpoints.files import size_text
from acestep.checkpoints.hub import Hub
from acestep.checkpoints.locate import Checkpoints
from acestep.errors import AceStepError, Cancelled

DownloadState = Literal[
    "waiting", "planning", "downloading", "checking", "done", "failed", "cancelled"
]
OVER: frozenset[DownloadState] = frozenset({"done", "failed", "cancelled"})
SPEED_SECONDS = 10.0  # the speed shown is that of the last ten seconds
FIRST_SPEED_SECONDS = 0.5  # before which it would be a guess
REPORT_SECONDS = 0.25  # between two reports of the same file


class Download(BaseModel):
    """How far a download is.

    Attributes:
        done, total: bytes of all its files that are here and checked, and of all; 0 before the hub
            was asked.
        speed: bytes per second that come over the line now.
        seconds_left: at that speed. Both are None where they cannot be told.
        file: the one being fetched or checked.
        sentence: the same in words, or what went wrong.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    state: DownloadState
    folder: Path
    done: int = 0
    total: int = 0
    speed: float | None = None
    seconds_left: float | None = None
    file: str = ""
    sentence: str = ""

    @property
    def is_over(self) -> bool:
        return self.state in OVER


class Downloads:
    """Fetches models in the background, one after the other. May be called from any thread.

    What is cancelled or fails keeps the bytes that arrived; started again it goes on from there.
    """

    def __init__(
        self,
        hub: Hub | None = None,
        *,
        retry_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Fetch from `hub` (None: the Hugging Face Hub, with the user's own settings)."""
        self._hub = hub
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._lock = threading.RLock()
        self._tasks: dict[str, _Task] = {}
        self._queue: deque[_Task] = deque()
        self._thread: threading.Thread | None = None
        self._listeners: list[Callable[[Download], None]] = []
        self._version = 0

    @property
    def version(self) -> int:
        """Rises with every report. While a download runs, speed and time left also change by the
        clock alone."""
        return self._version

    def snapshot(self) -> list[Download]:
        """Every download since the program started, the latest of each model, oldest first."""
        with self._lock:
            return [self._row(task) for task in self._tasks.values()]

    def start(self, name: str, places: Checkpoints) -> Download:
        """Fetch a model and the companions it lacks into the folder of `places`, after what runs
        and waits. A download that is under way is left as it is.

        Raises:
            ModelMissing: nobody knows that name.
            DownloadError: the model ships with the program.
        """
        to_download(name, places)
        with self._lock:
            task = self._tasks.get(name)
            if task is not None and not task.is_over:
                return self._row(task)
            self._tasks.pop(name, None)  # the latest stands last
            self._tasks[name] = task = _Task(name, places)
        row = self._report(task)
        with self._lock:
            self._queue.append(task)
        self._work_on()
        return row

    def cancel(self, name: str) -> None:
        """Stop a download that waits or runs. A connection that is silent is left when the next
        byte arrives or the hub's time is up; until then no other download starts."""
        with self._lock:
            task = self._tasks.get(name)
            if task is None or task.is_over:
                return
            task.state = "cancelled"
            if task in self._queue:
                self._queue.remove(task)
        self._report(task)

    def subscribe(self, listener: Callable[[Download], None]) -> Callable[[], None]:
        """Be told of every report, on the thread that fetches; the answer ends it. Listeners must
        be quick."""
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unsubscribe

    def close(self) -> None:
        """Cancel everything, and wait until the thread has noticed or a second has passed."""
        for row in self.snapshot():
            self.cancel(row.name)
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(1.0)

    def _work_on(self) -> None:
        """Have a thread as long as something waits."""
        with self._lock:
            if self._queue and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="downloads", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        try:
            while (task := self._next()) is not None:
                self._run(task)
        finally:  # a bug in one download must not keep the others waiting
            with self._lock:
                self._thread = None
            self._work_on()

    def _next(self) -> "_Task | None":
        with self._lock:
            if not self._queue:
                self._thread = None
                return None
            return self._queue.popleft()

    def _run(self, task: "_Task") -> None:
        try:
            self._enter(task, "planning")
            planned = plan(task.name, task.places, self._hub)
            with self._lock:
                task.progress = DownloadProgress("", 0, planned.size)
            download(
                planned,
                lambda progress: self._progress(task, progress),
                self._hub,
                retry_seconds=self._retry_seconds,
            )
            task.state = "done"
        except Cancelled:
            task.state = "cancelled"
        except AceStepError as error:
            task.fail(str(error))
        finally:
            if not task.is_over:
                task.fail(f"The download of {task.name} ended by a bug; the log says which.")
            self._report(task)

    def _enter(self, task: "_Task", state: DownloadState) -> None:
        with self._lock:
            task.refuse_if_cancelled()
            task.state = state
        self._report(task)

    def _progress(self, task: "_Task", progress: DownloadProgress) -> None:
        now = self._clock()
        with self._lock:
            task.refuse_if_cancelled()
            is_news = task.take(progress, now)
        if is_news:
            self._report(task)

    def _report(self, task: "_Task") -> Download:
        with self._lock:
            row = self._row(task)
            if self._tasks.get(task.name) is not task:
                return row  # it was cancelled and started again since
            self._version += 1
            listeners = list(self._listeners)
        for listener in listeners:
            listener(row)
        return row

    def _row(self, task: "_Task") -> Download:
        with self._lock:
            return task.row(self._clock())


@dataclass
class Speed:
    """Bytes per second over the last `SPEED_SECONDS`."""

    _samples: deque[tuple[float, int]] = field(default_factory=deque)
    _last: int = 0

    def add(self, at: float, count: int) -> None:
        """`count` bytes in all had come at a time in seconds."""
        if not self._samples or at - self._samples[-1][0] >= SPEED_SECONDS / 100:
            self._samples.append((at, count))
        self._last = count

    def now(self, at: float) -> float | None:
        """None before there is anything to go by."""
        while len(self._samples) > 1 and self._samples[1][0] <= at - SPEED_SECONDS:
            self._samples.popleft()
        if not self._samples or at - self._samples[0][0] < FIRST_SPEED_SECONDS:
            return None
        start, count = self._samples[0]
        return (self._last - count) / (at - start)

    def forget(self) -> None:
        self._samples.clear()


@dataclass
class _Task:
    """One download, as far as the thread has come."""

    name: str
    places: Checkpoints
    state: DownloadState = "waiting"
    progress: DownloadProgress = field(default_factory=lambda: DownloadProgress("", 0, 0))
    speed: Speed = field(default_factory=Speed)
    failure: str = ""
    reported: float = 0.0

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def folder(self) -> Path:
        return self.places.root / self.name

    def refuse_if_cancelled(self) -> None:
        if self.state == "cancelled":
            raise Cancelled("The download was cancelled.")

    def fail(self, sentence: str) -> None:
        """What goes wrong after a cancel is of no interest."""
        if self.state != "cancelled":
            self.state, self.failure = "failed", sentence

    def take(self, progress: DownloadProgress, now: float) -> bool:
        """Note a progress; whether it is worth a report."""
        before = self.state, self.progress.file
        if progress.fetched > self.progress.fetched:
            self.state = "downloading"
            self.speed.add(now, progress.fetched)
        elif progress.done > self.progress.done:
            self.state = "checking"
            self.speed.forget()
        self.progress = progress
        is_news = (self.state, progress.file) != before or now - self.reported >= REPORT_SECONDS
        if is_news:
            self.reported = now
        return is_news

    def row(self, now: float) -> Download:
        speed = self.speed.now(now) if self.state == "downloading" else None
        left = self.progress.missing / speed if speed else None
        return Download(
            name=self.name,
            state=self.state,
            folder=self.folder,
            done=self.progress.done,
            total=self.progress.total,
            speed=speed,
            seconds_left=left,
            file=self.progress.file,
            sentence=self._sentence(speed, left),
        )

    def _sentence(self, speed: float | None, left: float | None) -> str:
        amount = f"{size_text(self.progress.done)} of {size_text(self.progress.total)}"
        match self.state:
            case "waiting":
                return "Waits for the download before it."
            case "planning":
                return f"Asking the hub for the files of {self.name}."
            case "checking":
                return f"Checking {self.progress.file} · {amount}"
            case "downloading":
                pace = [] if speed is None else [f"{size_text(speed)}/s"]
                rest = [] if left is None else [f"{_time_text(left)} left"]
                return " · ".join([amount, *pace, *rest])
            case "done":
                return f"{self.name} is in {self.folder}, and every file was checked."
            case "cancelled":
                return f"Stopped at {amount}; the next download goes on from there."
            case "failed":
                return self.failure


def _time_text(seconds: float) -> str:
    """Seconds as people say them, the smaller unit left out where it does not matter."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
