"""The list that every page shows: what runs, waits and has ended, read from the engine's jobs.

Pages ask what changed since they last asked, by plain routes beside Gradio, because its queue
would let a page's question wait behind others. A row is text, numbers and ids: no HTML, and no
path of this computer.
"""

import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from acestep.config import ServiceConfig
from acestep.engine.engine import Change, Engine, EngineState
from acestep.engine.jobs import Event, Job, Take
from acestep.errors import InvalidRequest, OutOfMemory, Unavailable
from acestep.progress import Stage
from acestep.request import TASKS

SHOWN_AT_FIRST = 20  # ended jobs; the others come when they are asked for
LONGEST_SUMMARY = 90  # characters of what was asked for
STAGE_WORDS: Mapping[Stage, str] = {
    "loading": "Loading the model",
    "reading": "Reading the audio",
    "planning": "Planning the song",
    "conditioning": "Reading caption and lyrics",
    "rendering": "Rendering",
    "decoding": "Decoding",
    "checking": "Checking",
    "saving": "Saving",
}
UNIT_OF_STAGE: Mapping[Stage, str] = {"planning": "token", "rendering": "step"}
IN_PERCENT: frozenset[Stage] = frozenset({"loading", "decoding"})
LIGHTER = ("offload_dit", "int8")  # settings that make a song need less memory
ACTION_WORDS = {"plan": "Plan", "understand": "Estimate of BPM and key"}


@dataclass(frozen=True)
class TakeRow:
    """A finished take, as sentences and as addresses of its files.

    Attributes:
        name: of the file, with its folder below the one that songs go to.
        notes: its warnings.
        download: the words on the button.
    """

    name: str
    facts: Sequence[str]
    notes: Sequence[str]
    download: str
    song: str
    recipe: str


@dataclass(frozen=True)
class Retry:
    """A setting that would make a song that ran out of memory need less, and the words on its
    button."""

    setting: str
    words: str


@dataclass(frozen=True)
class Row:
    """A job as the page shows it.

    Attributes:
        order: rows with a higher one stand further up.
        said: where it is or how it ended, in words.
        done, total: how far the stage is; None where that is not known.
        seconds: since it began, or that it took.
        retries: what may be turned on to run it again; empty unless it ran out of memory.
        is_gone: it is not shown any more.
    """

    id: str
    order: float
    state: str
    title: str
    asked: str
    said: str
    done: int | None
    total: int | None
    seconds: float
    takes: Sequence[TakeRow]
    can_cancel: bool
    can_rerun: bool
    retries: Sequence[Retry]
    is_gone: bool


