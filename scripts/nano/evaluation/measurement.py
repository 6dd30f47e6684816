"""What is measured in one song, and whether it is what its score asked for."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from acestep.checkpoints.folder import fingerprint
from scripts.nano.data.score import Score
from scripts.nano.evaluation import metrics, probe
from scripts.nano.evaluation.metrics import Key
from scripts.nano.evaluation.probe import Features, SongProbe


@dataclass(frozen=True)
class Measurement:
    """What is measured in one song."""

    tempo: float
    key: Key
    features: Features
    width: float

    @classmethod
    def of(cls, song: Tensor, song_probe: SongProbe) -> "Measurement":
        return cls(
            metrics.tempo(song), metrics.key(song), song_probe.features(song), metrics.width(song)
        )

    @classmethod
    def read(cls, path: Path) -> "Measurement":
        tempo, key, features, width = json.loads(path.read_text(encoding="utf-8"))
        return cls(tempo, Key(*key), Features(*features), width)

    def write(self, path: Path) -> None:
        values = (self.tempo, self.key, self.features, self.width)
        path.write_text(json.dumps(values), encoding="utf-8")


class MeasurementCache:
    """Measurements of songs, each in a file named after the samples and the metrics."""

    def __init__(self, vae: Path, folder: Path) -> None:
        self.song_probe = SongProbe.load(vae)
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        sources = (Path(metrics.__file__), Path(probe.__file__), probe.PROBE_WEIGHTS)
        self.marks = b"".join(path.read_bytes() for path in sources) + fingerprint(vae).encode()

    def measure(self, song: Tensor) -> Measurement:
        name = hashlib.sha256(song.numpy().tobytes() + self.marks).hexdigest()[:16]
        path = self.folder / f"{name}.json"
        if not path.exists():
            Measurement.of(song, self.song_probe).write(path)
        return Measurement.read(path)


def has_tempo(score: Score, measured: Measurement) -> bool:
    return metrics.is_tempo(measured.tempo, score.bpm)


def has_exact_tempo(score: Score, measured: Measurement) -> bool:
    return metrics.is_tempo(measured.tempo, score.bpm, (1.0,))


def has_near_key(score: Score, measured: Measurement) -> bool:
    return is_near_key(measured.key, score)


def has_key(score: Score, measured: Measurement) -> bool:
    return measured.key == Key(score.key, score.minor)


def has_drums(score: Score, measured: Measurement) -> bool:
    return measured.features.has_drums == (score.kit is not None)


def has_style(score: Score, measured: Measurement) -> bool:
    return measured.features.style == score.genre


def has_voice(score: Score, measured: Measurement) -> bool:
    return measured.features.has_voice == bool(score.syllables)


def is_near_key(key: Key, score: Score) -> bool:
    return metrics.relation(key, Key(score.key, score.minor)) != "other"
