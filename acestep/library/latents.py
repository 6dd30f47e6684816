"""Latents kept beside a song, so that editing it starts from them and not from a re-encoded copy.

`song.flac` has `song.safetensors`: the latents as they were rendered, the hash of the samples that
the file holds, and which VAE they belong to. They are used only when both fit, wherever the file
may have been copied or renamed to.
"""

import hashlib
import struct
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from acestep.library.output_paths import LATENTS
from acestep.media import audio
from acestep.types import Latents, Waveform

_TENSOR = "latents"


def kept(latents: Latents, waveform: Waveform, vae: str) -> bytes | None:
    """What stands beside a song; None where a lossy format changed the length, so that they do not
    fit.

    Args:
        latents: (1, frame, channel), fp32; the last frame may be heard in part only.
        waveform: what the file holds, since every format rounds samples in its own way.
        vae: fingerprint of the network that decodes them.
    """
    if frames_of(waveform) != latents.shape[1]:
        return None
    metadata = {"sha256": sample_hash(waveform[0]), "vae": vae}
    return save({_TENSOR: latents.contiguous().cpu()}, metadata)


def find_latents(song: Path, waveform: Waveform, vae: str) -> Latents | None:
    """The latents beside a song, if they were kept; whatever does not fit is ignored."""
    path = song.with_suffix(LATENTS)
    if not path.is_file():
        return None
    latents = _read(path, {"sha256": sample_hash(waveform[0]), "vae": vae})
    return latents if latents is not None and latents.shape[1] == frames_of(waveform) else None


def frames_of(waveform: Waveform) -> int:
    """Latent frames that cover a waveform, the last one begun."""
    return -(-waveform.shape[-1] // audio.SAMPLES_PER_FRAME)


def sample_hash(waveform: Tensor) -> str:
    """SHA-256 of the samples as little-endian float32: two tracks with one hash sound the same."""
    samples = waveform.detach().cpu().contiguous().numpy().astype("<f4", copy=False)
    return hashlib.sha256(samples.tobytes()).hexdigest()


def _read(path: Path, expected: dict[str, str]) -> Latents | None:
    """A foreign file of that name is no error: it is somebody else's."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if any(metadata.get(key) != value for key, value in expected.items()):
                return None
            latents = file.get_tensor(_TENSOR)
    except (SafetensorError, OSError, struct.error):
        return None
    is_whole = latents.ndim == 3 and len(latents) == 1 and latents.dtype == torch.float32
    return latents if is_whole and latents.isfinite().all() else None
