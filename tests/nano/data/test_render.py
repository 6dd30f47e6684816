"""Rendered scores: the right length, level and place, always the same, and fast."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from acestep.media.audio import SAMPLES_PER_FRAME
from scripts.nano.data.instruments import LOOP, LOW, RATE, TONES, VOICES, Bank, frequency
from scripts.nano.data.render import LOUDNESS, render
from scripts.nano.data.score import Note, Score, Track, compose


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


def test_every_tone_repeats_with_the_clock_of_the_latents(bank: Bank) -> None:
    for instrument in TONES:
        for pitch in (40, 57, 70):
            vowel = "a" if instrument in VOICES else ""
            for layer in bank.tone(instrument, pitch, 1, vowel):
                assert layer.samples.shape == (LOOP,)
                if frequency(pitch) >= LOW:
                    first, second = np.split(layer.samples, 2)
                    np.testing.assert_allclose(first, second, atol=1e-5)
    assert LOOP % (2 * 5 * SAMPLES_PER_FRAME) == 0


def test_pitches_are_hardly_off() -> None:
    def off(pitch: int) -> float:
        return abs(1200 * math.log2(frequency(pitch) / (440 * 2 ** ((pitch - 69) / 12))))

    assert max(map(off, range(31, 100))) < 36  # cents, of the lowest bass
    assert max(map(off, range(57, 100))) < 20  # of chords and melodies


def test_a_note_sounds_the_same_whenever_it_is_struck(bank: Bank) -> None:
    def struck(start: float) -> np.ndarray:
        note = Note(start, 1.0, 60, 1.0)
        track = Track("organ", 0.0, 1.0, 0.0, [note])
        score = replace(compose(2, 3.0, drums=False, voice=False), reverb=0.0)
        return render(replace(score, tracks={"chords": track}), bank)[0, 30_000:45_000]

    early, late = struck(0.2), struck(0.3)
    np.testing.assert_allclose(early / np.abs(early).max(), late / np.abs(late).max(), atol=1e-3)


def test_rendering_is_thirty_times_faster_than_playing(bank: Bank) -> None:
    scores = [compose(seed, 20.0) for seed in range(100, 103)]
    for score in scores:
        render(score, bank)  # makes the bank's sounds, which training needs once
    began = time.process_time()
    for score in scores:
        render(score, bank)
    spent = time.process_time() - began
    assert sum(score.duration for score in scores) / spent >= 30
