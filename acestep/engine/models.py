"""What the doors may ask of models: which there are, whether a choice can be loaded, downloads.

Knows folders and files; imports neither torch nor, until it must, the hub's client. Nothing here
uses the network but a download that somebody started.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from acestep.checkpoints.download import (
    DownloadPlan,
    DownloadProgress,
    download,
    plan,
    to_download,
    verify,
)
from acestep.checkpoints.files import CONFIG_FILE, KIND_NAMES, STEMS, Kind, size_text
from acestep.checkpoints.folder import problems
from acestep.checkpoints.headers import pickled
from acestep.checkpoints.hub import Hub
from acestep.checkpoints.locate import Checkpoints, Installed, is_path
from acestep.config import AUTO, NO_LM
from acestep.errors import AceStepError, Cancelled, CheckpointError, ModelMissing

__all__ = [
    "KIND_NAMES",
    "Checkpoints",
    "Download",
    "DownloadPlan",
    "DownloadProgress",
    "Downloads",
    "Kind",
    "ModelRow",
    "check",
    "download",
    "plan",
    "rows",
    "size_text",
    "verify",
]

Presence = Literal["present", "incomplete", "downloadable", "missing"]
MARKS = {"present": "✔", "incomplete": "!", "downloadable": "⬇", "missing": "–"}
DownloadState = Literal[
    "waiting", "planning", "downloading", "checking", "done", "failed", "cancelled"
]
OVER: frozenset[DownloadState] = frozenset({"done", "failed", "cancelled"})
SPEED_SECONDS = 10.0  # the speed shown is that of the last ten seconds
FIRST_SPEED_SECONDS = 0.5  # before which it would be a guess
REPORT_SECONDS = 0.25  # between two reports of the same file


class ModelRow(BaseModel):
    """One model in a list.

    Attributes:
        kind: None when the folder's configuration is of no known network.
        presence: downloadable and missing are not on this computer; what is missing ships with the
            program and should be. What is incomplete may be finished by a download.
        size: bytes on disk, or of the model's own files when it is not here; None when unknown.
        download: bytes of a whole download, companions that lack included; None when there is
            nothing to download.
        problem: why it cannot be loaded; empty when it can, or when it is only not here.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind | None
    presence: Presence
    folder: Path | None = None
    size: int | None = None
    download: int | None = None
    description: str = ""
    problem: str = ""

    @property
    def label(self) -> str:
        """How a list shows it: ⬇ acestep-v15-base (4.8 GB)."""
        about = {
            "present": "",
            "incomplete": " (incomplete)",
            "downloadable": f" ({size_text(self.download or 0)})",
            "missing": " (missing)",
        }
        return f"{MARKS[self.presence]} {self.name}{about[self.presence]}"


def rows(places: Checkpoints, kind: Kind | None = None) -> list[ModelRow]:
    """Every known model, then the folders that nobody knows; of one kind, or of all."""
    return [
        _row(installed, places)
        for installed in places.installed()
        if kind is None or installed.kind == kind
    ]


def check(name_or_path: str, kind: Kind, places: Checkpoints) -> str | None:
    """Why a choice cannot be loaded, in one sentence; None when it can.

    Reads configurations and headers: quick enough for every change of a text field.
    """
    if kind == "lm" and name_or_path in (AUTO, NO_LM):
        return None
    if not name_or_path.strip():
        return f"Choose a {KIND_NAMES[kind]}: a name or a folder."
    try:
        folder = places.find(name_or_path)
        if folder is None:
            return _not_found(name_or_path, kind, places)
        if sentence := _no_checkpoint(folder, kind, places):
            return sentence
        places.resolve(name_or_path, kind)
        if kind == "dit":
            places.companions(name_or_path)
    except (ModelMissing, CheckpointError) as error:
        return str(error)
    return None


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
            if task is None or task.is_over:
                task = _Task(name, places)
                self._tasks.pop(name, None)
                self._tasks[name] = task
                self._queue.append(task)
                self._work_on()
        self._report(task)
        return self._row(task)

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

    def _report(self, task: "_Task") -> None:
        with self._lock:
            if self._tasks.get(task.name) is not task:
                return  # it was cancelled and started again since
            self._version += 1
            row = self._row(task)
            listeners = list(self._listeners)
        for listener in listeners:
            listener(row)

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


def _row(installed: Installed, places: Checkpoints) -> ModelRow:
    problem = _problem(installed, places)
    entry = places.catalogue.models.get(installed.name)
    can_come = entry is not None and entry.repo is not None
    if installed.folder is not None:
        presence = "incomplete" if problem else "present"
    else:
        presence = "downloadable" if can_come else "missing"
    return ModelRow(
        name=installed.name,
        kind=installed.kind,
        presence=presence,
        folder=installed.folder,
        size=installed.size,
        download=_download_size(installed, places) if can_come and presence != "present" else None,
        description=installed.description,
        problem=problem,
    )


def _problem(installed: Installed, places: Checkpoints) -> str:
    if installed.folder is None:
        return ""
    if installed.problems:
        return _unfinished(installed.folder) or installed.problems[0]
    if installed.kind == "dit":
        try:
            places.companions(installed.folder)
        except (ModelMissing, CheckpointError) as error:
            return str(error)
    return ""


def _download_size(installed: Installed, places: Checkpoints) -> int:
    """What is complete is not counted; a DiT may lack its companions alone."""
    names = to_download(installed.name, places)
    if installed.state == "ready":
        names = names[1:]
    return sum(places.catalogue.models[name].size or 0 for name in names)


def _unfinished(folder: Path) -> str:
    if not any(folder.glob("*.part")):
        return ""
    return f"The download of {folder.name} is not finished: start it again to go on from there."


def _not_found(name_or_path: str, kind: Kind, places: Checkpoints) -> str:
    entry = places.catalogue.models.get(name_or_path)
    if entry is not None and entry.kind == kind and entry.size is not None:
        return f"{name_or_path} is not on this computer ({size_text(entry.size)}). Download it."
    if entry is not None and entry.kind != kind:
        return f"{name_or_path} is a {KIND_NAMES[entry.kind]}, not a {KIND_NAMES[kind]}."
    if entry is not None or is_path(name_or_path):
        path = Path(name_or_path).expanduser()
        is_file = entry is None and path.is_file()
        return f"{path} is a file: choose its folder." if is_file else places.missing(name_or_path)
    known = [name for name, row in places.catalogue.models.items() if row.kind == kind]
    return f"`{name_or_path}` was not found in {places.root}. Known names: {', '.join(known)}."


def _no_checkpoint(folder: Path, kind: Kind, places: Checkpoints) -> str | None:
    """Why a folder is none of the kind; None when its files are there."""
    found = places.kind(folder)
    if found not in (kind, None):
        return f"{folder.name} is a {KIND_NAMES[found]}, not a {KIND_NAMES[kind]}."
    if sentence := _unfinished(folder):
        return sentence
    weights = f"{STEMS[kind]}.safetensors"
    has_weights = (folder / weights).exists() or (folder / f"{weights}.index.json").exists()
    if not has_weights and (other := pickled(folder)):
        return f"Only .safetensors weights are loaded; found {other.name}."
    there = {weights: has_weights, CONFIG_FILE: (folder / CONFIG_FILE).is_file()}
    if missing := [name for name, is_there in there.items() if not is_there]:
        return f"This folder has no {' and '.join(missing)}."
    if found is None:
        return f"{folder.name} cannot be used: {problems(folder, None)[0]}"
    return None
