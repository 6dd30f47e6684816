"""What the page says about a run, as pure functions of it."""

from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from fake_service import FakeService
from loops import in_loop

from acestep.errors import Cancelled, InvalidRequest, OutOfMemory
from acestep.progress import Progress
from acestep.request import Text2Music
from acestep.ui import results
from acestep.ui.boundary import bounded, shown
from acestep.ui.results import MAX_TAKES, Results
from acestep.ui.worker import SavedTake


def take(path: Path, number: int = 0, warnings: tuple[str, ...] = ()) -> SavedTake:
    return SavedTake(path, number, 42 + number, 20.0, {"rendering": 1.5}, list(warnings), {})


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (None, "Starting"),
        (Progress("rendering", 3, 8), "Rendering: step 3 of 8"),
        (Progress("planning", 300, 1200), "Planning the song: token 300 of 1,200"),
        (Progress("conditioning", 0, 1), "Reading caption and lyrics"),
        (Progress("checking", 2, 4), "Checking"),
        (Progress("decoding", 0, 0), "Decoding"),
    ],
)
def test_every_stage_has_words(progress: Progress | None, said: str) -> None:
    assert results.sentence(progress) == said


def test_a_run_that_waits_says_for_what() -> None:
    assert results.sentence(None, ahead=2) == "Waiting: 2 runs before this one"
    assert results.sentence(None, ahead=1) == "Waiting: 1 run before this one"
    assert results.sentence(None, ahead=1, is_loading=True) == "Loading the model"


def test_the_bar_shows_the_stage_and_never_divides_by_nothing() -> None:
    shown = results.bar("Rendering", Progress("rendering", 3, 8), 4.4)
    assert 'value="3" max="8"' in shown and "<span>4 s</span>" in shown
    assert 'max="1"' in results.bar("Decoding", Progress("decoding", 0, 0), 0)
    assert "value=" not in results.bar("Starting", None, 0)


def test_facts_name_seed_length_time_and_warnings(tmp_path: Path) -> None:
    said = results.facts(take(tmp_path / "song.flac", 1, ("Unknown tag [Chrous]",)))
    for part in ("Take 2", "43", "20.0 s of music in 1.5 s", "rendering 1.5 s", "[Chrous]"):
        assert part in said


def test_facts_say_what_an_edit_did(tmp_path: Path) -> None:
    said = results.facts(
        replace(take(tmp_path / "song.flac"), report=["Nothing audible changed.", "<b>Seams</b>"])
    )
    assert "<p>Nothing audible changed.</p>" in said and "<b>Seams" not in said


def test_nothing_that_a_user_or_a_file_wrote_becomes_html() -> None:
    evil = "<img src=x onerror=alert(1)>"
    said = results.facts(take(Path(f"/songs/{evil}.flac"), warnings=(evil,)))
    assert "<img" not in said + results.bar(evil, None, 0) + results.ended(evil)
    assert "<img" not in str(shown(InvalidRequest("key_scale", f"Key '{evil}' is not known.")))


def test_as_many_slots_are_shown_as_there_are_takes(tmp_path: Path) -> None:
    def draw() -> Results:
        with gr.Blocks():
            return Results({"cover": "Cover this"})

    slots = in_loop(draw)
    song = tmp_path / "song.flac"
    song.with_suffix(".json").write_text("{}")
    updates = slots.show([take(song), take(tmp_path / "other.flac", 1)])
    assert [updates[slot.group]["visible"] for slot in slots.slots] == [True] * 2 + [False] * (
        MAX_TAKES - 2
    )
    first, second, third = slots.slots[:3]
    assert updates[first.player]["value"] == str(song)
    assert updates[first.song]["label"] == "Download FLAC"
    assert [updates[slot.recipe]["visible"] for slot in (first, second)] == [True, False]
    assert updates[third.player] is None
    assert set(updates) <= set(slots.components)


def test_the_boundary_shows_our_errors_as_their_sentence_under_the_fields_name() -> None:
    def refuse() -> None:
        Text2Music.model_validate({"caption": "x", "bpm": 12})

    with pytest.raises(gr.Error) as error:
        bounded(refuse)()
    assert error.value.title == "BPM"
    assert error.value.message == "BPM must be a whole number from 30 to 300 (you gave 12)."
    assert not error.value.print_exception


def test_the_boundary_covers_a_generators_later_steps_too() -> None:
    def steps():
        yield 1
        raise OutOfMemory("Out of memory while decoding.")

    stepping = bounded(steps)()
    assert next(stepping) == 1
    with pytest.raises(gr.Error, match="Out of memory while decoding"):
        next(stepping)


def test_the_boundary_lets_bugs_through_as_they_are() -> None:
    def bug() -> None:
        raise KeyError("bpm")

    with pytest.raises(KeyError):
        bounded(bug)()


def test_a_cancelled_run_is_not_called_an_error() -> None:
    assert shown(Cancelled("Cancelled. Nothing was written.")).title == "Cancelled"


def test_the_fake_saves_what_it_says(tmp_path: Path) -> None:
    tracks = FakeService(step_seconds=0).run(Text2Music(caption="x", duration=10, seed=1))
    assert tracks[0].save_in(tmp_path).stat().st_size > 10_000
