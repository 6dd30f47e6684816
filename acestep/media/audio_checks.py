"""Whether a result is a song: finite, audible, not clipped, of the length that was asked for."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from acestep.types import Stereo

# −100 dBFS: below the quietest step of 16 bit by a factor of three.
SILENCE = 1e-5
# Music touches its own peak for a sample here and there, and low notes in half precision can hold
# it a little longer. A waveform driven into saturation lies flat for several percent of the time.
MAX_CLIPPED_SHARE = 0.01
_FLOOR_DB = -200.0  # stands for no signal at all: JSON has no minus infinity


@dataclass(frozen=True)
class Health:
    """What was measured of one song.

    Attributes:
        finite: no sample is NaN or infinite; the levels leave such samples out.
        clipped_samples: samples, over both channels, in runs of three or more equal ones at the
            song's own peak, whatever that peak is: a later normalisation does not hide clipping.
        samples: length per channel, and `expected_samples` what it should be.
    """

    finite: bool
    peak_db: float
    rms_db: float
    clipped_samples: int
    silent: bool
    samples: int
    expected_samples: int

    def problem(self) -> str | None:
        """Why this is not a finished song, in one sentence, or `None`."""
        if not self.finite:
            return "The result contains samples that are not numbers (NaN or infinity)."
        if self.samples != self.expected_samples:
            return (
                f"The result is {self.samples:,} samples long; "
                f"{self.expected_samples:,} were expected."
            )
        if self.silent:
            return "The result is silent."
        share = self.clipped_samples / (2 * self.samples)
        if share > MAX_CLIPPED_SHARE:
            return f"The result is clipped: {share:.0%} of its samples lie flat at the peak."
        return None

    def to_dict(self) -> dict[str, Any]:
        """The measurements as JSON data."""
        return asdict(self)


def check_audio(waveform: Stereo, expected_samples: int) -> Health:
    """Measure a song before it is levelled; samples above 1 are not an error yet.

    Silence is a peak and an RMS of at most 1e-5.
    """
    low, high = waveform.aminmax() if waveform.numel() else (torch.zeros(()), torch.zeros(()))
    # NaN and infinity show at the extremes, so a sound song is not searched sample by sample.
    finite = bool(low.isfinite() & high.isfinite())
    sound = waveform if finite else torch.where(waveform.isfinite(), waveform, 0)
    if not finite:
        low, high = sound.aminmax()
    peak = max(-low.item(), high.item())
    power = torch.linalg.vector_norm(sound, dtype=torch.float64).item() ** 2
    rms = math.sqrt(power / max(1, sound.numel()))
    return Health(
        finite=finite,
        peak_db=_decibels(peak),
        rms_db=_decibels(rms),
        clipped_samples=_clipped(sound, peak) if peak > SILENCE else 0,
        silent=peak <= SILENCE and rms <= SILENCE,
        samples=waveform.shape[-1],
        expected_samples=expected_samples,
    )


def _clipped(sound: Tensor, peak: float) -> int:
    """Samples in runs of at least three equal ones at ±peak."""
    count = 0
    for level in (peak, -peak):
        flat = sound == level
        triples = flat[:, :-2] & flat[:, 1:-1] & flat[:, 2:]
        if triples.any():
            run = torch.zeros_like(flat)
            for offset in range(3):
                run[:, offset : offset + triples.shape[-1]] |= triples
            count += int(run.count_nonzero())
    return count


def _decibels(level: float) -> float:
    return max(_FLOOR_DB, 20 * math.log10(level)) if level > 0 else _FLOOR_DB
