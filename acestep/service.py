"""One studio: the loaded networks, one request at a time, with progress and cancel."""

import dataclasses
import logging
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch

import acestep
from acestep import pipeline
from acestep.checkpoints.folder import fingerprint
from acestep.checkpoints.locate import Checkpoints
from acestep.config import DEFAULT_MODEL
from acestep.errors import InvalidRequest, OutOfMemory, Unavailable, UnsoundResult
from acestep.library.latents import sample_hash
from acestep.library.source import Source, read_source
from acestep.library.track import Track
from acestep.media import audio_checks
from acestep.pipeline import Rendering
from acestep.planner.backends import BackendName
from acestep.progress import CancelToken, Progress, Reporter
from acestep.request import Cover, MusicRequest, Plan, Preset, Repaint
from acestep.runtime import devices
from acestep.runtime.store import Folders, ModelStore, Policy
from acestep.seeds import take_seed
from acestep.tasks import postprocess
from acestep.types import Latents

logger = logging.getLogger(__name__)

AUTO = "auto"
UNDERSTAND_SEED = 0  # any, but always the same
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

    def prepare(self) -> None:
        """Do now what the first song with Think would have to wait for; costs seconds, once.

        A planner that is read anew for every plan (swap) is not read for this.
        """
        if self.has_planner and self._store.policy == "keep":
            with self._lock, self._store.planner() as planner:
                planner.prepare()

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
        begun = request.begin(self.preset, has_planner=self.has_planner)
        report = Reporter(on_progress, cancel)
        with self._lock:
            source = self._source(begun, report)
            try:
                return self._render(begun, source, report)
            except UnsoundResult as error:
                if self._store.is_float32:
                    raise
                logger.warning("%s Trying once more in float32.", error)
                self._store = self._store.in_float32(report)
                return self._render(begun, source, report)

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
        if not request.can_think:
            raise InvalidRequest(
                "task", "The 5Hz LM plans new songs only; repaints and covers follow their source."
            )
        asked = request.model_copy(update={"think": True, "plan": None})
        begun = asked.begin(self.preset, has_planner=self.has_planner)
        with self._lock, self._memory_explained("a shorter song"), self._store.planner() as planner:
            return planner.plan(begun, self.preset.longest_plan, Reporter(on_progress, cancel))

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
                "Understanding a song needs a 5Hz LM. Choose one in Service Configuration "
                "(or --lm)."
            )
        report = Reporter(on_progress, cancel)
        with self._lock, self._memory_explained("a shorter recording"):
            report("reading", 0, 1)
            song = self._read(source)
            codes = pipeline.source_codes(song, self._store, report)
            with self._store.planner() as planner:
                heard = planner.understand(codes[0].tolist(), report, UNDERSTAND_SEED).plan
        return heard.model_copy(update={"duration": song.seconds, "codes": ()})

    def _source(self, request: MusicRequest, report: Reporter) -> Source | None:
        """The song that the request changes."""
        if not isinstance(request, Repaint | Cover):
            return None
        report("reading", 0, 1)
        return self._read(request.source_audio)

    def _read(self, path: Path) -> Source:
        return read_source(path, self._models["vae"]["fingerprint"])

    def _render(
        self, request: MusicRequest, source: Source | None, report: Reporter
    ) -> list[Track]:
        with self._memory_explained("fewer takes or a shorter song"):
            rendering = pipeline.generate(request, self.preset, self._store, report, source)
        report("checking", 0, request.takes)
        return [self._finish(rendering, take, source) for take in range(request.takes)]

    @contextmanager
    def _memory_explained(self, less: str) -> Iterator[None]:
        """Say what helps when the device runs out of memory; `less` is what to ask for."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not devices.is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"Out of memory on {self.device_name}. Ask for {less}"
                + (", or load with policy='swap'." if self._store.policy == "keep" else ".")
            ) from error

    def _finish(self, rendering: Rendering, take: int, source: Source | None) -> Track:
        """Check what is new, bring it to level, join it to the source: one finished take."""
        request, canvas = rendering.request, rendering.canvas
        assert request.seed is not None
        started = time.perf_counter()
        decoded = rendering.waveform[take]
        new = canvas.new_sound(decoded)
        if problem := audio_checks.examine(new, canvas.new_samples).problem():
            raise UnsoundResult(problem)
        waveform, report = postprocess.finish(request, decoded, canvas, source)
        seconds = {**rendering.seconds, "checking": time.perf_counter() - started}
        examined = audio_checks.examine(waveform, canvas.samples)
        return Track(
            waveform=waveform,
            request=request,
            take=take,
            seed=take_seed(request.seed, take),
            seconds=seconds,
            health=examined,
            warnings=request.warnings(),
            report=report,
            latents=_kept_latents(rendering, take),
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
                **({} if source is None else {"source": source.to_dict()}),
                **({} if report is None else {"report": report.to_dict()}),
            },
        )


def _kept_latents(rendering: Rendering, take: int) -> Latents | None:
    """What to keep of a take for edits to come: frames that begin with its first sample."""
    canvas = rendering.canvas
    if canvas.offset:
        return None
    return rendering.latents[take : take + 1, : canvas.song_frames].clone()
