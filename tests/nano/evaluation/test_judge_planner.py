"""Codes are judged by what they stand for: the scores' own pass, others fail."""

from scripts.nano.data.codes import transcribe
from scripts.nano.data.score import compose
from scripts.nano.evaluation import judge_planner


def test_the_scores_own_codes_are_right_in_every_way() -> None:
    found = judge_planner.ceiling(30)
    assert (found.tempo, found.key, found.drums, found.voice) == (1, 1, 1, 1)
    assert found.syllables > 0.99


def test_another_tempo_is_wrong_and_an_octave_is_not() -> None:
    facts = transcribe(compose(1, 20.0, bpm=126, drums=True, time_signature=4))
    assert judge_planner.codes_have_tempo(facts, 126)
    assert judge_planner.codes_have_tempo(facts, 63)
    assert not judge_planner.codes_have_tempo(facts, 120)
    assert not judge_planner.codes_have_tempo(facts, 132)
    assert not judge_planner.codes_have_tempo([], 126)


def test_another_key_is_wrong() -> None:
    facts = transcribe(compose(1, 20.0, key=0, minor=False))
    assert judge_planner.codes_are_in_key(facts, 0, minor=False)
    assert not judge_planner.codes_are_in_key(facts, 6, minor=False)
    assert not judge_planner.codes_are_in_key([], 0, minor=False)


def test_everything_is_asked_for_in_words() -> None:
    score = compose(8, 20.0)
    caption = judge_planner.caption_request(score).caption
    assert str(score.bpm) in caption and score.key_scale in caption
    assert judge_planner.caption_request(score).bpm is None
