"""One studio: the loaded networks, one request at a time, with progress and cancel."""

import dataclasses
import logging
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch

import acestep
from acestep import audio, health, pipeline
from acestep.checkpoints import DEFAULT_MODEL, Checkpoints, fingerprint
from acestep.errors import OutOfMemory, Unavailable, UnsoundResult
from acestep.pipeline import Rendering
from acestep.planner.backends import BackendName
from acestep.progress import CancelToken, Progress, Reporter
from acestep.request import MusicRequest, Plan, Preset, Text2Music
from acestep.runtime import devices
from acestep.seeds import take_seed
from acestep.store import Folders, ModelStore, Policy
from acestep.track import Track, sample_hash

logger = logging.getLogger(__name__)

AUTO = "auto"
OnProgress = Callable[[Progress], None]


class MusicService:
    """Turns requests into tracks. May be called from any thread: runs wait for each other.

    Attributes:
        model: the name or path the service was loaded with.
        preset: what that checkpoint was made for; fills what a request leaves open.
    """

    def __init__(self, model: str, preset: Preset, store: ModelStore) -> None:
        self.model = model
        self.preset = preset
        self._store = store
        self._lock = threading.Lock()
        folders = store.folders
        self._models = {
            part: {"name": folder.name, "fingerprint": fingerprint(folder)}
            for part, folder in dataclasses.asdict(folders).items()
            if folder is not None
        }

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        lm: str | None = AUTO,
        backend: BackendName = "auto",
        device: str = "auto",
        policy: Policy | None = None,
        checkpoints: Path | None = None,
        on_progress: OnProgress | None = None,
    ) -> Self:
        """Find a checkpoint and read its networks.

        Args:
            model: a published name, one of ours, or a folder.
            lm: the 5Hz LM, by name or folder; `auto` takes the one that fits the model, if there
                is one here, and None does without.
            backend: the engine that runs the LM; auto chooses.
            device: auto, cuda, cuda:N, mps or cpu.
            policy: keep every network on the device, or swap them in one at a time; None keeps
                them when they fit.
            checkpoints: the folder that holds the models; None is the default one.

        Raises:
            ModelMissing, CheckpointError, Unavailable
        """
        places = Checkpoints(checkpoints)
        folder = places.resolve(model, "dit")
        companions = places.companions(folder)
        if lm == AUTO:
            planner = places.planner(folder)
        else:
            planner = None if lm is None else places.resolve(lm, "lm")
        folders = Folders(folder, companions.vae, companions.text_encoder, planner)
        where = devices.resolve_device(device)
        store = ModelStore(
            folders,
            device=where,
            dtype=devices.working_dtype(where),
            policy=policy or devices.fitting_policy(where, folders),
            report=Reporter(on_progress),
            backend=backend,
        )
        return cls(str(model), places.preset(folder), store)

    @property
    def has_planner(self) -> bool:
        """Whether Think can be asked for."""
        return self._store.has_planner

    @property
    def planner_engine(self) -> str:
        """What plans the songs and on which engine, for the page; empty without a planner."""
        return self._store.planner_engine

    @property
    def device_name(self) -> str:
        return devices.describe(self._store.device)

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
        if not isinstance(request, Text2Music):
            raise Unavailable("This version makes text2music only.")
        begun = request.begin(self.preset, has_planner=self.has_planner)
        report = Reporter(on_progress, cancel)
        with self._lock:
            try:
                return self._render(begun, report)
            except UnsoundResult as error:
                if self._store.is_float32:
                    raise
                logger.warning("%s Trying once more in float32.", error)
                self._store = self._store.in_float32(report)
                return self._render(begun, report)

    def plan(
        self,
        request: MusicRequest,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
    ) -> Plan:
        """What the planner would make of a request: to be read, edited and sent back with it.

        Raises:
            InvalidRequest: there is no planner, or the checkpoint cannot do what is asked.
            UnsoundResult, Cancelled: as `run`.
        """
        asked = request.model_copy(update={"think": True, "plan": None})
        begun = asked.begin(self.preset, has_planner=self.has_planner)
        with self._lock, self._store.planner() as planner:
            return planner.plan(begun, self.preset.longest_plan, Reporter(on_progress, cancel))

    def _render(self, request: Text2Music, report: Reporter) -> list[Track]:
        try:
            rendering = pipeline.generate(request, self.preset, self._store, report)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not devices.is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"Out of memory on {self.device_name}. Ask for fewer takes or a shorter song"
                + (", or load with policy='swap'." if self._store.policy == "keep" else ".")
            ) from error
        report("checking", 0, request.takes)
        return [self._finish(rendering, take) for take in range(request.takes)]

    def _finish(self, rendering: Rendering, take: int) -> Track:
        """Cut to the sample, check, then level and fade: one finished take."""
        request = rendering.request
        assert request.duration is not None and request.seed is not None
        started = time.perf_counter()
        samples = round(request.duration * audio.SAMPLE_RATE)
        raw = rendering.waveform[take, :, :samples]
        if problem := health.examine(raw, samples).problem():
            raise UnsoundResult(problem)
        waveform = audio.master(
            raw,
            peak_db=request.peak_db if request.normalize else None,
            fade_in=request.fade_in,
            fade_out=request.fade_out,
        )
        seconds = {**rendering.seconds, "checking": time.perf_counter() - started}
        examined = health.examine(waveform, samples)
        return Track(
            waveform=waveform,
            request=request,
            take=take,
            seed=take_seed(request.seed, take),
            seconds=seconds,
            health=examined,
            warnings=request.warnings(),
            recipe={
                "request": request.model_dump(mode="json"),
                "take": take,
                "models": self._models,
                "versions": {
                    "acestep": acestep.__version__,
                    "torch": torch.__version__,
                    "python": platform.python_version(),
                },
                "device": self.device_name,
                "dtype": str(self._store.dtype).removeprefix("torch."),
                "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
                "sha256": sample_hash(waveform),
                "health": examined.to_dict(),
            },
        )
