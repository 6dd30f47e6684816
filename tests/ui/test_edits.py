"""Sources of edits: which song an upload is, what is said about it, and what it fills in."""

import shutil
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile
from fake_service import FakeService
from loops import in_loop

from acestep.errors import AudioError, InvalidRequest
from acestep.request import Cover, Plan, Repaint, Text2Music
from acestep.ui import cover, repaint, sources
from acestep.ui.tabs import Tab
from acestep.ui.worker import Worker

SOON = 20.0


@pytest.fixture(scope="module")
def tabs() -> tuple[Tab, Tab]:
    def draw() -> tuple[Tab, Tab]:
        with gr.Blocks():
            return repaint.build(), cover.build()

    return in_loop(draw)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Twenty seconds that nobody here made."""
    path = tmp_path / "tape.wav"
    soundfile.write(path, np.full((20 * 8000, 1), 0.1), 8000)
    return path


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """Ten seconds of ours, with its recipe inside."""
    request = Text2Music(
        caption="dub techno", lyrics="[Verse]\nla", bpm=90, key_scale="A minor", duration=10, seed=7
    )
    return FakeService(step_seconds=0).run(request)[0].save_in(tmp_path / "songs")


def sent(tab: Tab, song: Path | None, **fields: Any) -> dict[Any, Any]:
    """What the browser sends for the form as it is at first, by component."""
    values = {part: getattr(part, "value", None) for part in tab.form.components}
    upload = song and {"path": str(song), "meta": {"_type": "gradio.FileData"}}
    fields = {"source_audio": upload, **fields}
    return values | {tab.form.fields[name]: value for name, value in fields.items()}


def by_name(tab: Tab, updates: dict[Any, Any]) -> dict[str, Any]:
    """Updates by field, and by id where they are no field's."""
    names = {part: name for name, part in tab.form.fields.items()}
    return {names.get(part, str(part.elem_id)): update for part, update in updates.items()}


def look(tab: Tab, values: dict[Any, Any]) -> dict[str, Any]:
    assert tab.source is not None
    return by_name(tab, tab.source._look(values))


def test_a_copy_of_our_song_is_that_song_and_anything_else_is_itself(
    song: Path, recording: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "cache" / song.name
    copy.parent.mkdir()
    shutil.copy(song, copy)
    assert sources.original(copy, song.parent) == song
    assert sources.original(copy, song.parent.parent) == song  # in a folder of its day
    assert sources.original(song, song.parent) == song
    assert sources.original(recording, song.parent) == recording
    copy.write_bytes(b"another song of the same name")
    assert sources.original(copy, song.parent) == copy


def test_facts_come_from_the_header_and_the_recipe(song: Path, recording: Path) -> None:
    assert sources.facts(recording) == "tape.wav · 20.0 s · 8 kHz mono · WAV"
    assert sources.facts(song).endswith("· 10.0 s · 48 kHz stereo · FLAC · made here with seed 7")


def test_what_a_person_named_a_file_does_not_become_html(tmp_path: Path) -> None:
    assert "<img" not in sources.line("<img src=x>") + sources.complaint(AudioError("<img>"))


def test_the_summary_follows_the_numbers(tabs: tuple[Tab, Tab], recording: Path) -> None:
    tab = tabs[0]
    said = look(tab, sent(tab, recording, repainting_start=12, repainting_end=20))
    assert "tape.wav · 20.0 s" in said["repaint-facts"]
    assert said["repaint-summary"] == (
        '<p role="status">Will replace 0:12.0–0:20.0 (8.0 s). Everything else stays '
        "bit-identical.</p>"
    )
    said = look(tab, sent(tab, recording, repainting_start=-5, repainting_end=""))
    assert "Will add 5.0 s before the song" in said["repaint-summary"]
    said = look(tab, sent(tab, recording, regions="12 to 14, 16 to 17"))
    assert "0:12.0–0:14.0 (2.0 s) and 0:16.0–0:17.0" in said["repaint-summary"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"repainting_start": 12, "repainting_end": 5}, "A region must end after it begins"),
        ({"repainting_start": 40}, "the song ends at 0:20.0"),
        ({"repainting_start": "soon"}, "Repainting Start must be a number from -600 to 600 s"),
        ({"regions": "soon"}, "Regions are pairs of seconds"),
    ],
)
def test_a_region_that_cannot_be_is_said_below_the_numbers(
    tabs: tuple[Tab, Tab], recording: Path, fields: dict[str, Any], sentence: str
) -> None:
    said = look(tabs[0], sent(tabs[0], recording, **fields))["repaint-summary"]
    assert 'role="alert"' in said and sentence in said


