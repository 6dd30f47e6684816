"""Scores keep their own promises: whatever is said of a song is true of its notes."""

import numpy as np
import pytest

from scripts.nano.data import lexicon
from scripts.nano.data.genres import GENRES
from scripts.nano.data.score import MAJOR, MINOR, NOTES, Score, compose, describe

SEEDS = range(40)


@pytest.fixture(scope="module")
def scores() -> list[Score]:
    return [compose(seed, 20.0) for seed in SEEDS]


def test_a_seed_is_a_song() -> None:
    assert compose(7) == compose(7)
    assert compose(7) != compose(8)


def test_wishes_are_granted() -> None:
    score = compose(
        3, 10.0, genre="jazz", bpm=117, key=6, minor=True, time_signature=3, drums=False, voice=True
    )
    assert (score.genre, score.bpm, score.key_scale) == ("jazz", 117, "F# minor")
    assert (score.time_signature, score.kit, score.hits) == (3, None, [])
    assert score.syllables and score.duration == 10.0


def test_every_note_belongs_to_the_key(scores: list[Score]) -> None:
    for score in scores:
        scale = {(score.key + degree) % 12 for degree in (MINOR if score.minor else MAJOR)}
        for name, track in score.tracks.items():
            if track.instrument == "upright" and name == "bass":
                continue  # a walking bass passes through the sixth
            assert {note.pitch % 12 for note in track.notes} <= scale, (score.seed, name)


def test_beats_are_even_and_begin_at_zero(scores: list[Score]) -> None:
    for score in scores:
        assert score.beats[0] == 0.0
        np.testing.assert_allclose(np.diff(score.beats), 60 / score.bpm)
        assert score.beats[-1] < score.duration


def test_nothing_begins_after_the_end(scores: list[Score]) -> None:
    for score in scores:
        notes = [note for track in score.tracks.values() for note in track.notes]
        assert all(0 <= note.start < score.duration for note in notes)
        assert all(0 <= hit.start < score.duration for hit in score.hits)


def test_what_is_sung_is_what_is_written(scores: list[Score]) -> None:
    sung = [score for score in scores if score.syllables]
    assert sung
    for score in scores:
        assert (score.lyrics == "[Instrumental]") == (not score.syllables)
    for score in sung:
        written = lexicon.syllables(score.lyrics)
        assert [note.syllable for note in score.syllables] == written[: len(score.syllables)]
        assert len(written) - len(score.syllables) <= 1  # the last may fall behind the end


def test_captions_are_true_and_varied(scores: list[Score]) -> None:
    rng = np.random.default_rng(0)
    for score in scores:
        captions = {describe(score, rng) for _ in range(20)}
        assert len(captions) > 10
        for caption in captions:
            assert any(name in caption for name in GENRES[score.genre].names)
            assert not any(
                f" {note} {mode}" in f" {caption}"
                for note in NOTES
                for mode in ("major", "minor")
                if f"{note} {mode}" != score.key_scale
            )
            says_none = any(phrase in caption for phrase in lexicon.NO_DRUMS)
            assert not says_none or score.kit is None


@pytest.mark.parametrize(
    ("text", "count"),
    [("moon light", 2), ("tomorrow", 3), ("fire", 1), ("little", 2), ("[Verse]\nyesterday", 3)],
)
def test_syllables_are_counted_as_they_are_sung(text: str, count: int) -> None:
    assert len(lexicon.syllables(text)) == count


def test_every_style_can_be_written() -> None:
    for genre in GENRES:
        score = compose(1, 8.0, genre=genre)
        assert score.genre == genre and score.tracks["bass"].notes
