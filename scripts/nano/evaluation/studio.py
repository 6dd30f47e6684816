"""Makes the songs of an evaluation, each once."""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep import MusicService
from acestep.checkpoints.catalogue import Catalogue
from acestep.checkpoints.folder import fingerprint
from acestep.checkpoints.locate import Checkpoints
from acestep.media import audio
from acestep.request import MusicRequest
from scripts.nano.data.instruments import Bank
from scripts.nano.data.render import render
from scripts.nano.data.score import Score

TURBO, BASE = "acestep-v15-nano-turbo", "acestep-v15-nano-base"
PRESETS = ("nano-turbo", "nano-base")  # fill what a request leaves open
MEASURED_MODELS = (
    TURBO,
    BASE,
    "acestep-5Hz-lm-nano",
    "acestep-nano-vae",
    "acestep-nano-text-encoder",
)


class Studio:
    """Makes every song once. Songs are files named after their kind and number."""

    def __init__(self, checkpoints: Path, folder: Path) -> None:
        places = Checkpoints(checkpoints)
        marks = "".join(fingerprint(places.resolve(part)) for part in MEASURED_MODELS)
        marks += "".join(Catalogue.read().presets[name].model_dump_json() for name in PRESETS)
        self.checkpoints = checkpoints
        self.folder = folder / hashlib.sha256(marks.encode()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._bank = Bank()
        self._services: dict[str, MusicService] = {}

    def service(self, model: str) -> MusicService:
        if model not in self._services:
            self._services[model] = MusicService.load(
                model, device="cpu", checkpoints=self.checkpoints
            )
        return self._services[model]

    def make(self, name: str, model: str, request: MusicRequest) -> tuple[Tensor, dict[str, Any]]:
        """The song of a request and its recipe; made when it is not there."""
        path, done = self.folder / f"{name}.flac", self.folder / f"{name}.done"
        wish = request.model_dump_json()
        if not done.exists() or done.read_text(encoding="utf-8") != wish:
            began = time.monotonic()
            self.service(model).run(request)[0].save(path, overwrite=True)
            done.write_text(wish, encoding="utf-8")
            print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        recipe = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return audio.read(path)[0], recipe

    def rendered(self, score: Score) -> Tensor:
        return torch.from_numpy(render(score, self._bank))

    def source(self, score: Score) -> Path:
        """The rendered score as a file, for edits."""
        path = self.folder / f"source-{score.seed}.flac"
        if not path.exists():
            audio.write(path, self.rendered(score), "flac")
        return path
