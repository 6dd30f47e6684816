"""The studio asks the real service, once per song."""

from pathlib import Path

import pytest

from acestep.checkpoints.catalogue import Catalogue
from acestep.request import Text2Music
from scripts.nano.evaluation.studio import BASE, PRESETS, TURBO, Studio

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


def test_other_presets_start_anew(
    studio: Studio, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Studio(tiny_models, tmp_path).folder == studio.folder
    catalogue = Catalogue.read()
    corrected = catalogue.presets[PRESETS[0]].model_copy(update={"dcw": "low"})
    presets = {**catalogue.presets, PRESETS[0]: corrected}
    changed = catalogue.model_copy(update={"presets": presets})
    monkeypatch.setattr(Catalogue, "read", lambda: changed)
    assert Studio(tiny_models, tmp_path).folder != studio.folder


def test_guidance_can_be_asked_of_the_base_model(studio: Studio) -> None:
    request = REQUEST.model_copy(update={"guidance_scale": 3.0, "steps": 2})
    assert studio.make("guided-000", BASE, request)[0].shape == (2, 480_000)
