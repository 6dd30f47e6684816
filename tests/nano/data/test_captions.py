"""Whatever way a song is asked for, what is said of it stays true."""

import re

import numpy as np
import pytest

from scripts.nano.data.captions import FLATS, request_for, write_captions
from scripts.nano.data.lexicon import syllables
from scripts.nano.data.score import NOTES, compose

SEEDS = range(300)


def captioned_scores():
    for seed in SEEDS:
        score = compose(seed, 10.0)
        yield score, write_captions(score, np.random.default_rng(seed))


def test_a_tempo_that_is_named_is_the_scores() -> None:
    named = 0
    for score, captions in captioned_scores():
        for text in (captions.caption, captions.detailed):
            found = re.search(
                r"(\d+) ?(?:bpm|beats)|(?:tempo|bpm) (\d+)\b(?!-)", text, re.IGNORECASE
            )
            if found:
                named += 1
                assert int(found[1] or found[2]) == score.bpm, text
    assert named > len(SEEDS) / 4


def test_a_key_that_is_named_is_the_scores_by_one_of_its_names() -> None:
    for score, captions in captioned_scores():
        note, mode = captions.key_scale.translate(str.maketrans("♯♭", "#b")).split(" ")
        names = {name: NOTES.index(name) for name in NOTES}
        names |= {other: NOTES.index(name) for name, other in FLATS.items()}
        assert names[note] == score.key
        assert mode == ("minor" if score.minor else "major")
        for other in re.findall(r"\b[A-G][#b♯♭]? (?:major|minor)", captions.detailed):
            assert other == captions.key_scale


def test_what_the_user_says_is_in_the_detailed_caption() -> None:
    for _, captions in captioned_scores():
        said = set(re.findall(r"[a-z]{4,}", captions.caption.lower()))
        known = set(re.findall(r"[a-z]{4,}", captions.detailed.lower())) | {"beats", "minute"}
        assert said <= known


def test_habits_change_no_syllable() -> None:
    for score, captions in captioned_scores():
        if score.syllables:
            assert syllables(captions.lyrics) == syllables(score.lyrics)
        else:
            assert captions.lyrics == "[Instrumental]"


@pytest.mark.parametrize("seed", range(20))
def test_a_request_says_nothing_false(seed: int) -> None:
    score = compose(seed, 12.0)
    asked = request_for(score, np.random.default_rng(seed))
    assert asked.bpm in (None, score.bpm)
    assert asked.time_signature in (None, score.time_signature)
    assert asked.duration == 12.0
