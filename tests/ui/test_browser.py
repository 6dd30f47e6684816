"""A person at the page, in Chromium: the fake service for the page's manners, then the real one.

    uv run pytest -m browser

Needs Chromium (on Debian and Ubuntu: apt-get install chromium); without it these tests fail.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from chromium import SOON, Visit
from conftest import OpenPage, free_port
from fake_service import BASE, FakeService
from playwright.sync_api import Browser, expect

from acestep.errors import OutOfMemory
from acestep.request import Cover, Repaint
from acestep.ui.app import RunningPage

COLD_START = 15.0  # seconds until the page answers

pytestmark = [
    pytest.mark.browser,
    # Gradio's queue uses what pandas 3 has deprecated, on the server's thread.
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
]


def go(visit: Visit, page: RunningPage, query: str = "") -> None:
    visit.page.goto(page.url + query)
    visit.ready()


def test_the_first_click_makes_a_song_with_progress_and_a_player(
    visit: Visit, open_page: OpenPage, tmp_path: Path
) -> None:
    service = FakeService(step_seconds=0.3)
    go(visit, open_page(service))
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Rendering: step", timeout=SOON)
    assert visit.page.locator("#progress progress").get_attribute("max") == "8"
    expect(visit.page.locator("#cancel")).to_be_visible()
    expect(visit.page.locator("#generate")).to_be_hidden()
    expect(visit.page.locator("#progress")).to_contain_text("Done: 12 s of music", timeout=SOON)
    take = visit.page.locator(".take").first
    expect(take.locator("time").last).to_have_text("0:12", timeout=SOON)
    expect(take).to_contain_text(f"seed {service.requests[0].seed}")
    with visit.page.expect_download() as download:
        visit.page.locator("#download-1").click()
    saved = tmp_path / "downloaded.flac"
    download.value.save_as(saved)
    assert soundfile.info(saved).frames == 12 * 48_000
    with visit.page.expect_download() as download:
        visit.page.locator("#recipe-1").click()
    assert json.loads(Path(download.value.path()).read_text())["seed"] == service.requests[0].seed


def test_boxes_that_nobody_filled_are_empty(visit: Visit, open_page: OpenPage) -> None:
    go(visit, open_page(FakeService()))
    visit.open_rendering()
    for name in ("duration", "steps", "shift", "seed"):
        expect(visit.page.locator(visit.box(name))).to_have_value("")


def test_what_is_typed_and_chosen_is_what_is_asked_for(visit: Visit, open_page: OpenPage) -> None:
    service = FakeService()
    go(visit, open_page(service))
    visit.page.get_by_role("button", name="Synth-pop").click()
    expect(visit.page.locator(visit.box("bpm"))).to_have_value("120")
    visit.fill("caption", "dub techno")
    visit.fill("duration", "13")
    visit.open_rendering()
    visit.fill("seed", "4294967295")
    visit.page.get_by_label("Solver").click()
    visit.page.get_by_role("option", name="heun").click()
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Done: 13 s", timeout=SOON)
    (request,) = service.requests
    assert (request.caption, request.bpm, request.duration) == ("dub techno", 120, 13.0)
    assert (request.seed, request.solver, request.key_scale) == (4294967295, "heun", "C major")
    assert request.lyrics.startswith("[Verse]") and request.vocal_language == "en"


def test_a_bad_value_shows_its_sentence_and_nothing_typed_is_lost(
    visit: Visit, open_page: OpenPage
) -> None:
    service = FakeService()
    go(visit, open_page(service))
    visit.fill("caption", "<b>dub</b> techno")
    visit.fill("bpm", "12")
    visit.press_generate()
    sentence = "BPM must be a whole number from 30 to 300 (you gave 12)."
    expect(visit.page.get_by_text(sentence)).to_be_visible(timeout=SOON)
    expect(visit.page.locator(visit.box("caption"))).to_have_value("<b>dub</b> techno")
    expect(visit.page.locator(visit.box("bpm"))).to_have_value("12")
    visit.fill("bpm", "90")
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Done", timeout=SOON)
    assert service.requests[0].bpm == 90


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (OutOfMemory("Out of memory on <b>CPU</b>."), "Out of memory on <b>CPU</b>."),
        (ValueError("a bug"), "a bug"),
    ],
)
def test_a_run_that_fails_says_why_and_leaves_the_page_ready(
    visit: Visit, open_page: OpenPage, failure: Exception, said: str
) -> None:
    service = FakeService(failure=failure)
    go(visit, open_page(service))
    visit.press_generate()
    expect(visit.page.get_by_text(said, exact=True)).to_be_visible(timeout=SOON)
    expect(visit.page.locator("#generate")).to_be_visible()
    expect(visit.page.locator("#cancel")).to_be_hidden()
    expect(visit.page.locator("#progress")).to_have_text("")
    service.failure = None
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Done", timeout=SOON)


def test_cancel_ends_in_words_and_the_next_run_works(visit: Visit, open_page: OpenPage) -> None:
    service = FakeService(step_seconds=0.5)
    go(visit, open_page(service))
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Rendering", timeout=SOON)
    visit.page.locator("#cancel").click()
    expect(visit.page.locator("#progress")).to_have_text("Cancelled.", timeout=3000)
    expect(visit.page.locator("#generate")).to_be_visible()
    expect(visit.page.locator(".take").first).to_be_hidden()
    service.step_seconds = 0.01
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Done", timeout=SOON)


def test_a_run_can_be_cancelled_while_the_model_still_loads(
    visit: Visit, open_page: OpenPage
) -> None:
    def load() -> FakeService:
        time.sleep(6)
        return FakeService()

    visit.page.goto(open_page(load_service=load).url)
    visit.press_generate()  # as early as can be: empty boxes are empty from the start
    expect(visit.page.locator("#progress")).to_contain_text("Loading the model", timeout=SOON)
    visit.page.locator("#cancel").click()
    expect(visit.page.locator("#progress")).to_have_text("Cancelled.", timeout=3000)
    visit.ready()


def test_ctrl_enter_generates_and_escape_cancels(visit: Visit, open_page: OpenPage) -> None:
    service = FakeService(step_seconds=0.5)
    go(visit, open_page(service))
    visit.fill("caption", "typed a moment ago")
    visit.page.keyboard.press("Control+Enter")
    expect(visit.page.locator("#progress")).to_contain_text("Rendering", timeout=SOON)
    assert service.requests[0].caption == "typed a moment ago"
    visit.page.keyboard.press("Escape")
    expect(visit.page.locator("#progress")).to_have_text("Cancelled.", timeout=3000)


def test_a_closed_tab_loses_the_player_but_not_the_song(
    browser: Browser, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page(FakeService(step_seconds=0.3))
    tab = browser.new_page()
    tab.goto(page.url)
    tab.locator("#generate").click()
    expect(tab.locator("#progress")).to_contain_text("Rendering", timeout=SOON)
    tab.close()
    deadline = time.monotonic() + SOON / 1000
    while not list(tmp_path.glob("songs/*.flac")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(list(tmp_path.glob("songs/*.flac"))) == 1


def test_two_tabs_take_turns_and_both_get_their_songs(
    browser: Browser, visit: Visit, open_page: OpenPage
) -> None:
    page = open_page(FakeService(step_seconds=0.3))
    go(visit, page)
    other = browser.new_page()
    other.goto(page.url)
    expect(other.locator("#status")).to_contain_text("Ready", timeout=SOON)
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Rendering", timeout=SOON)
    other.locator("#generate").click()
    expect(other.locator("#progress")).to_contain_text("Waiting: 1 run before", timeout=SOON)
    expect(visit.page.locator("#progress")).to_contain_text("Done", timeout=SOON)
    expect(other.locator("#progress")).to_contain_text("Done", timeout=SOON)
    other.close()


def test_many_short_runs_in_a_row_each_show_their_own_take(
    visit: Visit, open_page: OpenPage
) -> None:
    service = FakeService(step_seconds=0.005)
    go(visit, open_page(service))
    visit.open_rendering()
    for seed in range(12):  # a run that ended at once used to leave the button away for good
        visit.fill("seed", str(seed))
        visit.press_generate()
        expect(visit.page.locator(".take .facts").first).to_contain_text(
            f"seed {seed} ", timeout=SOON
        )
        player = visit.page.locator("#take-1")
        expect(player).to_contain_text(f"{seed + 1:04d}_text2music", timeout=SOON)


def test_as_many_players_as_takes(visit: Visit, open_page: OpenPage) -> None:
    go(visit, open_page(FakeService()))
    visit.page.locator("#takes input[type=number]").fill("3")
    visit.press_generate()
    expect(visit.page.locator("[id^=take-]:visible")).to_have_count(3, timeout=SOON)
    visit.page.locator("#takes input[type=number]").fill("1")
    visit.press_generate()
    expect(visit.page.locator("[id^=take-]:visible")).to_have_count(1, timeout=SOON)


def test_the_planners_controls_are_there_only_with_a_planner(
    visit: Visit, open_page: OpenPage
) -> None:
    go(visit, open_page(FakeService()))
    expect(visit.page.get_by_role("button", name="LM Generation Parameters")).to_be_hidden()
    visit.open_rendering()
    expect(visit.page.get_by_label("Guidance Scale")).to_be_disabled()
    expect(visit.page.locator("#guidance-scale")).to_contain_text("Turbo models need no guidance.")
    go(visit, open_page(FakeService(preset=BASE, has_planner=True)))
    visit.page.get_by_role("button", name="LM Generation Parameters").click()
    expect(visit.page.get_by_label("Think")).to_be_checked()
    expect(visit.page.locator("#engine")).to_contain_text("vLLM <is> not installed.")
    visit.open_rendering()
    expect(visit.page.get_by_label("Guidance Scale")).to_be_enabled()


def test_a_phone_needs_no_sideways_scroll_and_keeps_the_button_in_reach(
    visit: Visit, open_page: OpenPage
) -> None:
    visit.page.set_viewport_size({"width": 390, "height": 844})
    go(visit, open_page(FakeService()))
    visit.open_rendering()
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Done", timeout=SOON)
    width = "document.scrollingElement.scrollWidth"
    assert visit.page.evaluate(width) == 390
    box = visit.page.locator("#generate").bounding_box()
    assert box is not None and box["y"] + box["height"] <= 844


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(visit: Visit, open_page: OpenPage, theme: str) -> None:
    go(visit, open_page(FakeService()), f"?__theme={theme}")
    for selector in ("h1", "#status p", "#caption span", "#caption textarea", "#generate"):
        ratio = visit.page.locator(selector).first.evaluate(CONTRAST)
        assert ratio >= 4.5, f"{selector} in {theme}: contrast {ratio:.1f}"


# WCAG 2 contrast of an element's text with the first opaque ground below it.
CONTRAST = """element => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  let ground = [255, 255, 255];
  for (let e = element; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0.99) { ground = c; break; }
  }
  const a = light(parse(getComputedStyle(element).color)), b = light(ground);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The real program with the model that ships with it: its address and its output folder."""
    outputs = tmp_path_factory.mktemp("outputs")
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "-m", "acestep", "--port", str(port), "--no-open"]
    log = (outputs / "log.txt").open("w")
    process = subprocess.Popen(
        [*command, "--output-dir", str(outputs)], stdout=log, stderr=subprocess.STDOUT
    )
    began = time.monotonic()
    while not answers(url):
        assert process.poll() is None, (outputs / "log.txt").read_text()
        assert time.monotonic() - began < COLD_START, "The page took too long to answer."
        time.sleep(0.1)
    yield url, outputs
    process.terminate()
    process.wait(timeout=30)
    log.close()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_the_real_model_makes_a_song_that_plays(
    visit: Visit, studio: tuple[str, Path], tmp_path: Path
) -> None:
    url, outputs = studio
    visit.page.goto(url)
    expect(visit.page.get_by_role("heading", level=1)).to_have_count(1)
    visit.ready()
    expect(visit.page.locator("#status")).to_contain_text("acestep-v15-nano-turbo")
    visit.fill("duration", "10")
    visit.press_generate()
    expect(visit.page.locator("#progress progress")).to_be_visible(timeout=SOON)
    expect(visit.page.locator("#progress")).to_contain_text("Done: 10 s", timeout=120_000)
    expect(visit.page.locator("#take-1 time").last).to_have_text("0:10", timeout=SOON)
    (song,) = outputs.rglob("*.flac")
    sound, rate = soundfile.read(song)
    assert (rate, sound.shape) == (48_000, (480_000, 2)) and abs(sound).max() > 0.01
    recipe = json.loads(song.with_suffix(".json").read_text())
    assert str(recipe["request"]["seed"]) in visit.page.locator(".take .facts").first.inner_text()
    visit.page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_the_real_model_can_be_cancelled_and_corrected(
    visit: Visit, studio: tuple[str, Path]
) -> None:
    url, outputs = studio
    visit.page.goto(url)
    visit.ready()
    songs = len(list(outputs.rglob("*.flac")))
    visit.fill("duration", "300")
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text(
        re.compile("token|step|Reading"), timeout=SOON
    )
    visit.page.locator("#cancel").click()
    expect(visit.page.locator("#progress")).to_have_text("Cancelled.", timeout=SOON)
    assert len(list(outputs.rglob("*.flac"))) == songs
    visit.fill("duration", "10")
    visit.open_rendering()
    visit.fill("steps", "50")
    visit.press_generate()
    refused = visit.page.get_by_text("Turbo models take 1–20 steps (you gave 50).")
    expect(refused).to_be_visible(timeout=SOON)
    visit.fill("steps", "2")
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Done: 10 s", timeout=120_000)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Twenty seconds of a tone that swells."""
    path = tmp_path / "tape.wav"
    t = np.arange(20 * 48_000) / 48_000
    wave = 0.3 * np.sin(2 * np.pi * 220 * t) * np.sin(2 * np.pi * 0.5 * t) ** 2
    soundfile.write(path, np.stack([wave, wave], axis=1), 48_000)
    return path


