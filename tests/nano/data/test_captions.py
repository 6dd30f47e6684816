"""Whatever way a song is asked for, what is said of it stays true."""

import re

import numpy as np
import pytest

from scripts.nano.data.captions import FLATS, request, word
from scripts.nano.data.lexicon import syllables
from scripts.nano.data.score import NOTES, compose

SEEDS = range(300)


def wordings():
    for seed in SEEDS:
        score = compose(seed, 10.0)
        yield score, word(score, np.random.default_rng(seed))


def test_a_tempo_that_is_named_is_the_scores() -> None:
    named = 0
    for score, wording in wordings():
        for text in (wording.caption, wording.detailed):
            found = re.search(
                r"(\d+) ?(?:bpm|beats)|(?:tempo|bpm) (\d+)\b(?!-)", text, re.IGNORECASE
            )
            if found:
                named += 1
                assert int(found[1] or found[2]) == score.bpm, text
    assert named > len(SEEDS) / 4


def test_a_key_that_is_named_is_the_scores_by_one_of_its_names() -> None:
    for score, wording in wordings():
        note, mode = wording.key_scale.translate(str.maketrans("♯♭", "#b")).split(" ")
        names = {name: NOTES.index(name) for name in NOTES}
        names |= {other: NOTES.index(name) for name, other in FLATS.items()}
        assert names[note] == score.key
        assert mode == ("minor" if score.minor else "major")
        for other in re.findall(r"\b[A-G][#b♯♭]? (?:major|minor)", wording.detailed):
            assert other == wording.key_scale


def test_what_the_user_says_is_in_the_detailed_caption() -> None:
    for _, wording in wordings():
        said = set(re.findall(r"[a-z]{4,}", wording.caption.lower()))
        known = set(re.findall(r"[a-z]{4,}", wording.detailed.lower())) | {"beats", "minute"}
        assert said <= known


def test_habits_change_no_syllable() -> None:
    for score, wording in wordings():
        if score.syllables:
            assert syllables(wording.lyrics) == syllables(score.lyrics)
        else:
            assert wording.lyrics == "[Instrumental]"


@pytest.mark.parametrize("seed", range(20))
def test_a_request_says_nothing_false(seed: int) -> None:
    score = compose(seed, 12.0)
    asked = request(score, np.random.default_rng(seed))
    assert asked.bpm in (None, score.bpm)
    assert asked.time_signature in (None, score.time_signature)
    assert asked.duration == 12.0
