"""A service without networks: sine waves, at a pace a test can follow and stop."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from acestep.library.recipe import pack
from acestep.library.report import EditReport
from acestep.progress import CancelToken, Progress, Reporter
from acestep.request import Cover, MusicRequest, Plan, Preset, Repaint
from acestep.seeds import take_seed

SAMPLE_RATE = 48_000
TURBO = Preset(
    name="nano-turbo",
    steps=8,
    max_steps=20,
    shift=3.0,
    guidance_scale=1.0,
    is_turbo=True,
    duration=12.0,
)
BASE = TURBO.model_copy(
    update={"name": "nano-base", "max_steps": 200, "guidance_scale": 7.0, "is_turbo": False}
)


@dataclass
class FakeTrack:
    request: MusicRequest
    take: int
    seed: int
    seconds: Mapping[str, float]
    warnings: list[str]
    recipe: dict[str, Any]
    duration: float
    report: EditReport | None = None

    def save_in(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        task = self.recipe["request"]["task"]
        path = folder / f"{len(list(folder.glob('*.flac'))) + 1:04d}_{task}_fake.flac"
        t = np.arange(round(self.duration * SAMPLE_RATE)) / SAMPLE_RATE
        wave = 0.3 * np.sin(2 * np.pi * 220 * (self.take + 1) * t) * (1 - t / t[-1])
        with soundfile.SoundFile(path, "w", SAMPLE_RATE, 2) as sound:
            sound.comment = pack(self.recipe)
            sound.write(np.stack([wave, wave], axis=1))
        path.with_suffix(".json").write_text(json.dumps(self.recipe))
        return path


@dataclass
class FakeService:
    """Runs `steps` steps of `step_seconds` each; remembers what it was asked."""

    preset: Preset = TURBO
    has_planner: bool = False
    planner_engine: str = "a-planner on pt. vLLM <is> not installed."
    model: str = "acestep-v15-nano-turbo"
    device_name: str = "CPU"
    step_seconds: float = 0.01
    failure: Exception | None = None
    requests: list[MusicRequest] = field(default_factory=list)
    heard: list[Path] = field(default_factory=list)

    def run(
        self,
        request: MusicRequest,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> list[FakeTrack]:
        request = request.resolve(self.preset, has_planner=self.has_planner)
        self.requests.append(request)
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

    def _track(self, request: MusicRequest, take: int, seconds: Mapping[str, float]) -> FakeTrack:
        seed = take_seed(request.seed or 0, take)
        recipe = {"request": request.model_dump(mode="json"), "take": take, "seed": seed}
        return FakeTrack(
            request, take, seed, seconds, request.warnings(), recipe, *_edited(request)
        )

    def understand(
        self,
        source: Path,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Plan:
        self.heard.append(source)
        report = Reporter(on_progress, cancel)
        for token in range(5):
            report("planning", token, 5)
            time.sleep(self.step_seconds)
        return Plan(bpm=96, key_scale="E minor")


def _edited(request: MusicRequest) -> tuple[float, EditReport | None]:
    """How long the track is, and what is said about an edit."""
    if not isinstance(request, Repaint | Cover):
        return request.duration or 0.0, None
    seconds = soundfile.info(request.source_audio).duration
    if isinstance(request, Cover):
        return seconds, EditReport(chroma_similarity=0.83, source="Compared with the source.")
    regions = request.regions_of(seconds)
    longer = max(regions[-1][1], seconds) - min(regions[0][0], 0.0)
    notes = ("Nothing audible changed.",)
    return longer, EditReport(seams=(0.9, 1.0), source="The file's own samples.", notes=notes)