def open_tab(visit: Visit, name: str, song: Path) -> None:
    """Open a tab and give it a source."""
    visit.page.get_by_role("tab", name=name).click()
    chooser = visit.page.locator(f"#{name.lower()}-source-audio input[type=file]")
    chooser.set_input_files(song)
    expect(visit.page.locator(f"#{name.lower()}-facts")).to_contain_text(song.name, timeout=SOON)


def test_a_repaint_says_what_it_will_do_does_it_and_reports(
    visit: Visit, open_page: OpenPage, recording: Path
) -> None:
    service = FakeService(step_seconds=0.1)
    go(visit, open_page(service))
    open_tab(visit, "Repaint", recording)
    expect(visit.page.locator("#repaint-source-audio time").last).to_have_text("0:20")
    summary = visit.page.locator("#repaint-summary")
    expect(summary).to_contain_text("Will replace the whole song (20.0 s).", timeout=SOON)
    visit.fill("repaint-start", "12")
    visit.fill("repaint-end", "18.5")
    sentence = "Will replace 0:12.0–0:18.5 (6.5 s). Everything else stays bit-identical."
    expect(summary).to_have_text(sentence, timeout=SOON)
    visit.fill("repaint-end", "5")
    expect(summary).to_contain_text("A region must end after it begins", timeout=SOON)
    visit.press_generate()  # the same sentence as an error, and nothing runs
    expect(visit.page.get_by_test_id("toast-body")).to_contain_text(
        "A region must end after it begins", timeout=SOON
    )
    assert service.requests == []
    visit.fill("repaint-end", "18.5")
    visit.fill("repaint-caption", "a flute solo")
    visit.fill("repaint-lyrics", "[Verse]\nother words")
    visit.page.locator("#repaint-takes input[type=number]").fill("2")
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Done: 40 s of music", timeout=SOON)
    (asked,) = service.requests
    assert isinstance(asked, Repaint)
    assert (asked.repainting_start, asked.repainting_end, asked.takes) == (12, 18.5, 2)
    assert (asked.caption, asked.lyrics) == ("a flute solo", "[Verse]\nother words")
    facts = visit.page.locator(".take .facts").first
    expect(facts).to_contain_text("Outside the region 0 samples changed.")
    expect(facts).to_contain_text("Nothing audible changed.")


