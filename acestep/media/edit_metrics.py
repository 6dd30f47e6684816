"""How a song differs from its source, as a listener would ask: where, how much, how smoothly.

Waveforms are 48 kHz. Spectra are computed a few seconds at a time, so memory does not grow with the
song.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from acestep.media.audio import SAMPLE_RATE
from acestep.media.audio_checks import SILENCE
from acestep.types import Stereo

RANGE_DB = 60.0  # what is this far below the loudest band is not heard beside it
AUDIBLE_DB = 1.0  # a smaller mean difference of levels is not heard
LOWEST_BAND, HIGHEST_BAND = 60.0, 16_000.0  # Hz
LOWEST_PITCH, HIGHEST_PITCH = 55.0, 3520.0  # Hz, A1 to A7
NEIGHBOURHOOD = 1.0  # seconds to each side of a border that it is compared with

Bands = Float[Tensor, "bin band"]


def changed_samples(song: Stereo, source: Stereo, kept: Tensor) -> int:
    """Samples, of those to be kept, that differ between the two in any bit of either channel."""
    return int(((song != source).any(dim=0) & kept).sum())


def change_db(old: Stereo, new: Stereo) -> float:
    """Mean absolute difference of the levels of third-octave bands over time, per channel."""
    size, hop = 4096, 2048
    bands = _third_octaves(size)
    levels = torch.stack([_spectra(x, size, hop, bands) for x in (old, new)])
    db = _decibels(levels, levels.max())
    return (db[0] - db[1]).abs().mean().item()


def seam_score(song: Stereo, border: int, zone: tuple[int, int]) -> float:
    """How the greatest jump of the spectrum in a zone compares with the greatest one around it.

    Args:
        border: sample where old and new sound meet.
        zone: samples over which they are blended.

    Returns:
        1 when the zone jumps no more than the music within a second of it, towards 0 as it
        stands out.
    """
    size, hop = 1024, 256
    reach = round(NEIGHBOURHOOD * SAMPLE_RATE)
    first = max(0, border - reach)
    around = song[:, first : border + reach]
    levels = _spectra(around, size, hop, _third_octaves(size))
    if levels.shape[1] < 3:
        return 1.0
    jumps = _decibels(levels, levels.max()).diff(dim=1).abs().mean(dim=(0, 2))
    # The jump from window k to the next one covers samples k·hop to (k+1)·hop + size.
    start = torch.arange(len(jumps)) * hop + first
    is_near = (start + hop + size > zone[0]) & (start < max(zone[1], zone[0] + 1))
    if is_near.all() or not is_near.any():
        return 1.0
    here, elsewhere = jumps[is_near].max().item(), jumps[~is_near].max().item()
    return min(1.0, elsewhere / here) if here > 0 else 1.0


def chroma_similarity(song: Stereo, source: Stereo) -> float | None:
    """Correlation of the two songs' pitch classes, moment by moment, weighted by loudness.

    1 is the same harmony and melody at every moment, 0 an unrelated one; None where the two are
    never heard together.
    """
    length = min(song.shape[-1], source.shape[-1])
    first, second = (chroma(x[:, :length]) for x in (song, source))
    loudness = (first.norm(dim=1) * second.norm(dim=1)).sqrt()
    one, other = (c - c.mean(dim=1, keepdim=True) for c in (first, second))
    similarity = torch.cosine_similarity(one, other, dim=1)
    total = loudness.sum().item()
    return (similarity * loudness).sum().item() / total if total > 0 else None


def chroma(song: Stereo) -> Float[Tensor, "moment 12"]:
    """Magnitude of each pitch class, C first, every sixth of a second; all zero in silence."""
    size, hop = 16_384, 8192
    mono = song.mean(dim=0, keepdim=True)
    strengths = _spectra(mono, size, hop, _pitch_classes(size), power=1)[0]
    return torch.where(strengths.sum(dim=1, keepdim=True) > SILENCE, strengths, 0.0)


def _spectra(
    song: Tensor, size: int, hop: int, bands: Bands, power: int = 2
) -> Float[Tensor, "channel window band"]:
    """Magnitudes (power 1) or energies (power 2) per band, Hann windows, amplitude 1 = full scale.

    A song that is shorter than a window is filled up with silence.
    """
    song = torch.nn.functional.pad(song, (0, max(0, size - song.shape[-1])))
    window = torch.hann_window(size)
    window = window / window.sum()
    blocks = song.unfold(-1, size, hop).split(256, dim=1)
    return torch.cat(
        [torch.fft.rfft(block * window).abs().pow(power) @ bands for block in blocks], dim=1
    )


def _decibels(energies: Tensor, loudest: Tensor) -> Tensor:
    """Levels down to RANGE_DB below the loudest, and never below what counts as silence."""
    floor = max(loudest.item() * 10 ** (-RANGE_DB / 10), SILENCE**2)
    return 10 * energies.clamp(min=floor).log10()


def _third_octaves(size: int) -> Bands:
    frequencies = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    count = math.ceil(3 * math.log2(HIGHEST_BAND / LOWEST_BAND))
    band = (3 * (frequencies.clamp(min=1) / LOWEST_BAND).log2()).floor()
    table = (band[:, None] == torch.arange(count)).float()
    return table[:, table.any(dim=0)]  # low bands narrower than a bin have none


def _pitch_classes(size: int) -> Bands:
    """Each bin's share of the two nearest semitones' classes (A4 = 440 Hz)."""
    frequencies = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    is_pitch = (frequencies >= LOWEST_PITCH) & (frequencies <= HIGHEST_PITCH)
    semitone = 69 + 12 * (frequencies.clamp(min=1) / 440).log2()
    distance = (semitone[:, None] - torch.arange(12)).remainder(12)
    distance = torch.minimum(distance, 12 - distance)
    return (1 - distance).clamp(min=0) * is_pitch[:, None]
