"""Measures of an edit, on sounds whose answers are known."""

import math

import pytest
import torch
from torch import Tensor

from acestep.media.edit_metrics import (
    change_db,
    changed_samples,
    chroma,
    chroma_similarity,
    seam_score,
)

RATE = 48_000


def tone(*frequencies: float, seconds: float = 4.0, gain: float = 0.2) -> Tensor:
    t = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    wave = sum(torch.sin(2 * math.pi * f * t + i) for i, f in enumerate(frequencies))
    return (gain * torch.as_tensor(wave)).float().expand(2, -1).clone()


def hiss(seconds: float = 4.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(2, round(seconds * RATE), generator=generator)


def test_samples_are_counted_one_by_one_and_in_either_channel() -> None:
    source = hiss()
    song, kept = source.clone(), torch.ones(source.shape[-1], dtype=torch.bool)
    kept[1000:2000] = False
    song[:, 1000:2000] = 0
    assert changed_samples(song, source, kept) == 0
    song[1, 999] = torch.nextafter(song[1, 999], torch.tensor(2.0))
    song[:, 5000] += 0.1
    assert changed_samples(song, source, kept) == 2


def test_change_is_the_difference_of_levels_in_decibels() -> None:
    sound = hiss()
    assert change_db(sound, sound) == 0
    assert change_db(sound, sound / 2) == pytest.approx(6.02, abs=0.1)
    assert change_db(tone(440), tone(466)) > 3 * change_db(tone(440), 1.05 * tone(440))
    assert change_db(sound, hiss(seed=1)) > 1


def test_silence_and_very_short_sounds_are_no_error() -> None:
    nothing = torch.zeros(2, 100)
    assert change_db(nothing, nothing) == 0 and chroma_similarity(nothing, nothing) is None
    assert seam_score(nothing, 50, (50, 60)) == 1


def test_a_smooth_border_scores_one_and_a_click_or_a_jump_far_less() -> None:
    song, border = tone(220, 331, 447), 2 * RATE
    assert seam_score(song, border, (border, border + 960)) > 0.9
    clicked = song.clone()
    clicked[:, border] += 0.5
    assert seam_score(clicked, border, (border, border + 960)) < 0.1
    jump = torch.cat([song[:, :border], 0.05 * tone(997)[:, border:]], dim=1)
    assert seam_score(jump, border, (border, border)) < 0.1
    assert seam_score(hiss(), border, (border, border + 960)) > 0.8


def test_chroma_names_the_pitch_class_in_every_octave() -> None:
    for frequency in (110, 220, 440, 880, 1760):
        moments = chroma(tone(frequency))
        assert moments.shape[1] == 12 and (moments.argmax(dim=1) == 9).all()  # A
    assert set(chroma(tone(261.63, 329.63, 392.0))[3].topk(3).indices.tolist()) == {0, 4, 7}


def test_chroma_similarity_orders_the_same_the_related_and_the_unrelated() -> None:
    c_major, a_minor, f_sharp = (
        tone(261.63, 329.63, 392.0),
        tone(220.0, 261.63, 329.63),
        tone(369.99, 466.16, 554.37),
    )
    assert chroma_similarity(c_major, c_major) == pytest.approx(1)
    louder_higher = 2 * tone(523.25, 659.26, 783.99)
    assert chroma_similarity(louder_higher, c_major) == pytest.approx(1, abs=0.05)
    related = chroma_similarity(a_minor, c_major)
    unrelated = chroma_similarity(f_sharp, c_major)
    assert related is not None and unrelated is not None
    assert 0.9 > related > 0.3 and unrelated < 0


def test_the_quiet_parts_count_less() -> None:
    quiet = 0.001 * tone(369.99)
    song = torch.cat([tone(440), quiet], dim=1)
    source = torch.cat([tone(440), 0.001 * tone(622.25)], dim=1)
    assert chroma_similarity(song, source) == pytest.approx(1, abs=0.05)
