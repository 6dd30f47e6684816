"""The song that an edit starts from: its samples, where they come from, and kept latents."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from acestep.errors import AudioError
from acestep.library.latents import find_latents, sample_hash
from acestep.media import audio
from acestep.media.sound_files import AudioInfo
from acestep.types import Latents, Waveform


@dataclass(frozen=True)
class Source:
    """A song to be changed.

    Attributes:
        waveform: (1, 2, sample), 48 kHz, in [-1, 1].
        latents: what the song was made of, if we made it and kept them.
        description: what `waveform` is, compared with the file, for the end of a sentence.
    """

    name: str
    waveform: Waveform
    latents: Latents | None
    description: str

    @property
    def samples(self) -> int:
        return self.waveform.shape[-1]

    @property
    def seconds(self) -> float:
        return self.samples / audio.SAMPLE_RATE

    def to_dict(self) -> dict[str, Any]:
        """Which song it was, for the recipe of what was made of it."""
        return {
            "name": self.name,
            "seconds": self.seconds,
            "sha256": sample_hash(self.waveform[0]),
            "latents": "encoded" if self.latents is None else "kept",
        }


def read_source(path: Path, vae: str) -> Source:
    """Read a song, and its latents if they are of this VAE.

    Args:
        vae: fingerprint of the VAE.

    Raises:
        AudioError: the file cannot be used, or is silent.
    """
    held, info = audio.read_as_held(path)
    waveform = audio.to_stereo(held, info.rate)
    if audio.is_silent(waveform):
        raise AudioError(f"{path.name} is silent: there is nothing to change.")
    return Source(
        path.name,
        waveform,
        find_latents(path, waveform, vae),
        _describe(info, held, waveform),
    )


def _describe(info: AudioInfo, held: torch.Tensor, waveform: Waveform) -> str:
    """Whether the file's samples are used as they are, and if not why not."""
    reasons = []
    if info.rate != audio.SAMPLE_RATE:
        reasons.append(f"is {info.rate / 1000:g} kHz")
    if info.channels != 2:
        reasons.append("is mono" if info.channels == 1 else f"has {info.channels} channels")
    if not reasons and not torch.equal(held, waveform[0]):
        reasons.append("has samples above full scale")
    if reasons:
        return f"its 48 kHz stereo version, because the file {' and '.join(reasons)}"
    return "the file's own samples"
