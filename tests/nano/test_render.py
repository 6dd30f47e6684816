"""Rendered scores: the right length, level and place, always the same, and fast."""

import time
from dataclasses import replace

import numpy as np
import pytest

from scripts.nano.instruments import RATE, Bank
from scripts.nano.render import LOUDNESS, render
from scripts.nano.score import Score, compose


@pytest.fixture(scope="module")
def bank() -> Bank:
    return Bank()


def level(sound: np.ndarray) -> float:
    return float(np.sqrt(np.square(sound).mean()))


def test_a_score_always_sounds_the_same(bank: Bank) -> None:
    score = compose(5, 4.0)
    mix = render(score, bank)
    assert mix.shape == (2, 4 * RATE) and mix.dtype == np.float32
    np.testing.assert_array_equal(mix, render(score, Bank()))


def test_mixes_are_level_and_do_not_clip(bank: Bank) -> None:
    for seed in range(8):
        mix = render(compose(seed, 5.0), bank)
        assert np.abs(mix).max() < 1
        assert 0.4 * LOUDNESS < level(mix) < 1.1 * LOUDNESS


def test_a_kick_is_heard_where_it_is_written(bank: Bank) -> None:
    score = compose(2, 4.0, genre="techno", bpm=120, drums=True, voice=False)
    kicks: Score = replace(
        score, tracks={}, hits=[h for h in score.hits if h.piece == "kick"], reverb=0.0
    )
    loud = np.abs(render(kicks, bank)).max(axis=0)
    for hit in kicks.hits:
        start = round(hit.start * RATE)
        assert loud[start : start + 2400].max() > 10 * loud[max(0, start - 100) : start].max(
            initial=1e-6
        )


def test_without_drums_or_voice_they_are_not_heard(bank: Bank) -> None:
    with_voice = compose(11, 4.0, genre="folk", drums=False, voice=True)
    without = replace(
        with_voice, tracks={k: t for k, t in with_voice.tracks.items() if k != "voice"}
    )
    assert level(render(with_voice, bank) - render(without, bank)) > 0.01
    assert not with_voice.hits


def test_rendering_is_thirty_times_faster_than_playing(bank: Bank) -> None:
    scores = [compose(seed, 20.0) for seed in range(100, 103)]
    for score in scores:
        render(score, bank)  # makes the bank's sounds, which training needs once
    began = time.process_time()
    for score in scores:
        render(score, bank)
    spent = time.process_time() - began
    assert sum(score.duration for score in scores) / spent >= 30