def test_what_is_no_song_is_said_below_the_source(tabs: tuple[Tab, Tab], tmp_path: Path) -> None:
    notes = tmp_path / "notes.wav"
    notes.write_text("not a sound at all")
    for tab, name in zip(tabs, ("repaint", "cover"), strict=True):
        said = look(tab, sent(tab, notes))
        assert "notes.wav is not audio." in said[f"{name}-facts"]
        assert said.get("repaint-summary", "") == ""
        assert look(tab, sent(tab, None))[f"{name}-facts"] == ""


def test_a_song_of_ours_fills_the_words_that_nobody_wrote(
    tabs: tuple[Tab, Tab], song: Path
) -> None:
    asked = look(tabs[0], sent(tabs[0], song, bpm=120))
    assert (asked["caption"], asked["lyrics"]) == ("dub techno", "[Verse]\nla")
    assert asked["key_scale"] == "A minor" and "bpm" not in asked
    assert "vocal_language" not in asked  # the recipe says that it is unknown
    assert "caption" not in look(tabs[1], sent(tabs[1], song))  # a cover becomes something else


def test_a_take_is_sent_with_its_words_whatever_was_there(
    tabs: tuple[Tab, Tab], song: Path
) -> None:
    for tab in tabs:
        assert tab.source is not None
        updates = tab.source.take(song)
        assert set(updates) <= set(tab.source.taking)
        taken = by_name(tab, updates)
        assert taken["source_audio"] == str(song) and taken["lyrics"] == "[Verse]\nla"


def test_what_is_drawn_makes_a_request(tabs: tuple[Tab, Tab], recording: Path) -> None:
    asked = tabs[0].form.read(sent(tabs[0], recording, repainting_start=2))
    assert asked == Repaint(source_audio=recording, repainting_start=2)
    asked = tabs[1].form.read(sent(tabs[1], recording, caption="jazz trio"))
    assert asked == Cover(source_audio=recording, caption="jazz trio")
    with pytest.raises(InvalidRequest, match="Choose the song to change first"):
        tabs[0].form.read(sent(tabs[0], None))


def test_the_worker_edits_our_own_file_and_not_its_copy(song: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cache" / song.name
    copy.parent.mkdir()
    shutil.copy(song, copy)
    service = FakeService(step_seconds=0)
    worker = Worker(lambda: service, song.parent)
    run = worker.submit(Repaint(source_audio=copy, repainting_start=5))
    assert run.wait(SOON)
    assert run.result()[0].report[0] == "Nothing audible changed."
    (asked,) = service.requests
    assert isinstance(asked, Repaint) and asked.source_audio == song
    heard = worker.understand(copy)
    assert heard.wait(SOON) and heard.result().bpm == 96
    assert service.heard == [song]
    worker.close()


@pytest.mark.parametrize(
    ("heard", "sentence"),
    [
        (Plan(bpm=96, key_scale="E minor"), "The planner hears 96 BPM, E minor."),
        (Plan(bpm=96, time_signature=3), "The planner hears 96 BPM, 3/4."),
        (Plan(), "The planner hears no clear beat or key."),
    ],
)
def test_what_the_planner_hears_is_one_sentence(heard: Plan, sentence: str) -> None:
    assert cover.said(heard) == sentence
