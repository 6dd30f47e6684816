"""Facts that can be heard in a song: tempo, key, harmony, rhythm, width, clicks.

Songs are 48 kHz stereo, [2, sample]. Nothing here is told what to find. How often the facts are
right of rendered scores, whose every fact is known, is the ceiling of every figure:

    uv run python -m scripts.nano.evaluation.metrics [--songs 60]

What needs a trained network (voice, drums, style) is in `probe`.
"""

import argparse
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from scripts.nano.data import songs
from scripts.nano.data.instruments import RATE, Bank
from scripts.nano.data.render import render
from scripts.nano.training.spectral_losses import MelLoss, magnitude

TEMPO_TOLERANCE = 0.02
OCTAVES = (0.5, 1.0, 2.0)
TOLD_TEMPI = torch.arange(50.0, 200.25, 0.25)  # beats per minute that are told apart
USUAL_TEMPO, TEMPO_SPREAD = 112.0, 0.9  # octaves; of two tempi that fit as well, the usual one
BEATS = 16  # as many multiples of a beat are looked at
LONGEST_LAG = 12.0  # seconds
FLUX_SIZE, FLUX_HOP = 1024, 240
FLUX_RATE = RATE / FLUX_HOP
PITCH_SIZE, PITCH_HOP = 16_384, 4096
LOWEST_PITCH, HIGHEST_PITCH = 55.0, 2000.0  # Hz, of pitches
MOMENT = 6  # pitch windows, half a second
# How well each pitch class fits a key on C, after Krumhansl & Kessler 1982; but what is not of the
# scale counts for nothing, because these songs never leave it.
MAJOR_PROFILE = (5, 0, 3, 0, 4, 3, 0, 4.5, 0, 3, 0, 2.5)
MINOR_PROFILE = (5, 0, 3, 4, 0, 3, 0, 4.5, 3, 0, 2.5, 1)
CLICK_REACH = 96  # samples to each side of a border in which a click would lie (2 ms)
CLICK_AROUND = 4800  # samples to each side that it is compared with (100 ms)

Relation = Literal["right", "relative", "fifth", "other"]


class Key(NamedTuple):
    root: int  # pitch class
    is_minor: bool


def mel_distance(song: Tensor, other: Tensor) -> float:
    """Mean difference of the levels of 80 mel bands, in dB; what the VAE was trained to lower."""
    length = min(song.shape[-1], other.shape[-1])
    with torch.no_grad():
        return 10 * MelLoss()(song[None, :, :length], other[None, :, :length]).item()


def flux(song: Tensor) -> Tensor:
    """How much louder the bands become, 200 times a second, above what is usual around: [moment]"""
    bands = MelLoss().get_buffer("bands")
    # The table is made for twice the window: every second of its rows.
    bands = bands[::2] / bands[::2].sum(0).clamp_min(1e-9)
    levels = magnitude(song.mean(0), torch.hann_window(FLUX_SIZE), FLUX_HOP).mT @ bands
    loudness = torch.log1p(100 * levels)
    rise = (loudness[2:] - loudness[:-2]).clamp_min(0).mean(1)
    around = F.avg_pool1d(F.pad(rise[None], (50, 50), mode="replicate"), 101, 1)[0]
    return (rise - around).clamp_min(0)


def tempo(song: Tensor) -> float:
    """Beats per minute whose multiples the song's flux repeats at best.

    An octave above or below is a matter of taste: see `is_tempo`.
    """
    rises = flux(song)
    count = len(rises)
    if rises.max() == 0:
        return 0.0
    spectrum = torch.fft.rfft(rises - rises.mean(), 2 * count)
    likeness = torch.fft.irfft(spectrum.abs().square())[:count]
    likeness = likeness / (count - torch.arange(count)) / likeness[0]
    multiples = torch.arange(1, BEATS + 1)
    lags = 60 * FLUX_RATE / TOLD_TEMPI[:, None] * multiples
    usable = lags < min(0.75 * count, LONGEST_LAG * FLUX_RATE)
    at = lags.clamp_max(count - 2)
    low = at.long()
    share = at - low
    values = likeness[low] * (1 - share) + likeness[low + 1] * share
    weights = usable * torch.where(multiples % 4 == 0, 1.5, 1.0)
    scores = (weights * values).sum(1) / weights.sum(1)
    usual = torch.exp(-0.5 * ((TOLD_TEMPI / USUAL_TEMPO).log2() / TEMPO_SPREAD) ** 2)
    return TOLD_TEMPI[(scores * usual).argmax()].item()


def is_tempo(found: float, asked: float, octaves: Sequence[float] = OCTAVES) -> bool:
    """Within 2 %; `octaves` (1.0,) is strict."""
    return any(abs(found / (octave * asked) - 1) <= TEMPO_TOLERANCE for octave in octaves)