class Live:
    """The engine's jobs in the order of their last change.

    Its versions begin at the clock's milliseconds, so that those of a page's earlier server are
    below them and such a page gets every row again.

    Args:
        output_dir: songs are named by their place below it.
    """

    def __init__(self, engine: Engine, output_dir: Path) -> None:
        self._engine = engine
        self._output_dir = output_dir
        self._lock = threading.Lock()
        self._version = self._born = int(time.time() * 1000)
        self._jobs: OrderedDict[str, tuple[int, Job]] = OrderedDict()
        self._unfinished: dict[str, Job] = {}
        self._cancelling: set[str] = set()
        self.close = engine.subscribe(self._hear)
        with self._lock:
            for job in reversed(engine.jobs()):
                if job.id not in self._jobs:
                    self._put(job)

    def _hear(self, change: Change) -> None:
        with self._lock:
            if isinstance(change, Job):
                self._put(change)
            if not isinstance(change, Job) or change.is_over:
                for job in list(self._unfinished.values()):
                    self._put(job)  # its place in the queue changed, or what it waits for

    def _put(self, job: Job) -> None:
        self._version += 1
        self._jobs[job.id] = (self._version, job)
        self._jobs.move_to_end(job.id)
        if job.is_over:
            self._unfinished.pop(job.id, None)
            self._cancelling.discard(job.id)
        else:
            self._unfinished[job.id] = job

    def since(self, version: int, *, every: bool = False) -> dict[str, Any]:
        """What changed after a version, as JSON data. A page that knows nothing yet gets the
        newest of the jobs that ended, unless it asks for `every` one."""
        state = self._engine.state
        with self._lock:
            changed: list[Job] = []
            for at, job in reversed(self._jobs.values()):
                if at <= version:
                    break
                changed.append(job)
            kept = changed if every or version >= self._born else _newest(changed)
            queue = sorted(self._unfinished.values(), key=lambda job: job.created)
            now = self._version
        # Not under the lock: a row may ask the engine, which may be telling this of a change.
        return {
            "life": str(self._born),
            "version": now,
            "older": len(changed) - len(kept),
            "engine": _engine(state),
            "rows": [asdict(self._row(job, queue, state)) for job in kept],
        }

    def _row(self, job: Job, queue: Sequence[Job], state: EngineState) -> Row:
        ahead = next((place for place, other in enumerate(queue) if other.id == job.id), 0)
        event = job.events[-1] if job.state == "running" and job.events else None
        return Row(
            id=job.id,
            order=job.created,
            state=job.state,
            title=_title(job),
            asked=_asked(job.request),
            said=(
                "Cancelling"
                if job.id in self._cancelling
                else said(job, ahead=ahead, is_loading=state.status == "loading")
            ),
            done=event.done if event else None,
            total=max(event.total, 1) if event else None,
            seconds=_seconds(job),
            takes=[self._take(job, number) for number in range(len(_takes(job)))],
            can_cancel=not job.is_over,
            can_rerun=job.state in ("failed", "lost"),
            retries=self._retries(job),
            is_gone=_is_gone(job),
        )

    def _retries(self, job: Job) -> Sequence[Retry]:
        """The settings that save memory, are off, and would act."""
        if job.failure is None or job.failure.type != OutOfMemory.__name__:
            return ()
        config = _config_of(job, self._engine)
        if config is None:
            return ()
        idle = {name for name, note in self._engine.notes(config).items() if not note.acts}
        return [
            Retry(name, f"Retry with {type(config).model_fields[name].title}")
            for name in LIGHTER
            if not getattr(config, name) and name not in idle
        ]

    def retry(self, id: str, setting: str) -> Job:
        """Run a job again with a setting turned on that saves memory. Where the job ran under what
        is still chosen, that is chosen from now on.

        Raises:
            Unavailable: there is no such job, it did not run out of memory, or this saves none.
        """
        job = self._engine.job(id)
        config = _config_of(job, self._engine)
        if config is None or setting not in [each.setting for each in self._retries(job)]:
            raise Unavailable("This would not make the song need less memory.")
        lighter = config.model_copy(update={setting: True})
        if self._engine.state.config == config:
            self._engine.configure(lighter)
        return self._engine.rerun(id, lighter)

    def _take(self, job: Job, number: int) -> TakeRow:
        take = _takes(job)[number]
        path = Path(take.path)
        known = path.is_relative_to(self._output_dir)
        work = " · ".join(f"{stage} {seconds:.1f} s" for stage, seconds in take.seconds.items())
        about = f"Take {take.take + 1} · seed {take.seed} · {take.duration:.1f} s of music"
        return TakeRow(
            name=(path.relative_to(self._output_dir) if known else PurePath(path.name)).as_posix(),
            facts=[about, *([work] if work else []), *take.said],
            notes=list(take.warnings),
            download=f"Download {path.suffix[1:].upper()}",
            song=f"live/song/{job.id}/{number}",
            recipe=f"live/recipe/{job.id}/{number}",
        )

    def cancel(self, id: str) -> None:
        """End a job, whoever asked for it.

        Raises:
            Unavailable: there is none with this id.
        """
        self._engine.job(id)
        with self._lock:
            if id in self._unfinished:
                self._cancelling.add(id)
                self._put(self._unfinished[id])
        self._engine.cancel(id)


def said(job: Job, *, ahead: int = 0, is_loading: bool = False) -> str:
    """Where a job is or how it ended, in words: `ahead` jobs are before it."""
    if job.failure is not None and job.state in ("failed", "lost"):
        return ("Lost: " if job.state == "lost" else "") + job.failure.message
    if job.state == "waiting":
        if ahead:
            return f"Waiting: {ahead} {'run' if ahead == 1 else 'runs'} before this one"
        return STAGE_WORDS["loading"] if is_loading else "Starting"
    if job.state == "running":
        return stage(job.events[-1]) if job.events else "Starting"
    if job.state == "done":
        music = sum(take.duration for take in _takes(job))
        return f"Done: {music:.0f} s of music in {_seconds(job):.1f} s."
    return {"cancelled": "Cancelled.", "failed": "Failed."}.get(job.state, "Lost.")


