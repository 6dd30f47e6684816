"""What makes the music for an engine: the service in this process, or in a process of its own."""

import gc
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from acestep.config import ServiceConfig
from acestep.engine.engine import Loaded
from acestep.engine.jobs import Job, Outcome, Take
from acestep.errors import EngineStopped
from acestep.library.output_paths import Destination
from acestep.progress import CancelToken, Progress
from acestep.request import Plan, Preset, parse_request
from acestep.request.asked import Recording

if TYPE_CHECKING:
    from acestep.library.track import Track

OnProgress = Callable[[Progress], None]

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """Loads one configuration at a time and runs one job at a time, for one thread."""

    def watch(self, on_stopped: Callable[[EngineStopped], None]) -> None:
        """Whom to tell, from any thread, when what was loaded is gone and nobody unloaded it."""
        ...

    def load(self, config: ServiceConfig, on_progress: OnProgress) -> Loaded:
        """Read the networks of a configuration, after letting go of what was loaded before.

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
    def model(self) -> str: ...
    @property
    def preset(self) -> Preset: ...
    @property
    def has_planner(self) -> bool: ...
    @property
    def planner_engine(self) -> str: ...
    @property
    def device_name(self) -> str: ...
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
        self.unload()
        started = time.perf_counter()
        service = self._service = self._load_service(config, on_progress)
        return Loaded(
            model=service.model,
            preset=service.preset,
            has_planner=service.has_planner,
            planner=service.planner_engine,
            device=service.device_name,
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
