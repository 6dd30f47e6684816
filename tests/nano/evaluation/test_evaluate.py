"""The evaluation asks the real service, once per song, and counts what it is told to count."""

from pathlib import Path

import pytest

from acestep.request import Text2Music
from scripts.nano.data.score import compose
from scripts.nano.evaluation import evaluate
from scripts.nano.evaluation.evaluate import BASE, TURBO, Figure, Measurement, Studio
from scripts.nano.evaluation.metrics import Key
from scripts.nano.evaluation.probe import Features

REQUEST = Text2Music(caption="jazz", duration=10.0, think=False, seed=1)


@pytest.fixture
def studio(tiny_models: Path, tmp_path: Path) -> Studio:
    return Studio(tiny_models, tmp_path)


def test_a_song_is_made_once(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    song, recipe = studio.make("plain-000", TURBO, REQUEST)
    assert song.shape == (2, 480_000)
    assert recipe["request"]["caption"] == "jazz"
    monkeypatch.setattr(studio, "service", None)  # nothing more is asked of it
    again, _ = studio.make("plain-000", TURBO, REQUEST)
    assert song.equal(again)


def test_a_song_that_was_cut_off_is_made_again(studio: Studio) -> None:
    song, _ = studio.make("plain-000", TURBO, REQUEST)
    (studio.folder / "plain-000.done").unlink()
    (studio.folder / "plain-000.flac").write_bytes(b"half a file")
    again, _ = studio.make("plain-000", TURBO, REQUEST)
    assert song.equal(again)


def test_another_wish_is_another_song(studio: Studio) -> None:
    song, _ = studio.make("plain-000", TURBO, REQUEST)
    other, _ = studio.make("plain-000", TURBO, REQUEST.model_copy(update={"seed": 2}))
    assert not song.equal(other)


def test_guidance_can_be_asked_of_the_base_model(studio: Studio) -> None:
    request = REQUEST.model_copy(update={"guidance_scale": 3.0, "steps": 2})
    assert studio.make("guided-000", BASE, request)[0].shape == (2, 480_000)


def test_measurements_are_kept_as_they_were(tmp_path: Path) -> None:
    measured = Measurement(126.0, Key(9, True), Features(7, 3.5, 4.2, "techno"), 0.25)
    measured.write(tmp_path / "measurement.json")
    assert Measurement.read(tmp_path / "measurement.json") == measured


def test_measurements_are_compared_with_what_was_asked() -> None:
    score = compose(0, 5.0, genre="techno", bpm=126, key=9, minor=True, drums=True, voice=False)
    features = Features(syllables=0, voice_seconds=0.0, hits_per_second=4.0, style="techno")
    right = Measurement(63.0, Key(0, False), features, 0.2)
    assert evaluate.has_tempo(score, right) and not evaluate.has_exact_tempo(score, right)
    assert evaluate.has_near_key(score, right) and not evaluate.has_key(score, right)
    assert evaluate.has_drums(score, right) and evaluate.has_voice(score, right)
    assert evaluate.has_style(score, right)
    silent = Measurement(100.0, Key(3, False), Features(5, 2.0, 0.1, "jazz"), 0.2)
    rules = (
        evaluate.has_tempo, evaluate.has_near_key, evaluate.has_drums, evaluate.has_voice,
        evaluate.has_style,
    )  # fmt: skip
    assert not any(rule(score, silent) for rule in rules)


@pytest.mark.parametrize(
    ("bound", "value", "is_met"),
    [
        ((">=", 0.8), 0.8, True),
        ((">=", 0.8), 0.79, False),
        (("<=", 3.5), 3.4, True),
        (None, 1, None),
    ],
)
def test_a_figure_knows_whether_it_is_reached(bound, value, is_met) -> None:
    figure = Figure("think", "tempo", value, bound)
    assert figure.is_met is is_met
    assert ("NO" in figure.row()) == (is_met is False)
