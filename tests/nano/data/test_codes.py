"""Codes hold what they claim to: facts to numbers and back."""

import math

import pytest

from scripts.nano.data import codes
from scripts.nano.data.codes import Facts
from scripts.nano.data.score import compose


def test_every_code_is_one_set_of_facts() -> None:
    size = math.prod(codes.LEVELS)
    decoded = {code: codes.decode(code) for code in range(size)}
    for code, facts in decoded.items():
        if facts.chord is not None:
            assert codes.encode(facts) == code


@pytest.mark.parametrize("seed", range(12))
def test_codes_say_what_the_score_says(seed: int) -> None:
    score = compose(seed, 20.0)
    found = [codes.decode(code) for code in codes.score_codes(score)]
    assert found == codes.transcribe(score)
    assert len(found) == 100
    assert {fact.has_drums for fact in found} == {score.kit is not None}
    begun = sum(fact.voice == 2 for fact in found)
    assert begun == len({int(note.start * 5) for note in score.syllables})
    chords = [fact.chord for fact in found]
    assert chords[0] == (score.chords[0].root, score.chords[0].minor)


def test_onsets_are_within_a_frame_of_the_kicks() -> None:
    score = compose(2, 20.0, genre="techno", bpm=126, drums=True)
    kicks = [hit.start for hit in score.hits if hit.piece == "kick"]
    heard = codes.onsets(codes.transcribe(score))
    assert all(min(abs(kick - onset) for onset in heard) <= codes.FRAME for kick in kicks)


def test_a_silent_code_says_nothing() -> None:
    nothing = Facts(beat=None, has_drums=False, backbeat=None, voice=0, chord=None)
    assert codes.encode(nothing) == 0
    assert codes.decode(0) == nothing