def chroma(song: Tensor) -> Tensor:
    """Strength of each pitch class, C first, twelve times a second: [moment, 12].

    Only peaks above twice the median of the spectrum count, so that drums do not.
    """
    levels = magnitude(song.mean(0), torch.hann_window(PITCH_SIZE), PITCH_HOP).mT
    inner = F.pad(levels, (1, 1))
    is_peak = (levels > inner[:, :-2]) & (levels > inner[:, 2:])
    above = (levels - 2 * levels.median(1, keepdim=True).values).clamp_min(0)
    frequencies = torch.fft.rfftfreq(PITCH_SIZE, 1 / RATE)
    semitones = 69 + 12 * (frequencies.clamp_min(1) / 440).log2()
    distance = (semitones[:, None] - torch.arange(12) + 6) % 12 - 6
    shares = torch.exp(-0.5 * (distance / 0.28) ** 2) / frequencies.clamp_min(1).sqrt()[:, None]
    shares *= ((frequencies > LOWEST_PITCH) & (frequencies < HIGHEST_PITCH))[:, None]
    return (above * is_peak).sqrt() @ shares


def key(song: Tensor) -> Key:
    """The key whose profile correlates best with the song's pitch classes (Krumhansl 1990)."""
    profile = chroma(song).sum(0)
    best, found = -2.0, Key(0, False)
    for is_minor, wanted in ((False, MAJOR_PROFILE), (True, MINOR_PROFILE)):
        for root in range(12):
            pair = torch.stack([profile, torch.tensor(wanted, dtype=torch.float32).roll(root)])
            fit = torch.corrcoef(pair)[0, 1].item()
            if fit > best:
                best, found = fit, Key(root, is_minor)
    return found


def relation(found: Key, asked: Key) -> Relation:
    """How a detected key stands to the right one: on the circle of fifths, next to it or beside."""
    places = [(3 * k.is_minor + k.root) % 12 for k in (found, asked)]  # as major keys
    if found == asked:
        return "right"
    if places[0] == places[1]:
        return "relative"
    is_fifth = (found.root - asked.root) % 12 in (5, 7) and found.is_minor == asked.is_minor
    return "fifth" if is_fifth else "other"


def chroma_similarity(song: Tensor, other: Tensor) -> float:
    """Mean cosine of the pitch classes of each half second; unrelated songs have about a half."""
    pair = [chroma(x) for x in (song, other)]
    count = min(map(len, pair)) // MOMENT * MOMENT
    one, two = (x[:count].unflatten(0, (-1, MOMENT)).sum(1) for x in pair)
    return F.cosine_similarity(one, two, dim=1).mean().item()


def onset_similarity(song: Tensor, other: Tensor) -> float:
    """Correlation of the flux of two songs, smoothed over 45 ms."""
    pair = [flux(x) for x in (song, other)]
    count = min(map(len, pair))
    window = torch.hann_window(9)[None, None]
    smooth = [F.conv1d(x[None, None, :count], window)[0, 0] for x in pair]
    return torch.corrcoef(torch.stack(smooth))[0, 1].item()


def width(song: Tensor) -> float:
    """Level of the side against the middle: 0 is mono, 1 as much side as middle."""
    left, right = song
    side, middle = (left - right).square().mean(), (left + right).square().mean()
    return (side / middle.clamp_min(1e-12)).sqrt().item()


def click(song: Tensor, borders: Sequence[int]) -> float:
    """How far the sharpest bend within 2 ms of a border stands above those around it.

    1 or less is music; a step of the waveform gives ten and more. Borders are samples.
    """
    bends = song.diff(n=3).abs().amax(0)
    worst = 0.0
    for border in borders:
        here = bends[border - CLICK_REACH : border + CLICK_REACH].max()
        before = bends[max(0, border - CLICK_AROUND) : border - CLICK_REACH].max()
        after = bends[border + CLICK_REACH : border + CLICK_AROUND].max()
        worst = max(worst, (here / torch.maximum(before, after).clamp_min(1e-9)).item())
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description="How often the facts measured are the score's.")
    parser.add_argument("--songs", type=int, default=60)
    count = parser.parse_args().songs
    torch.set_num_threads(1)
    bank = Bank()
    octave = exact = 0
    relations: list[Relation] = []
    for score in songs.scores(songs.HELD_OUT + 1000, count, songs.SONG_SECONDS):
        song = torch.from_numpy(render(score, bank))
        found = tempo(song)
        octave += is_tempo(found, score.bpm)
        exact += is_tempo(found, score.bpm, (1.0,))
        relations.append(relation(key(song), Key(score.key, score.minor)))
    print(f"tempo {octave / count:.0%} (without octaves {exact / count:.0%})")
    shares = {name: relations.count(name) / count for name in ("right", "relative", "fifth")}
    print("key", ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))


if __name__ == "__main__":
    main()