def test_a_take_is_sent_to_the_other_tabs_with_its_words(
    visit: Visit, open_page: OpenPage, tmp_path: Path
) -> None:
    service = FakeService(has_planner=True)
    go(visit, open_page(service))
    visit.page.get_by_role("button", name="Synth-pop").click()
    expect(visit.page.locator(visit.box("bpm"))).to_have_value("120")
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Done: 12 s", timeout=SOON)
    visit.page.locator("#repaint-this-1").click()
    expect(visit.page.locator("#repaint-facts")).to_contain_text("made here with", timeout=SOON)
    expect(visit.page.locator(visit.box("repaint-lyrics"))).to_have_value(
        re.compile("Streetlights")
    )
    visit.fill("repaint-start", "4")
    expect(visit.page.locator("#repaint-summary")).to_contain_text("0:04.0–0:12.0", timeout=SOON)
    visit.press_generate()
    facts = visit.page.locator(".take .facts").first
    expect(facts).to_contain_text("0002_repaint", timeout=SOON)
    asked = service.requests[-1]
    assert isinstance(asked, Repaint) and asked.caption.startswith("bright synth-pop")
    assert asked.source_audio == tmp_path / "songs" / "0001_text2music_fake.flac"
    visit.page.locator("#cover-this-1").click()
    expect(visit.page.locator("#cover-facts")).to_contain_text("0002_repaint", timeout=SOON)
    expect(visit.page.locator(visit.box("cover-lyrics"))).to_have_value(re.compile("Streetlights"))
    expect(visit.page.locator(visit.box("cover-caption"))).to_have_value("")


