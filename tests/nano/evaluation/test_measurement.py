"""What was measured is kept as it was, and compared with what was asked for."""

from pathlib import Path

from scripts.nano.data.score import compose
from scripts.nano.evaluation import measurement
from scripts.nano.evaluation.measurement import Measurement
from scripts.nano.evaluation.metrics import Key
from scripts.nano.evaluation.probe import Features


def test_measurements_are_kept_as_they_were(tmp_path: Path) -> None:
    measured = Measurement(126.0, Key(9, True), Features(7, 3.5, 4.2, "techno"), 0.25)
    measured.write(tmp_path / "measurement.json")
    assert Measurement.read(tmp_path / "measurement.json") == measured


def test_measurements_are_compared_with_what_was_asked() -> None:
    score = compose(0, 5.0, genre="techno", bpm=126, key=9, minor=True, drums=True, voice=False)
    features = Features(syllables=0, voice_seconds=0.0, hits_per_second=4.0, style="techno")
    right = Measurement(63.0, Key(0, False), features, 0.2)
    assert measurement.has_tempo(score, right) and not measurement.has_exact_tempo(score, right)
    assert measurement.has_near_key(score, right) and not measurement.has_key(score, right)
    assert measurement.has_drums(score, right) and measurement.has_voice(score, right)
    assert measurement.has_style(score, right)
    silent = Measurement(100.0, Key(3, False), Features(5, 2.0, 0.1, "jazz"), 0.2)
    rules = (
        measurement.has_tempo, measurement.has_near_key, measurement.has_drums,
        measurement.has_voice, measurement.has_style,
    )  # fmt: skip
    assert not any(rule(score, silent) for rule in rules)
