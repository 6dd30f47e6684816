"""The engine without networks: the real one around a service that hums, at a pace a test can follow
and stop. The one fake of the page's and the command line's tests."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile
import torch

from acestep.config import ServiceConfig
from acestep.engine.engine import DeviceRow, MemoryLine
from acestep.engine.jobs import ENDED, Job
from acestep.engine.local import LocalEngine
from acestep.engine.runner import InProcessRunner
from acestep.engine.table import JobTable
from acestep.library.latents import sample_hash
from acestep.library.report import EditReport
from acestep.library.track import Track
from acestep.media import audio_checks
from acestep.progress import CancelToken, OnProgress, Progress, Reporter
from acestep.request import MusicRequest, Plan, Preset
from acestep.seeds import take_seed

SAMPLE_RATE = 48_000
GB = 1000**3
SOON = 20.0  # seconds, on a busy machine
TURBO = Preset(
    name="nano-turbo",
    steps=8,
    max_steps=20,
    shift=3.0,
    guidance_scale=1.0,
    is_turbo=True,
    duration=12.0,
    rewrite_caption=False,
    dcw="double",
)
BASE = TURBO.model_copy(
    update={"name": "nano-base", "max_steps": 200, "guidance_scale": 7.0, "is_turbo": False}
)
PRESETS = {"acestep-v15-nano-base": BASE}  # of models that a test switches to


@dataclass
class FakeService:
    """Runs `steps` steps of `step_seconds` each; remembers what it was asked.

    Attributes:
        model, preset: what is loaded; a configuration that names another model changes both.
        seconds: of sound in a take; None is what the request asks for.
        failure: raised by the next run and all after it.
        load_failure: raised by the next load and all after it.
        before: called with each request, where a test makes something go wrong.
        devices: what there is to run on.
        loads: what was loaded, in order.
        adapted: to what it was adapted without being loaded again.
    """

    preset: Preset = TURBO
    has_planner: bool = False
    planner_engine: str = "a-planner on pt. vLLM <is> not installed."
    model: str = "acestep-v15-nano-turbo"
    device_name: str = "CPU"
    step_seconds: float = 0.01
    load_seconds: float = 0.0
    seconds: float | None = None
    failure: Exception | None = None
    load_failure: Exception | None = None
    before: Callable[[MusicRequest], None] = lambda request: None
    requests: list[MusicRequest] = field(default_factory=list)
    heard: list[Path] = field(default_factory=list)
    loads: list[ServiceConfig] = field(default_factory=list)
    adapted: list[ServiceConfig] = field(default_factory=list)
    config: ServiceConfig = field(default_factory=ServiceConfig)
    memory_said: str = "Everything fits."
    is_prepared: bool = False
    devices: Sequence[DeviceRow] = (DeviceRow(name="cpu", about="a CPU"),)

    def memory(self, config: ServiceConfig, request: MusicRequest | None) -> MemoryLine:
        """A budget of 8 GB, and more taken for a longer song and for more takes."""
        song = {} if request is None else request.model_dump()
        music = 0.02 * (song.get("duration") or 120) * song.get("takes", 1)
        stages = {"rendering": (1.0 if config.offload_dit else 4.0) + music, "decoding": music}
        used = max(stages.values()) / (2 if config.int8 else 1)
        budget = config.memory_limit or 8.0
        fits = used <= budget
        return MemoryLine(
            sentence=f"{config.model}: peak {used:.1f} of {budget:.1f} GB.",
            used=round(used * GB),
            budget=round(budget * GB),
            fits=fits,
            stages={stage: round(size * GB) for stage, size in stages.items()},
            traded=["The music model streams from main memory."] if config.offload_dit else [],
        )

    def load(self, config: ServiceConfig, on_progress: OnProgress) -> "FakeService":
        """What a runner loads: this, as the model that the configuration names."""
        self.loads.append(config)
        self.config = config
        on_progress(Progress("loading", 0, 2))
        time.sleep(self.load_seconds)
        if self.load_failure is not None:
            raise self.load_failure
        if config.model != self.model:
            self.model, self.preset = config.model, PRESETS.get(config.model, TURBO)
        on_progress(Progress("loading", 2, 2))
        return self

    @property
    def adapters_said(self) -> list[str]:
        return [f"{lora} acts." for lora in self.config.lora]

    def adapt(self, config: ServiceConfig) -> None:
        self.adapted.append(config)
        if self.load_failure is not None:
            raise self.load_failure
        self.config = config

    def prepare(self) -> None:
        self.is_prepared = True

    def run(
        self,
        request: MusicRequest,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
    ) -> list[Track]:
        request.check(self.preset, has_planner=self.has_planner)
        request = request.resolve(self.preset).asked
        self.requests.append(request)
        self.before(request)
        report = Reporter(on_progress, cancel)
        report("conditioning", 0, 1)
        if self.failure is not None:
            raise self.failure
        steps = request.steps or 1
        for step in range(steps):
            report("rendering", step, steps)
            time.sleep(self.step_seconds)
        report("decoding", 1, 1)
        seconds = {"rendering": steps * self.step_seconds, "decoding": 0.1}
        return [self._track(request, take, seconds) for take in range(request.takes)]

    def plan(
        self,
        request: MusicRequest,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
    ) -> Plan:
        self.requests.append(request)
        self._listen(on_progress, cancel)
        return Plan(caption="a dusty loop", bpm=request.bpm or 90, codes=((7,) * 50,))

    def understand(
        self,
        source: Path,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
    ) -> Plan:
        self.heard.append(source)
        self._listen(on_progress, cancel)
        return Plan(bpm=96, key_scale="E minor")

    def _listen(self, on_progress: OnProgress | None, cancel: CancelToken | None) -> None:
        report = Reporter(on_progress, cancel)
        for token in range(5):
            report("planning", token, 5)
            time.sleep(self.step_seconds)
        if self.failure is not None:
            raise self.failure

    def _track(self, request: MusicRequest, take: int, seconds: dict[str, float]) -> Track:
        seed = take_seed(request.seed or 0, take)
        duration, report = _edited(request)
        waveform = hum(self.seconds or duration, seed)
        return Track(
            waveform=waveform,
            request=request,
            take=take,
            seed=seed,
            seconds=seconds,
            health=audio_checks.check_audio(waveform, waveform.shape[-1]),
            warnings=request.warnings(),
            report=report,
            recipe={
                "request": request.model_dump(mode="json"),
                "take": take,
                "models": {"dit": {"name": self.model, "fingerprint": "0123456789abcdef"}},
                "service": self.config.recorded(),
                "versions": {"torch": "2.0"},
                "device": self.device_name,
                "dtype": "float32",
                "seconds": seconds,
                "sha256": sample_hash(waveform),
                **({} if report is None else {"report": report.to_dict()}),
            },
        )


class FakeEngine(LocalEngine):
    """The real engine of one computer around a fake service, with a table in memory."""

    def __init__(
        self,
        output_dir: Path,
        service: FakeService | None = None,
        config: ServiceConfig | None = None,
        table: JobTable | None = None,
    ) -> None:
        self.service = service or FakeService()
        runner = InProcessRunner(self.service.load)
        super().__init__(runner, table or JobTable.in_memory(), output_dir, config)

    def memory(self, config: ServiceConfig, request: MusicRequest | None = None) -> MemoryLine:
        return self.service.memory(config, request)

    def devices(self) -> Sequence[DeviceRow]:
        return self.service.devices

    def until(self, is_so: Callable[[], Any], seconds: float = SOON) -> None:
        until(is_so, seconds)

    def ended(self, job: Job, seconds: float = SOON) -> Job:
        """The job as it is once it is over."""
        until(lambda: self.job(job.id).state in ENDED, seconds)
        return self.job(job.id)

    def started(self, job: Job, stage: str = "rendering") -> Job:
        """The job as it is once it is in this stage."""
        until(lambda: any(event.stage == stage for event in self.job(job.id).events))
        return self.job(job.id)


def until(is_so: Callable[[], Any], seconds: float = SOON) -> None:
    """Wait until something is so; fail when it does not become so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


def hum(seconds: float, seed: int) -> torch.Tensor:
    """A falling sine whose pitch comes from the seed."""
    t = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    wave = 0.3 * torch.sin(2 * torch.pi * (220 + 20 * (seed % 50)) * t) * (1 - t / t[-1])
    return torch.stack([wave, wave])


def _edited(request: MusicRequest) -> tuple[float, EditReport | None]:
    """How long the track is, and what is said about an edit."""
    source = request.source_file
    if source is None:
        return getattr(request, "duration", 10.0), None
    seconds = soundfile.info(source).duration
    regions_of = getattr(request, "regions_of", None)
    if regions_of is None:
        return seconds, EditReport(chroma_similarity=0.83, source="Compared with the source.")
    regions = regions_of(seconds)
    longer = max(regions[-1][1], seconds) - min(regions[0][0], 0.0)
    notes = ("Nothing audible changed.",)
    return longer, EditReport(seams=(0.9, 1.0), source="The file's own samples.", notes=notes)