def test_a_cover_hears_its_source_needs_words_and_reports(
    visit: Visit, open_page: OpenPage, recording: Path
) -> None:
    service = FakeService(has_planner=True, step_seconds=0.5)
    go(visit, open_page(service))
    open_tab(visit, "Cover", recording)
    visit.page.locator("#listen").click()
    expect(visit.page.locator("#progress")).to_have_text(
        "The planner hears 96 BPM, E minor.", timeout=SOON
    )
    expect(visit.page.locator(visit.box("cover-bpm"))).to_have_value("96")
    expect(visit.page.locator("#generate")).to_be_visible()
    visit.press_generate()
    refused = visit.page.get_by_text("Say what it should become, e.g. 'jazz trio'.")
    expect(refused).to_be_visible(timeout=SOON)
    visit.fill("cover-caption", "jazz trio")
    visit.page.locator("#cover-strength input[type=number]").fill("0.4")
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Rendering", timeout=SOON)
    visit.page.locator("#cancel").click()
    expect(visit.page.locator("#progress")).to_have_text("Cancelled.", timeout=3000)
    service.step_seconds = 0.01
    visit.press_generate()
    facts = visit.page.locator(".take .facts").first
    expect(facts).to_contain_text("Harmony: 0.83 like the source", timeout=SOON)
    asked = service.requests[-1]
    assert isinstance(asked, Cover)
    assert (asked.caption, asked.audio_cover_strength) == ("jazz trio", 0.4)
    assert (asked.bpm, asked.key_scale) == (96, "E minor")


