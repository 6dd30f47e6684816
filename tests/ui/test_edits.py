"""Sources of edits: what is said about them, what they fill in, and what is heard in them."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile
from fake_engine import FakeEngine, FakeService
from loops import in_loop

from acestep.errors import AudioError, InvalidRequest
from acestep.library.recipe import pack
from acestep.request import Cover, Plan, Repaint, Text2Music
from acestep.request.asked import Recording
from acestep.ui import edits, tabs
from acestep.ui.boundary import line, warned
from acestep.ui.tabs import Tab


@pytest.fixture(scope="module")
def drawn() -> tuple[Tab, Tab]:
    def draw() -> tuple[Tab, Tab]:
        with gr.Blocks(), gr.Tabs():
            return tabs.build(Repaint), tabs.build(Cover)

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
        caption="dub techno",
        lyrics="[Verse]\nla",
        vocal_language="unknown",  # as a request is once it is resolved
        bpm=90,
        key_scale="A minor",
        duration=10,
        seed=7,
    )
    path = tmp_path / "song.flac"
    with soundfile.SoundFile(path, "w", 48_000, 2) as sound:
        sound.comment = pack({"request": request.model_dump(mode="json"), "take": 0, "seed": 7})
        sound.write(np.zeros((10 * 48_000, 2)))
    return path


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
    return by_name(tab, tab.source.look(values))


def test_what_a_person_named_a_file_does_not_become_html() -> None:
    assert "<img" not in line("<img src=x>") + warned(AudioError("<img>")) + warned("<img>")


def test_the_summary_follows_the_numbers(drawn: tuple[Tab, Tab], recording: Path) -> None:
    tab = drawn[0]
    said = look(tab, sent(tab, recording, repainting_start="12", repainting_end="20"))
    assert "tape.wav · 20.0 s" in said["repaint-facts"]
    assert said["repaint-summary"] == (
        '<p role="status">Will replace 0:12.0–0:20.0 (8.0 s). Everything else stays '
        "bit-identical.</p>"
    )
    said = look(tab, sent(tab, recording, repainting_start="-5", repainting_end=""))
    assert "Will add 5.0 s before the song" in said["repaint-summary"]
    said = look(tab, sent(tab, recording, regions="12 to 14, 16 to 17"))
    assert "0:12.0–0:14.0 (2.0 s) and 0:16.0–0:17.0" in said["repaint-summary"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"repainting_start": "12", "repainting_end": "5"}, "A region must end after it begins"),
        ({"repainting_start": "40"}, "the song ends at 0:20.0"),
        ({"repainting_start": "soon"}, "Repainting Start must be a number from -600 to 600 s"),
        ({"regions": "soon"}, "Regions are pairs of seconds"),
    ],
)
def test_a_region_that_cannot_be_is_said_below_the_numbers(
    drawn: tuple[Tab, Tab], recording: Path, fields: dict[str, Any], sentence: str
) -> None:
    said = look(drawn[0], sent(drawn[0], recording, **fields))["repaint-summary"]
    assert 'role="alert"' in said and sentence in said


def test_what_is_no_song_is_said_below_the_source(drawn: tuple[Tab, Tab], tmp_path: Path) -> None:
    notes = tmp_path / "notes.wav"
    notes.write_text("not a sound at all")
    for tab, name in zip(drawn, ("repaint", "cover"), strict=True):
        said = look(tab, sent(tab, notes))
        assert "notes.wav is not audio." in said[f"{name}-facts"]
        assert said.get("repaint-summary", "") == ""
        assert look(tab, sent(tab, None))[f"{name}-facts"] == ""


def test_a_song_of_ours_fills_the_words_that_nobody_wrote(
    drawn: tuple[Tab, Tab], song: Path
) -> None:
    asked = look(drawn[0], sent(drawn[0], song, bpm="120"))
    assert (asked["caption"], asked["lyrics"]) == ("dub techno", "[Verse]\nla")
    assert asked["key_scale"] == "A minor" and "bpm" not in asked
    assert "vocal_language" not in asked  # the recipe says that it is unknown
    assert "caption" not in look(drawn[1], sent(drawn[1], song))  # a cover becomes something else


def test_a_take_is_sent_with_its_words_whatever_was_there(
    drawn: tuple[Tab, Tab], song: Path
) -> None:
    for tab in drawn:
        assert tab.source is not None
        updates = tab.source.take(song)
        assert set(updates) <= set(tab.source.taking)
        taken = by_name(tab, updates)
        assert taken["source_audio"] == str(song) and taken["lyrics"] == "[Verse]\nla"


def test_what_is_drawn_makes_a_request(drawn: tuple[Tab, Tab], recording: Path) -> None:
    asked = drawn[0].form.read(sent(drawn[0], recording, repainting_start="2"))
    assert asked == Repaint(source_audio=recording, repainting_start=2)
    asked = drawn[1].form.read(sent(drawn[1], recording, caption="jazz trio"))
    assert asked == Cover(source_audio=recording, caption="jazz trio")
    with pytest.raises(InvalidRequest, match="Choose the song to change first"):
        drawn[0].form.read(sent(drawn[0], None))


def test_a_take_sent_to_repaint_brings_a_region_inside_it(
    drawn: tuple[Tab, Tab], song: Path
) -> None:
    assert drawn[0].source is not None
    taken = by_name(drawn[0], drawn[0].source.take(song))
    region = (taken["repainting_start"], taken["repainting_end"], taken["regions"])
    assert region == ("3", "7", "")  # of ten seconds


@pytest.mark.parametrize("seconds", [0.05, 0.5, 1.0, 2.0, 2.9, 3.0, 4.0, 5.0, 12.34, 599.9])
def test_the_region_proposed_lies_inside_a_song_of_any_length(
    drawn: tuple[Tab, Tab], seconds: float
) -> None:
    assert drawn[0].source is not None
    region = drawn[0].source.proposed(seconds)
    start, end = region["repainting_start"], region["repainting_end"]
    assert 0 <= start < end < seconds or seconds == 0.05
    if seconds >= 3:
        assert (start, end) == (int(start), int(end))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    engine = FakeEngine(tmp_path / "songs", FakeService(has_planner=True))
    yield engine
    engine.close()


def test_what_is_heard_is_offered_and_written_only_when_accepted(
    drawn: tuple[Tab, Tab], engine: FakeEngine, recording: Path
) -> None:
    hearing = drawn[1].hearing
    assert hearing is not None
    first, last = hearing.watch(engine, recording)
    assert "Listening" in first[hearing.line] and first[hearing.accept]["visible"] is False
    assert last[hearing.line] == line("Heard: 96 BPM, E minor.")
    assert last[hearing.accept]["visible"] is True
    assert not set(drawn[1].form.components) & (set(first) | set(last))
    written = by_name(drawn[1], hearing.take_over(last[hearing.heard]))
    assert (written["bpm"], written["key_scale"]) == ("96", "E minor")
    assert "time_signature" not in written  # nothing was heard of it
    assert written["cover-accept"]["visible"] is False


def test_listening_is_a_job_that_anyone_can_cancel(
    drawn: tuple[Tab, Tab], engine: FakeEngine, recording: Path
) -> None:
    hearing = drawn[1].hearing
    assert hearing is not None
    engine.service.step_seconds = 0.3
    steps = hearing.watch(engine, recording)
    next(steps)
    (job,) = engine.jobs()
    assert (job.action, job.request) == (
        "understand",
        Recording(source_audio=recording).model_dump(mode="json"),
    )
    engine.cancel(job.id)
    (last,) = steps
    assert last[hearing.line] == line("Cancelled.")
    assert engine.job(job.id).state == "cancelled"


def test_who_goes_away_while_it_listens_ends_the_job(
    drawn: tuple[Tab, Tab], engine: FakeEngine, recording: Path
) -> None:
    hearing = drawn[1].hearing
    assert hearing is not None
    engine.service.step_seconds = 0.3
    steps = hearing.watch(engine, recording)
    next(steps)
    assert isinstance(steps, Generator)
    steps.close()
    engine.ended(engine.jobs()[0])
    assert engine.jobs()[0].state == "cancelled"


def test_what_keeps_the_planner_from_hearing_is_said_in_its_place(
    drawn: tuple[Tab, Tab], engine: FakeEngine, recording: Path
) -> None:
    hearing = drawn[1].hearing
    assert hearing is not None
    engine.service.failure = AudioError("tape.wav is silent.")
    *_, last = hearing.watch(engine, recording)
    assert last[hearing.line] == warned("tape.wav is silent.")


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (Plan(bpm=96, key_scale="E minor"), "Heard: 96 BPM, E minor."),
        (Plan(bpm=96, time_signature=3), "Heard: 96 BPM, 3/4."),
        (Plan(), "No clear beat or key is heard."),
    ],
)
def test_what_the_planner_hears_is_one_sentence(plan: Plan, sentence: str) -> None:
    assert edits.heard(plan) == sentence
