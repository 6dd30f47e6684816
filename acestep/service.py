"""One studio: the loaded networks, one request at a time, with progress and cancel."""

import dataclasses
import logging
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch

import acestep
from acestep import pipeline
from acestep.checkpoints.folder import fingerprint
from acestep.checkpoints.locate import Checkpoints
from acestep.config import AUTO, DEFAULT_MODEL, ServiceConfig, split_strength
from acestep.errors import AceStepError, InvalidRequest, OutOfMemory, Unavailable, UnsoundResult
from acestep.library.latents import sample_hash
from acestep.library.source import Source, read_source
from acestep.library.track import Track
from acestep.media import audio_checks
from acestep.pipeline import Rendering
from acestep.progress import CancelToken, OnProgress, Reporter
from acestep.request import MusicRequest, Plan, Preset
from acestep.runtime import devices
from acestep.runtime.adapter_files import Adapter, read_adapter
from acestep.runtime.adapter_folder import adapters_folder, find_adapter
from acestep.runtime.folders import find_folders
from acestep.runtime.memory_plan import Demand, MemoryPlan, Wishes, plan_memory
from acestep.runtime.sizes import Sizes
from acestep.runtime.store import ModelStore, StoreSettings, open_store
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
        self._sizes = Sizes.read(store.settings.folders)
        self._wishes = Wishes.of(config)
        self._adapters: Sequence[tuple[Adapter, float]] = ()
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
        on_progress: OnProgress | None = None,
        **settings: Any,
    ) -> Self:
        """Find a checkpoint and read its networks, where the memory plan has them.

        Args:
            config: how the service runs; or only the model, as a published name, one of ours, or a
                folder, with `settings` as the other fields of a `ServiceConfig`.

        Raises:
            InvalidRequest: a setting is unknown or cannot be.
            OutOfMemory: the networks do not fit, however they take turns.
            ModelMissing, CheckpointError, Unavailable
        """
        if not isinstance(config, ServiceConfig):
            config = ServiceConfig(model=str(config), **settings)
        places = Checkpoints(config.checkpoints)
        folders = find_folders(config, places)
        preset = places.preset(folders.dit)
        device = devices.resolve_device(config.device)
        planner_device = None
        if config.lm_device != AUTO:
            planner_device = devices.resolve_device(config.lm_device)
        usual = Demand.usual(preset, has_planner=folders.lm is not None)
        hardware = devices.hardware(device, planner_device)
        plan = plan_memory(Sizes.read(folders), hardware, Wishes.of(config), usual)
        devices.limit_memory(device, config.memory_limit)
        settings_ = StoreSettings(
            folders,
            device=device,
            dtype=getattr(torch, plan.dtype),
            vae_dtype=getattr(torch, plan.vae_dtype),
            plan=plan,
            int8=config.int8,
            lm_weights="nf4" if config.lm_nf4 else "int8" if config.int8 else "plain",
            backend=config.backend,
            planner_device=planner_device,
        )
        service = cls(config, preset, open_store(settings_, Reporter(on_progress)))
        service.adapt(config)
        return service

    def adapt(self, config: ServiceConfig) -> None:
        """Change what can change without reading the networks again: the adapters of the DiT.

        Raises:
            ModelMissing: an adapter is not on this computer.
            CheckpointError: it does not fit this model, or cannot be trusted.
        """
        with self._lock:
            adapters = _chosen_adapters(config) if config.lora else []
            self._networks().adapt(adapters)
            self._adapters, self.config = adapters, config

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

    @property
    def adapters_said(self) -> list[str]:
        """What each adapter is and does, a sentence each."""
        return [effect.sentence for effect in self._networks().adapter_effects]

    @property
    def memory_said(self) -> str:
        """The plan that the networks are kept by, in one line; with INT8, what it costs."""
        store = self._networks()
        if (error := store.quantization_error) == 0:
            return store.plan.sentence()
        return f"{store.plan.sentence()} INT8 moves the DiT's weights by {error:.1%}."

    def prepare(self) -> None:
        """Do now what the first song with Think would have to wait for; costs seconds, once.

        A planner that is read anew for every plan is not read for this.
        """
        with self._lock:
            store = self._networks()
            if store.keeps_planner:
                with store.planner() as planner:
                    planner.prepare(self.preset)

    def plan_memory(self, request: MusicRequest, seconds: float | None = None) -> MemoryPlan:
        """Where the networks would be for a song, and what that takes; nothing is loaded for it.

        Args:
            seconds: length of the song that the request changes.
        """
        return self._planned(
            Demand.of(request, self.preset, has_planner=self.has_planner, seconds=seconds)
        )

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
        with self._lock, self._memory_explained("a shorter song"):
            store = self._networks(report)
            self._make_room(store, self.plan_memory(song))
            return store.attempt(lambda: pipeline.plan_song(song, self.preset, store, report))

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
            store = self._networks(report)
            codes = pipeline.source_codes(song, store, report)[0].tolist()

            def understand() -> Plan:
                with store.planner() as planner:
                    return planner.understand(codes, report, UNDERSTAND_SEED).plan

            heard = store.attempt(understand)
        return heard.model_copy(update={"duration": song.seconds, "codes": ()})

    def _source(self, request: MusicRequest, report: Reporter) -> Source | None:
        """The song that the request changes."""
        if request.source_file is None:
            return None
        report("reading", 0, 1)
        return self._read(request.source_file)

    def _read(self, path: Path) -> Source:
        return read_source(path, self._models["vae"]["fingerprint"])

    def _planned(self, demand: Demand) -> MemoryPlan:
        settings, store = self._settings, self._store
        held = {} if store is None else store.held_bytes
        hardware = devices.hardware(settings.device, settings.planner_device, held)
        return plan_memory(self._sizes, hardware, self._wishes, demand)

    def _make_room(self, store: ModelStore, plan: MemoryPlan) -> None:
        """Keep the networks where the plan has them.

        Raises:
            OutOfMemory: it does not fit; the plan says what would.
        """
        if not plan.fits:
            raise OutOfMemory(plan.sentence())
        logger.info("%s", plan.sentence())
        store.follow(plan)

    def _render(
        self, request: MusicRequest, source: Source | None, report: Reporter
    ) -> list[Track]:
        task, networks = ROOMS[request.name], self._networks(report)
        seconds = None if source is None else source.seconds
        self._make_room(networks, self.plan_memory(request, seconds))
        with self._memory_explained("fewer takes or a shorter song"):
            rendering = pipeline.generate(request, task, self.preset, networks, report, source)
        report("checking", 0, request.takes)
        return [self._finish(task, rendering, take, source) for take in range(request.takes)]

    def _networks(self, report: Reporter | None = None) -> ModelStore:
        """The loaded networks; read again if a second try has let them go."""
        if self._store is None:
            self._wishes = Wishes.of(self.config)
            self._open(self._settings, report or Reporter())
        assert self._store is not None
        return self._store

    def _load_float32(self, unsound: UnsoundResult, report: Reporter) -> None:
        """The same networks in the safest dtype; the old ones are let go first.

        Raises:
            AceStepError: they cannot be had; the next run begins with the usual ones again.
        """
        self._networks().close()
        self._store = None
        self._wishes = dataclasses.replace(self._wishes, float32=True)
        try:
            plan = self._planned(Demand.usual(self.preset, has_planner=self.has_planner))
            self._open(self._settings.in_float32(plan), report)
        except AceStepError as error:
            error.add_note(str(unsound))
            raise

    def _open(self, settings: StoreSettings, report: Reporter) -> None:
        store = open_store(settings, report)
        store.adapt(self._adapters)
        self._store = store

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
            warnings=[
                *request.warnings(),
                *(f"Memory ran out. {sentence}" for sentence in rendering.traded),
            ],
            report=report,
            latents=_kept_latents(rendering, take),
            recipe={
                "request": request.model_dump(mode="json"),
                "take": take,
                "models": self._models,
                "service": self.config.recorded(),
                **(
                    {"adapters": [_recorded(*each) for each in self._adapters]}
                    if self._adapters
                    else {}
                ),
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


def _chosen_adapters(config: ServiceConfig) -> list[tuple[Adapter, float]]:
    """The adapters that a configuration names, each with its strength.

    Raises:
        ModelMissing, CheckpointError: one cannot be had.
    """
    folder = adapters_folder(Checkpoints(config.checkpoints).root)
    chosen = []
    for lora in config.lora:
        name, own = split_strength(lora)
        strength = config.lora_strength if own is None else own
        chosen.append((read_adapter(find_adapter(name, folder)), strength))
    return chosen


def _kept_latents(rendering: Rendering, take: int) -> Latents | None:
    """What to keep of a take for edits to come: frames that begin with its first sample."""
    timeline = rendering.timeline
    if timeline.offset:
        return None
    return rendering.latents[take : take + 1, : timeline.song_frames].clone()


def _recorded(adapter: Adapter, strength: float) -> dict[str, Any]:
    """What a recipe keeps of an adapter: enough to find it again, or to say which is missing."""
    return {
        "name": adapter.name,
        "path": str(adapter.path),
        "sha256": adapter.fingerprint,
        "strength": strength,
    }