def test_what_is_no_song_is_said_beside_the_source(
    visit: Visit, open_page: OpenPage, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.wav"
    notes.write_text("not a sound at all")
    go(visit, open_page(FakeService()))
    open_tab(visit, "Repaint", notes)
    expect(visit.page.locator("#repaint-facts")).to_have_text("notes.wav is not audio.")
    visit.page.get_by_role("tab", name="Cover").click()
    visit.press_generate()
    expect(visit.page.get_by_text("Choose the song to cover first.")).to_be_visible(timeout=SOON)
    visit.complaints = [said for said in visit.complaints if "Media" not in said]  # the player's


def test_the_real_model_repaints_its_own_song(visit: Visit, studio: tuple[str, Path]) -> None:
    url, outputs = studio
    visit.page.goto(url)
    visit.ready()
    visit.fill("duration", "10")
    visit.open_rendering()
    visit.fill("seed", "11")
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Done: 10 s", timeout=120_000)
    visit.page.locator("#repaint-this-1").click()
    expect(visit.page.locator("#repaint-facts")).to_contain_text("with seed 11", timeout=SOON)
    visit.fill("repaint-start", "4")
    visit.fill("repaint-end", "12")
    expect(visit.page.locator("#repaint-summary")).to_contain_text(
        "Will replace 0:04.0–0:10.0 (6.0 s) and add 2.0 s after the song.", timeout=SOON
    )
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Done: 12 s", timeout=120_000)
    facts = visit.page.locator(".take .facts").first
    expect(facts).to_contain_text("Outside the region 0 samples changed.")
    (edited,) = outputs.rglob("*_repaint_*.flac")
    request = json.loads(edited.with_suffix(".json").read_text())["request"]
    source = Path(request["source_audio"])
    assert source.is_relative_to(outputs) and source.with_suffix(".safetensors").is_file()
    before, after = soundfile.read(source)[0], soundfile.read(edited)[0]
    assert len(after) == 12 * 48_000
    assert np.array_equal(before[: 4 * 48_000], after[: 4 * 48_000])
    visit.page.set_viewport_size({"width": 390, "height": 844})
    assert visit.page.evaluate("document.scrollingElement.scrollWidth") == 390
