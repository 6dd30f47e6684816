"""One studio: the loaded networks, one request at a time, with progress and cancel."""

import dataclasses
import logging
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch

import acestep
from acestep import pipeline
from acestep.checkpoints.folder import fingerprint
from acestep.checkpoints.locate import Checkpoints
from acestep.config import AUTO, DEFAULT_MODEL, NO_LM, ServiceConfig
from acestep.errors import AceStepError, InvalidRequest, OutOfMemory, Unavailable, UnsoundResult
from acestep.library.latents import sample_hash
from acestep.library.source import Source, read_source
from acestep.library.track import Track
from acestep.media import audio_checks
from acestep.pipeline import Rendering
from acestep.progress import CancelToken, OnProgress, Reporter
from acestep.request import MusicRequest, Plan, Preset
from acestep.runtime import devices
from acestep.runtime.store import Folders, ModelStore, Policy, StoreSettings
from acestep.seeds import take_seed
from acestep.tasks import ROOMS
from acestep.tasks.base import Task
from acestep.types import Latents

logger = logging.getLogger(__name__)

UNDERSTAND_SEED = 0  # any, but always the same


class MusicService:
    """Turns requests into tracks. May be called from any thread: runs wait for each other.

    Attributes:
        config: what the service was loaded with.
        preset: what that checkpoint was made for; fills what a request leaves open.
    """

    def __init__(self, config: ServiceConfig, preset: Preset, store: ModelStore) -> None:
        self.config = config
        self.preset = preset
        self._lock = threading.Lock()
        self._store: ModelStore | None = store
        self._settings = store.settings
        self._models = {
            part: {"name": folder.name, "fingerprint": fingerprint(folder)}
            for part, folder in dataclasses.asdict(store.settings.folders).items()
            if folder is not None
        }

    @classmethod
    def load(
        cls,
        config: ServiceConfig | str | Path = DEFAULT_MODEL,
        *,
        policy: Policy | None = None,
        on_progress: OnProgress | None = None,
        **settings: Any,
    ) -> Self:
        """Find a checkpoint and read its networks.

        Args:
            config: how the service runs; or only the model, as a published name, one of ours, or a
                folder, with `settings` as the other fields of a `ServiceConfig`.
            policy: keep every network on the device, or swap them in one at a time; None keeps
                them when they fit.

        Raises:
            InvalidRequest: a setting is unknown or cannot be.
            ModelMissing, CheckpointError, Unavailable
        """
        if not isinstance(config, ServiceConfig):
            config = ServiceConfig(model=str(config), **settings)
        places = Checkpoints(config.checkpoints)
        folder = places.resolve(config.model, "dit")
        companions = places.companions(folder)
        folders = Folders(
            folder, companions.vae, companions.text_encoder, _planner_folder(config, places, folder)
        )
        device = devices.resolve_device(config.device)
        store = ModelStore(
            StoreSettings(
                folders,
                device=device,
                dtype=devices.working_dtype(device),
                policy=policy or devices.fitting_policy(device, folders),
                backend=config.backend,
                planner_device=device
                if config.lm_device == AUTO
                else devices.resolve_device(config.lm_device),
            ),
            Reporter(on_progress),
        )
        return cls(config, places.preset(folder), store)

    @property
    def model(self) -> str:
        """The name or path of the music model."""
        return self.config.model

    @property
    def has_planner(self) -> bool:
        """Whether Think can be asked for."""
        return self._settings.folders.lm is not None

    @property
    def planner_engine(self) -> str:
        """What plans the songs and on which engine, for the page; empty without a planner."""
        return self._networks().planner_engine

    @property
    def device_name(self) -> str:
        return devices.device_name(self._settings.device)

    def prepare(self) -> None:
        """Do now what the first song with Think would have to wait for; costs seconds, once.

        A planner that is read anew for every plan (swap) is not read for this.
        """
        if self.has_planner and self._settings.policy == "keep":
            with self._lock, self._networks().planner() as planner:
                planner.prepare(self.preset)

    def run(
        self,
        request: MusicRequest,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
    ) -> list[Track]:
        """Render a request: one checked track per take.

        Raises:
            InvalidRequest: this checkpoint cannot do what the request asks.
            AudioError: a recording the request names cannot be used.
            OutOfMemory: the song does not fit; the sentence says what helps.
            UnsoundResult: silence, NaN or a wrong length, twice.
            Cancelled: `cancel` was set; nothing is kept.
        """
        request.check(self.preset, has_planner=self.has_planner)
        report = Reporter(on_progress, cancel)
        with self._lock:
            request = request.seeded()  # before a second try, which is to make the same song
            source = self._source(request, report)
            try:
                return self._render(request, source, report)
            except UnsoundResult as error:
                if self._networks().is_float32:
                    raise
                logger.warning("%s Trying once more in float32.", error)
                self._load_float32(error, report)
                return self._render(request, source, report)

    def plan(
        self,
        request: MusicRequest,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
    ) -> Plan:
        """What the planner would make of a request: to be read, edited and sent back with it.

        Raises:
            InvalidRequest: there is no planner, the checkpoint cannot do what is asked, or the
                request is for a repaint or a cover.
            OutOfMemory, UnsoundResult, Cancelled: as `run`.
        """
        song = request.to_plan(has_planner=True)
        if song is None:
            raise InvalidRequest(
                "task", "The 5Hz LM plans new songs only, and only those that have no plan yet."
            )
        song = song.model_copy(update={"think": True})
        song.check(self.preset, has_planner=self.has_planner)
        report = Reporter(on_progress, cancel)
        with (
            self._lock,
            self._memory_explained("a shorter song"),
            self._networks(report).planner() as planner,
        ):
            return planner.plan(song, self.preset, report)

    def understand(
        self,
        source: Path,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
    ) -> Plan:
        """What the planner hears in a recording: tempo, key, time signature, language, a caption.

        Its guess, to be offered and not trusted; the same file gives the same answer. The duration
        is the recording's own, and there are no codes.

        Raises:
            AudioError: the recording cannot be used.
            Unavailable: there is no planner.
            OutOfMemory, UnsoundResult, Cancelled: as `run`.
        """
        if not self.has_planner:
            raise Unavailable(
                "Understanding a song needs a 5Hz LM, and none is loaded: choose one as 5Hz LM "
                "Model Path (--lm)."
            )
        report = Reporter(on_progress, cancel)
        with self._lock, self._memory_explained("a shorter recording"):
            report("reading", 0, 1)
            song = self._read(source)
            codes = pipeline.source_codes(song, self._networks(report), report)
            with self._networks(report).planner() as planner:
                heard = planner.understand(codes[0].tolist(), report, UNDERSTAND_SEED).plan
        return heard.model_copy(update={"duration": song.seconds, "codes": ()})

    def _source(self, request: MusicRequest, report: Reporter) -> Source | None:
        """The song that the request changes."""
        if request.source_file is None:
            return None
        report("reading", 0, 1)
        return self._read(request.source_file)

    def _read(self, path: Path) -> Source:
        return read_source(path, self._models["vae"]["fingerprint"])

    def _render(
        self, request: MusicRequest, source: Source | None, report: Reporter
    ) -> list[Track]:
        task, networks = ROOMS[request.name], self._networks(report)
        with self._memory_explained("fewer takes or a shorter song"):
            rendering = pipeline.generate(request, task, self.preset, networks, report, source)
        report("checking", 0, request.takes)
        return [self._finish(task, rendering, take, source) for take in range(request.takes)]

    def _networks(self, report: Reporter | None = None) -> ModelStore:
        """The loaded networks; read again if a second try has let them go."""
        if self._store is None:
            self._store = ModelStore(self._settings, report or Reporter())
        return self._store

    def _load_float32(self, unsound: UnsoundResult, report: Reporter) -> None:
        """The same networks in the safest dtype; the old ones are let go first.

        Raises:
            AceStepError: they cannot be had; the next run begins with the usual ones again.
        """
        self._networks().close()
        self._store = None
        try:
            with self._memory_explained("a smaller model"):
                self._store = ModelStore(self._settings.in_float32(), report)
        except AceStepError as error:
            error.add_note(str(unsound))
            raise

    @contextmanager
    def _memory_explained(self, less: str) -> Iterator[None]:
        """Say what helps when the device runs out of memory; `less` is what to ask for."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not devices.is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"Out of memory on {self.device_name}. Ask for {less}" + "."
            ) from error

    def _finish(
        self, task: Task[Any], rendering: Rendering, take: int, source: Source | None
    ) -> Track:
        """Check what is new, bring it to level, join it to the source: one finished take."""
        resolved, timeline = rendering.request, rendering.timeline
        request = resolved.asked
        started = time.perf_counter()
        decoded = rendering.waveform[take]
        new = timeline.new_sound(decoded)
        if problem := audio_checks.check_audio(new, timeline.new_samples).problem():
            raise UnsoundResult(problem)
        waveform, report = task.finish(resolved, decoded, timeline, source)
        seconds = {**rendering.seconds, "checking": time.perf_counter() - started}
        examined = audio_checks.check_audio(waveform, timeline.samples)
        return Track(
            waveform=waveform,
            request=request,
            take=take,
            seed=take_seed(resolved.seed, take),
            seconds=seconds,
            health=examined,
            warnings=request.warnings(),
            report=report,
            latents=_kept_latents(rendering, take),
            recipe={
                "request": request.model_dump(mode="json"),
                "take": take,
                "models": self._models,
                "service": self.config.recorded(),
                "versions": {
                    "acestep": acestep.__version__,
                    "torch": torch.__version__,
                    "python": platform.python_version(),
                },
                "device": self.device_name,
                "dtype": str(self._networks().settings.dtype).removeprefix("torch."),
                "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
                "sha256": sample_hash(waveform),
                "health": examined.to_dict(),
                **({} if source is None else {"source": source.to_dict()}),
                **({} if report is None else {"report": report.to_dict()}),
            },
        )


def _kept_latents(rendering: Rendering, take: int) -> Latents | None:
    """What to keep of a take for edits to come: frames that begin with its first sample."""
    timeline = rendering.timeline
    if timeline.offset:
        return None
    return rendering.latents[take : take + 1, : timeline.song_frames].clone()


def _planner_folder(config: ServiceConfig, places: Checkpoints, model: Path) -> Path | None:
    """The 5Hz LM that plans for a model; None where there is none, or none is wanted."""
    if config.lm == NO_LM:
        return None
    return places.planner(model) if config.lm == AUTO else places.resolve(config.lm, "lm")