def stage(event: Event) -> str:
    """A stage and how far it is, in words."""
    words = STAGE_WORDS[event.stage]
    unit = UNIT_OF_STAGE.get(event.stage)
    if event.total > 1 and event.stage in IN_PERCENT:
        return f"{words}: {100 * event.done // event.total} %"
    if event.total <= 1 or unit is None:
        return words
    return f"{words}: {unit} {event.done:,} of {event.total:,}"


def engine_line(state: EngineState) -> str:
    """What the engine is about, in one line."""
    asked = PurePath(state.config.model).name
    if state.waiting_for is not None:
        return f"Switches to {asked} after the running song"
    if state.status == "loading":
        at = state.loading
        share = f": {100 * at.done // at.total} %" if at is not None and at.total > 1 else " …"
        return f"Loading {asked}{share}"
    if state.status == "failed":
        why = state.failure.message if state.failure else "The model could not be loaded."
        return f"Not ready. {why}"
    if state.loaded is None:
        return f"Not loaded: {asked}"
    return f"Ready · {state.loaded.model} · {state.loaded.device}"


def _engine(state: EngineState) -> dict[str, Any]:
    """The line at the top, and a mark that changes whenever the forms are to be fitted anew."""
    config = zlib.crc32(state.config.model_dump_json().encode())
    return {
        "said": engine_line(state),
        "planner": state.loaded.planner if state.loaded else "",
        "busy": state.status == "loading" or state.waiting_for is not None,
        "mark": f"{state.version} {state.status} {state.waiting_for} {config}",
    }


def _config_of(job: Job, engine: Engine) -> ServiceConfig | None:
    """What a job ran under; None where another version of the program wrote that."""
    try:
        return type(engine.state.config).model_validate(job.config)
    except InvalidRequest:
        return None


def _newest(jobs: Sequence[Job]) -> list[Job]:
    """Those that are not over, and the newest of those that are."""
    over = sorted((job for job in jobs if job.is_over), key=lambda job: job.created, reverse=True)
    kept = [job for job in over if not _is_gone(job)][:SHOWN_AT_FIRST]
    return [*(job for job in jobs if not job.is_over), *kept]


def _is_gone(job: Job) -> bool:
    """Whether there is nothing to show of a job that has no song."""
    return job.action != "render" and job.state in ("done", "cancelled")


def _title(job: Job) -> str:
    if job.action in ACTION_WORDS:
        return ACTION_WORDS[job.action]
    task = str(job.request.get("task"))
    return TASKS[task].title if task in TASKS else task


def _asked(request: Mapping[str, Any]) -> str:
    """What a request asks for, in a few words."""
    words = " ".join(str(request.get("caption") or request.get("lyrics") or "").split())
    return words if len(words) <= LONGEST_SUMMARY else words[: LONGEST_SUMMARY - 1] + "…"


def _seconds(job: Job) -> float:
    began = job.started if job.started is not None else job.created
    return max((job.ended if job.ended is not None else time.time()) - began, 0.0)


def _takes(job: Job) -> Sequence[Take]:
    return job.outcome.takes if job.outcome else ()


def song_of(engine: Engine, id: str, number: int) -> Path:
    """The file of a take.

    Raises:
        Unavailable: there is no such take, or its file is gone.
    """
    takes = _takes(engine.job(id))
    if not 0 <= number < len(takes):
        raise Unavailable("There is no such take.")
    return _there(Path(takes[number].path))


def recipe_of(engine: Engine, id: str, number: int) -> Path:
    """The recipe that was saved beside a take.

    Raises:
        Unavailable: there is no such take, or no recipe beside it.
    """
    return _there(song_of(engine, id, number).with_suffix(".json"))


def _there(path: Path) -> Path:
    if not path.is_file():
        raise Unavailable(f"{path.name} is no longer where it was saved.")
    return path
