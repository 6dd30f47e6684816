"""A person at the page, in Chromium: runs and takes, drafts, keys, two tabs, a phone.

    uv run pytest -m browser

Needs Chromium (on Debian and Ubuntu: apt-get install chromium); without it these tests fail.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from chromium import SOON, Visit
from fake_engine import BASE, SAMPLE_RATE, TURBO, FakeEngine, FakeService
from pages import OpenPage, free_port, open_one
from playwright.sync_api import Browser, Page, expect

from acestep.config import ServiceConfig
from acestep.engine.jobs import Job
from acestep.errors import OutOfMemory
from acestep.progress import CancelToken, Reporter, Stage
from acestep.request import MusicRequest, Text2Music
from acestep.ui.app import RunningPage
from acestep.ui.live import SHOWN_AT_FIRST

pytestmark = [
    pytest.mark.browser,
    # Gradio's queue uses what pandas 3 has deprecated, on the server's thread.
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
]

COLD_START = 15.0  # seconds until something answers, on a busy machine
FEW_SECONDS = 3_000  # milliseconds


@dataclass
class Studio:
    """A page that several tests share, each beginning where nothing runs."""

    page: RunningPage
    engine: FakeEngine

    @property
    def url(self) -> str:
        return self.page.url

    @property
    def service(self) -> FakeService:
        return self.engine.service

    def rest(self) -> None:
        """End what runs, and be as at first."""
        for job in self.engine.jobs():
            if not job.is_over:
                self.engine.cancel(job.id)
        self.engine.until(lambda: all(job.is_over for job in self.engine.jobs()))
        self.service.requests.clear()
        self.service.step_seconds, self.service.failure = 0.01, None
        self.service.preset, self.service.has_planner = TURBO, False

    def newest(self) -> Job:
        return self.engine.jobs()[0]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    service = FakeService(seconds=2.0)  # short takes: the tests are about the page
    page = open_one(folder, service)
    assert isinstance(page.engine, FakeEngine)
    yield Studio(page, page.engine)
    page.close()


@pytest.fixture
def studio(shared: Studio) -> Studio:
    shared.rest()
    return shared


def progress(page: Page, words: str | re.Pattern[str], timeout: float = SOON) -> None:
    expect(page.locator("#progress")).to_contain_text(words, timeout=timeout)


def test_the_first_click_makes_a_song_with_progress_and_a_player(
    visit: Visit, studio: Studio, tmp_path: Path
) -> None:
    studio.service.step_seconds = 0.3
    visit.go(studio.url)
    visit.press_generate()
    progress(visit.page, "Rendering: step")
    assert visit.page.locator("#progress progress").get_attribute("max") == "8"
    expect(visit.page.locator("#cancel")).to_be_visible()
    expect(visit.page.locator("#generate")).to_be_visible()
    progress(visit.page, "Done: 2 s of music in")
    expect(visit.page.locator("#cancel")).to_be_hidden()
    take = visit.page.locator(".take").first
    seed = studio.service.requests[0].seed
    expect(take).to_contain_text(f"seed {seed}")
    player = take.locator("audio")
    assert player.evaluate(SEEK) == pytest.approx([2.0, 1.5], abs=0.1)
    with visit.page.expect_download() as download:
        take.get_by_role("link", name="Download FLAC").click()
    download.value.save_as(tmp_path / "downloaded.flac")
    assert soundfile.info(tmp_path / "downloaded.flac").frames == 2 * SAMPLE_RATE
    assert re.fullmatch(r"\d{4}_text2music_.*\.flac", download.value.suggested_filename)
    with visit.page.expect_download() as download:
        take.get_by_role("link", name="Recipe").click()
    assert json.loads(Path(download.value.path()).read_text())["request"]["seed"] == seed


# Length of a song, and where it is after a jump, which needs its bytes by parts.
SEEK = """async (audio) => {
  const known = new Promise((resume) => audio.addEventListener("loadedmetadata", resume));
  if (audio.readyState < 1) {
    audio.preload = "auto"; // songs of before are not fetched until they are played
    await known;
  }
  const landed = new Promise((resume) => audio.addEventListener("seeked", resume));
  audio.currentTime = 1.5;
  await landed;
  return [audio.duration, audio.currentTime];
}"""


def test_boxes_that_nobody_filled_are_empty(visit: Visit, studio: Studio) -> None:
    visit.go(studio.url)
    visit.open_rendering()
    for name in ("duration", "steps", "shift", "seed", "bpm"):
        expect(visit.page.locator(visit.box(name)).first).to_have_value("")


def test_what_is_typed_and_chosen_is_what_is_asked_for(visit: Visit, studio: Studio) -> None:
    visit.go(studio.url)
    visit.page.get_by_role("button", name="Synth-pop").click()
    expect(visit.page.locator(visit.box("caption"))).to_have_value(re.compile("synth-pop"))
    visit.fill("caption", "dub techno")
    visit.fill("bpm", "121")
    visit.open_rendering()
    visit.fill("seed", "4294967295")
    visit.page.get_by_role("combobox", name="Solver").click()
    visit.page.get_by_role("option", name="heun").click()
    visit.press_generate()
    progress(visit.page, "Done")
    (request,) = studio.service.requests
    assert isinstance(request, Text2Music)
    assert (request.caption, request.bpm) == ("dub techno", 121)
    assert (request.seed, request.solver) == (4294967295, "heun")
    assert request.lyrics.startswith("[Verse]") and request.vocal_language == "en"


def test_a_bad_value_shows_its_sentence_and_nothing_typed_is_lost(
    visit: Visit, studio: Studio
) -> None:
    visit.go(studio.url)
    visit.fill("caption", "<b>dub</b> techno")
    visit.fill("bpm", "12")
    visit.press_generate()
    sentence = "BPM must be a whole number from 30 to 300 (you gave 12)."
    expect(visit.page.get_by_text(sentence)).to_be_visible(timeout=SOON)
    expect(visit.page.locator(visit.box("caption"))).to_have_value("<b>dub</b> techno")
    expect(visit.page.locator(visit.box("bpm"))).to_have_value("12")
    visit.fill("bpm", "90")
    visit.press_generate()
    progress(visit.page, "Done")
    (request,) = studio.service.requests
    assert isinstance(request, Text2Music) and request.bpm == 90
    expect(visit.page.locator("#jobs > li .head").first).to_contain_text("<b>dub</b> techno")
    assert visit.page.locator("#jobs b").count() == 0


@pytest.mark.parametrize(
    "failure", [OutOfMemory("Out of memory on <b>CPU</b>."), ValueError("a bug")]
)
def test_a_run_that_fails_says_why_and_can_be_run_again(
    visit: Visit, studio: Studio, failure: Exception
) -> None:
    studio.service.failure = failure
    visit.go(studio.url)
    visit.fill("caption", "try this")
    visit.press_generate()
    row = visit.page.locator("#jobs > li").first
    expect(row).to_contain_text(str(failure), timeout=SOON)
    progress(visit.page, str(failure))
    expect(visit.page.locator("#cancel")).to_be_hidden()
    studio.service.failure = None
    row.get_by_role("button", name="Run again").click()
    expect(visit.page.locator("#jobs > li").first).to_contain_text("Done: 2 s", timeout=SOON)
    assert [request.caption for request in studio.service.requests] == ["try this"] * 2


def test_cancel_ends_in_words_and_the_next_run_works(visit: Visit, studio: Studio) -> None:
    studio.service.step_seconds = 0.5
    visit.go(studio.url)
    visit.press_generate()
    progress(visit.page, "Rendering")
    visit.page.locator("#cancel").click()
    progress(visit.page, "Cancelled.", FEW_SECONDS)
    expect(visit.page.locator("#cancel")).to_be_hidden()
    expect(visit.page.locator("#jobs > li").first.locator(".take")).to_have_count(0)
    studio.service.step_seconds = 0.01
    visit.press_generate()
    progress(visit.page, "Done")


def test_several_runs_wait_in_a_queue_and_each_can_be_cancelled(
    visit: Visit, studio: Studio
) -> None:
    studio.service.step_seconds = 0.4
    visit.go(studio.url)
    for name in ("one", "two", "three"):
        visit.fill("caption", name)
        visit.press_generate()
        expect(visit.page.locator("#jobs > li .head").first).to_contain_text(name, timeout=SOON)
    rows = visit.page.locator("#jobs > li")
    expect(rows.nth(0)).to_contain_text("Waiting: 2 runs before this one")
    expect(rows.nth(1)).to_contain_text("Waiting: 1 run before this one")
    progress(visit.page, "Rendering")  # what runs stands beside the button, not what waits
    rows.nth(1).get_by_role("button", name="Cancel").click()
    expect(rows.nth(1)).to_contain_text("Cancelled.", timeout=SOON)
    studio.service.step_seconds = 0.01
    expect(rows.nth(0)).to_contain_text("Done", timeout=SOON)
    expect(rows.nth(2)).to_contain_text("Done", timeout=SOON)
    assert [request.caption for request in studio.service.requests] == ["one", "three"]


def test_a_run_can_be_cancelled_while_the_model_still_loads(
    visit: Visit, open_page: OpenPage
) -> None:
    page = open_page(FakeService(load_seconds=15))
    visit.page.goto(page.url)
    visit.press_generate()  # as early as can be: empty boxes are empty from the start
    progress(visit.page, re.compile("Loading the model|Starting"))
    expect(visit.page.locator("#status")).to_contain_text("Loading acestep-v15-nano-turbo")
    visit.page.locator("#cancel").click()
    progress(visit.page, "Cancelled.", FEW_SECONDS)
    visit.ready()


def test_ctrl_enter_generates_and_escape_cancels(visit: Visit, studio: Studio) -> None:
    studio.service.step_seconds = 0.5
    visit.go(studio.url)
    visit.fill("caption", "typed a moment ago")
    visit.page.keyboard.press("Control+Enter")
    progress(visit.page, "Rendering")
    assert studio.service.requests[0].caption == "typed a moment ago"
    visit.page.keyboard.press("Escape")
    progress(visit.page, "Cancelled.", FEW_SECONDS)


def test_escape_that_closes_something_else_cancels_nothing(visit: Visit, studio: Studio) -> None:
    studio.service.step_seconds = 0.5
    visit.go(studio.url)
    visit.page.get_by_role("combobox", name="Vocal Language").click()
    expect(visit.page.get_by_role("option").first).to_be_visible(timeout=SOON)
    visit.press_generate()
    visit.page.get_by_role("combobox", name="Vocal Language").click()
    progress(visit.page, "Rendering")
    visit.page.keyboard.press("Escape")
    visit.page.wait_for_timeout(1_000)
    assert studio.newest().state == "running"
    visit.page.locator("h1").click()
    visit.page.keyboard.press("Escape")
    progress(visit.page, "Cancelled.", FEW_SECONDS)


class Held(FakeService):
    """Stays in one stage until it is cancelled."""

    stage: Stage = "rendering"

    def run(
        self,
        request: MusicRequest,
        on_progress: Callable | None = None,
        cancel: CancelToken | None = None,
    ) -> list:
        report = Reporter(on_progress, cancel)
        while True:
            report(self.stage, 3, 8)
            time.sleep(0.05)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    page = open_one(tmp_path_factory.mktemp("held"), Held())
    assert isinstance(page.engine, FakeEngine)
    yield Studio(page, page.engine)
    page.close()


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("reading", "Reading the audio"),
        ("planning", "Planning the song: token 3 of 8"),
        ("rendering", "Rendering: step 3 of 8"),
        ("decoding", "Decoding: 37 %"),
    ],
)
def test_a_tab_closed_in_any_stage_leaves_a_run_that_another_shows_and_cancels(
    visit: Visit, browser: Browser, held: Studio, stage: Stage, said: str
) -> None:
    assert isinstance(held.service, Held)
    held.service.stage = stage
    first = browser.new_page()
    first.goto(held.url)
    first.locator("#generate").click()
    progress(first, said)
    first.locator("#generate").click()  # and one more that waits
    expect(first.locator("#jobs > li").first).to_contain_text("Waiting", timeout=SOON)
    first.close()
    visit.go(held.url)
    progress(visit.page, said)
    rows = visit.page.locator("#jobs > li")
    expect(rows.nth(0)).to_contain_text("Waiting: 1 run before this one")
    rows.nth(0).get_by_role("button", name="Cancel").click()
    expect(rows.nth(0)).to_contain_text("Cancelled.", timeout=SOON)
    visit.page.locator("#cancel").click()
    expect(rows.nth(1)).to_contain_text("Cancelled.", timeout=SOON)
    assert [job.state for job in held.engine.jobs()[:2]] == ["cancelled"] * 2


def test_a_closed_tab_loses_neither_the_song_nor_its_player(
    visit: Visit, browser: Browser, studio: Studio
) -> None:
    studio.service.step_seconds = 0.2
    first = browser.new_page()
    first.goto(studio.url)
    first.locator("#generate").click()
    progress(first, "Rendering")
    first.close()
    done = studio.engine.ended(studio.newest())
    assert done.state == "done"
    visit.go(studio.url)
    take = visit.page.locator(f"#job-{done.id} .take")
    assert take.locator("audio").evaluate(SEEK) == pytest.approx([2.0, 1.5], abs=0.1)


def test_two_tabs_show_the_same_and_either_cancels(
    visit: Visit, browser: Browser, studio: Studio
) -> None:
    studio.service.step_seconds = 2.0  # not over before both tabs were asked
    other = browser.new_page()
    other.goto(studio.url)
    visit.go(studio.url)
    visit.press_generate()
    progress(visit.page, "Rendering")
    progress(other, "Rendering")
    other.locator("#generate").click()
    progress(other, "Waiting: 1 run before this one")  # its own, as long as that is not over
    expect(visit.page.locator("#jobs > li").first).to_contain_text("Waiting", timeout=SOON)
    other.locator("#jobs > li").nth(1).get_by_role("button", name="Cancel").click()
    expect(visit.page.locator("#jobs > li").nth(1)).to_contain_text("Cancelled.", timeout=SOON)
    progress(other, "Rendering")
    progress(visit.page, "Rendering")  # nothing of its own is left, so it follows what runs
    studio.service.step_seconds = 0.01
    progress(other, "Done")
    progress(visit.page, "Cancelled.")
    expect(visit.page.locator("#jobs > li").first).to_contain_text("Done", timeout=SOON)
    texts = [page.locator("#jobs > li").first.inner_text() for page in (visit.page, other)]
    assert texts[0] == texts[1]
    other.close()


def test_many_short_runs_in_a_row_each_show_their_own_take(visit: Visit, studio: Studio) -> None:
    studio.service.step_seconds = 0.005
    visit.go(studio.url)
    visit.open_rendering()
    for seed in range(8):
        visit.page.locator(visit.box("seed")).first.fill(str(seed))
        visit.press_generate()
        expect(visit.page.locator(".take").first).to_contain_text(f"seed {seed} ", timeout=SOON)
    assert [request.seed for request in studio.service.requests] == list(range(8))


def test_a_song_that_plays_is_left_alone_by_what_follows(visit: Visit, studio: Studio) -> None:
    visit.go(studio.url)
    visit.fill("takes", "3")
    visit.press_generate()
    row = visit.page.locator("#jobs > li").first
    expect(row.locator("audio")).to_have_count(3, timeout=SOON)
    player = row.locator("audio").first
    player.evaluate("async (audio) => { audio.muted = audio.loop = true; await audio.play(); }")
    visit.fill("takes", "1")
    visit.press_generate()
    expect(visit.page.locator("#jobs > li").first.locator("audio")).to_have_count(1, timeout=SOON)
    playing = visit.page.locator("#jobs > li").nth(1).locator("audio")
    assert playing.evaluate_all("(all) => all.map((audio) => !audio.paused)") == [
        True,
        False,
        False,
    ]
    playing.nth(1).evaluate("(audio) => { audio.muted = true; return audio.play(); }")
    assert playing.evaluate_all("(all) => all.map((audio) => !audio.paused)") == [
        False,
        True,
        False,
    ]


def test_older_songs_are_shown_when_asked_for(visit: Visit, studio: Studio) -> None:
    studio.service.step_seconds = 0
    missing = SHOWN_AT_FIRST + 2 - len(studio.engine.jobs())
    for seed in range(max(missing, 0)):
        studio.engine.ended(studio.engine.submit(Text2Music(caption="x", duration=10, seed=seed)))
    everything = len(studio.engine.jobs())
    visit.go(studio.url)
    rows = visit.page.locator("#jobs > li")
    expect(rows).to_have_count(SHOWN_AT_FIRST, timeout=SOON)
    visit.page.get_by_role("button", name=f"Show all: {everything - SHOWN_AT_FIRST} more").click()
    expect(rows).to_have_count(everything, timeout=SOON)
    order = rows.evaluate_all("(all) => all.map((row) => Number(row.dataset.order))")
    assert order == sorted(order, reverse=True)


def test_a_draft_survives_a_reload_and_begins_the_next_tab(
    visit: Visit, browser: Browser, studio: Studio, recording: Path
) -> None:
    visit.go(studio.url)
    visit.fill("caption", "a caption of mine")
    visit.page.get_by_role("combobox", name="Vocal Language").click()
    visit.page.get_by_role("option", name="German (de)").click()
    visit.open_rendering()
    visit.fill("seed", "77")
    open_tab(visit, "Repaint", recording)
    visit.fill("repaint-caption", "a flute")
    visit.page.wait_for_timeout(500)
    visit.page.reload()
    visit.ready()
    page = visit.page
    expect(page.locator("#repaint-facts")).to_contain_text(recording.name, timeout=SOON)
    expect(page.locator("#repaint-source-audio time").last).to_have_text("0:20", timeout=SOON)
    expect(page.locator(visit.box("repaint-caption"))).to_have_value("a flute")
    page.get_by_role("tab", name="Text2Music").click()
    expect(page.locator(visit.box("caption"))).to_have_value("a caption of mine")
    expect(page.get_by_role("combobox", name="Vocal Language")).to_have_value("German (de)")
    visit.open_rendering()
    expect(page.locator(visit.box("seed")).first).to_have_value("77")
    expect(page.locator(visit.box("steps")).first).to_have_value("")  # auto stays auto
    other = page.context.new_page()
    other.goto(studio.url)
    expect(other.locator(visit.box("caption"))).to_have_value("a caption of mine", timeout=SOON)
    other.locator("#caption textarea").fill("the other's")
    other.wait_for_timeout(500)
    page.reload()
    visit.ready()
    page.wait_for_timeout(500)
    expect(page.locator(visit.box("caption"))).to_have_value("a caption of mine")
    other.close()


def test_a_file_of_a_draft_that_is_gone_is_said(
    visit: Visit, studio: Studio, recording: Path
) -> None:
    visit.go(studio.url)
    open_tab(visit, "Repaint", recording)
    visit.page.wait_for_timeout(500)
    draft = json.loads(visit.page.evaluate("sessionStorage.getItem('acestep-draft')"))
    Path(draft["d"]["repaint-source-audio"]["path"]).unlink()
    visit.page.reload()
    visit.ready()
    expect(visit.page.locator("#notice")).to_have_text(
        f"{recording.name} is no longer here. Choose it again.", timeout=SOON
    )
    expect(visit.page.locator("#repaint-facts")).to_have_text("")
    visit.complaints = [
        said for said in visit.complaints if "404" not in said and "403" not in said
    ]


def test_what_a_model_fits_is_no_draft(visit: Visit, studio: Studio) -> None:
    visit.go(studio.url)
    visit.open_rendering()
    expect(visit.page.locator("#guidance-rule")).to_be_hidden()
    studio.engine.configure(ServiceConfig(model="acestep-v15-nano-base"))
    steps = visit.page.locator(visit.box("steps")).first
    expect(steps).to_have_attribute("placeholder", re.compile("1–200"), timeout=SOON)
    expect(visit.page.locator("#guidance-rule")).to_be_visible(timeout=SOON)
    visit.fill("caption", "after the switch")
    visit.page.wait_for_timeout(500)
    draft = json.loads(visit.page.evaluate("sessionStorage.getItem('acestep-draft')"))
    assert draft["d"] == {"caption": "after the switch"}
    studio.engine.configure(ServiceConfig())
    expect(steps).to_have_attribute("placeholder", re.compile("1–20\\)"), timeout=SOON)
    expect(visit.page.locator(visit.box("caption"))).to_have_value("after the switch")


def test_a_server_that_comes_back_is_found_again_with_the_draft(
    visit: Visit, open_page: OpenPage
) -> None:
    port = free_port()
    first = open_page(port=port)
    visit.go(first.url)
    visit.page.wait_for_timeout(1500)  # until the form has been fitted to the model
    visit.fill("caption", "before the end")
    visit.page.wait_for_timeout(500)  # a draft is kept a moment after the typing
    first.close()
    status = visit.page.locator("#status")
    expect(status).to_contain_text("Connection lost", timeout=SOON)
    open_page(port=port)
    expect(status).to_contain_text("Ready", timeout=SOON)
    expect(visit.page.locator(visit.box("caption"))).to_have_value("before the end", timeout=SOON)
    visit.press_generate()
    progress(visit.page, "Done")
    visit.complaints.clear()  # of requests to a server that was not there


def test_a_phone_needs_no_sideways_scroll_and_every_button_of_a_take_can_be_pressed(
    visit: Visit, studio: Studio
) -> None:
    visit.page.set_viewport_size({"width": 390, "height": 844})
    visit.go(studio.url)
    visit.open_rendering()
    visit.press_generate()
    progress(visit.page, "Done")
    assert visit.page.evaluate("document.scrollingElement.scrollWidth") == 390
    generate = visit.page.locator("#generate").bounding_box()
    assert generate is not None and generate["y"] + generate["height"] <= 844
    for take in (visit.page.locator(".take").first, visit.page.locator(".take").last):
        for name in ("Download FLAC", "Recipe (JSON)"):
            with visit.page.expect_download():
                take.get_by_role("link", name=name).click(timeout=SOON)
        for name, facts in (("Repaint this", "#repaint-facts"), ("Cover this", "#cover-facts")):
            take.get_by_role("button", name=name).click(timeout=SOON)
            expect(visit.page.locator(facts)).to_contain_text("made here with", timeout=SOON)
            expect(visit.page.locator(facts)).to_be_visible()
    studio.service.step_seconds = 0.5
    visit.page.get_by_role("tab", name="Text2Music").click()
    visit.press_generate()
    progress(visit.page, "Rendering")
    visit.page.locator("#jobs > li").first.get_by_role("button", name="Cancel").click()
    progress(visit.page, "Cancelled.", FEW_SECONDS)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(visit: Visit, studio: Studio, theme: str) -> None:
    studio.engine.ended(studio.engine.submit(Text2Music(caption="x", duration=10)))
    visit.go(f"{studio.url}?__theme={theme}")
    expect(visit.page.locator(".take").first).to_be_visible(timeout=SOON)
    page_texts = ("h1", "#status p", "#caption span", "#caption textarea", "#generate")
    row_texts = (".head strong", ".head span", ".running span", ".name", ".facts p", ".save")
    for selector in (*page_texts, *(f".job {text}" for text in row_texts)):
        for text in visit.page.locator(selector).all()[:4]:
            ratio = text.evaluate(CONTRAST)
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


def test_what_a_screen_reader_needs_is_there(visit: Visit, studio: Studio) -> None:
    studio.service.step_seconds = 0.3
    visit.go(studio.url)
    expect(visit.page.get_by_role("heading", level=1)).to_have_count(1)
    visit.press_generate()
    bar = visit.page.get_by_role("progressbar", name="Progress of this stage").first
    expect(bar).to_be_visible(timeout=SOON)
    expect(visit.page.locator("#progress [role=status]")).to_contain_text("step", timeout=SOON)
    progress(visit.page, "Done")
    assert visit.page.get_by_role("list", name="Songs").count() == 1
    name = visit.page.locator(".take").first.get_attribute("aria-label")
    assert name is not None and name.endswith(".flac")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Twenty seconds of a tone that swells."""
    path = tmp_path / "tape.wav"
    t = np.arange(20 * SAMPLE_RATE) / SAMPLE_RATE
    wave = 0.3 * np.sin(2 * np.pi * 220 * t) * np.sin(2 * np.pi * 0.5 * t) ** 2
    soundfile.write(path, np.stack([wave, wave], axis=1), SAMPLE_RATE)
    return path


def open_tab(visit: Visit, name: str, song: Path) -> None:
    """Open a tab and give it a source."""
    visit.page.get_by_role("tab", name=name).click()
    chooser = visit.page.locator(f"#{name.lower()}-source-audio input[type=file]")
    chooser.set_input_files(song)
    expect(visit.page.locator(f"#{name.lower()}-facts")).to_contain_text(song.name, timeout=SOON)


def test_a_repaint_says_what_it_will_do_does_it_and_reports(
    visit: Visit, studio: Studio, recording: Path
) -> None:
    visit.go(studio.url)
    open_tab(visit, "Repaint", recording)
    summary = visit.page.locator("#repaint-summary")
    expect(summary).to_contain_text("Will replace", timeout=SOON)
    visit.fill("repaint-start", "12")
    visit.fill("repaint-end", "18.5")
    sentence = "Will replace 0:12.0–0:18.5 (6.5 s). Everything else stays bit-identical."
    expect(summary).to_have_text(sentence, timeout=SOON)
    visit.fill("repaint-caption", "a flute solo")
    visit.fill("repaint-lyrics", "[Verse]\nother words")
    visit.fill("repaint-takes", "2")
    visit.press_generate()
    row = visit.page.locator("#jobs > li").first
    expect(row.locator(".take")).to_have_count(2, timeout=SOON)
    expect(row.locator(".head")).to_contain_text("Repaint")
    (asked,) = studio.service.requests
    assert asked.model_dump(include={"repainting_start", "repainting_end", "takes", "caption"}) == {
        "repainting_start": 12,
        "repainting_end": 18.5,
        "takes": 2,
        "caption": "a flute solo",
    }
    expect(row).to_contain_text("Outside the region 0 samples changed.")
    expect(row).to_contain_text("Nothing audible changed.")


def test_a_take_is_sent_to_the_other_tabs_with_its_words(visit: Visit, studio: Studio) -> None:
    visit.go(studio.url)
    visit.page.get_by_role("button", name="Synth-pop").click()
    expect(visit.page.locator(visit.box("caption"))).to_have_value(re.compile("synth-pop"))
    visit.press_generate()
    progress(visit.page, "Done: 2 s")
    made = studio.newest()
    assert made.outcome is not None
    row = visit.page.locator(f"#job-{made.id}")
    row.get_by_role("button", name="Repaint this").click()
    expect(visit.page.locator("#repaint-facts")).to_contain_text("made here with", timeout=SOON)
    words = visit.page.locator(visit.box("repaint-lyrics"))
    expect(words).to_have_value(re.compile("Streetlights"), timeout=SOON)
    visit.press_generate()
    expect(visit.page.locator(".take").first).to_contain_text("_repaint_", timeout=SOON)
    asked = studio.service.requests[-1]
    assert asked.caption.startswith("bright synth-pop")
    assert asked.model_dump()["source_audio"] == Path(made.outcome.takes[0].path)
    row.get_by_role("button", name="Cover this").click()
    expect(visit.page.locator("#cover-facts")).to_contain_text("_text2music_", timeout=SOON)
    words = visit.page.locator(visit.box("cover-lyrics"))
    expect(words).to_have_value(re.compile("Streetlights"), timeout=SOON)


def test_what_is_no_song_is_said_beside_the_source(
    visit: Visit, studio: Studio, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.wav"
    notes.write_text("not a sound at all")
    visit.go(studio.url)
    open_tab(visit, "Repaint", notes)
    expect(visit.page.locator("#repaint-facts")).to_have_text("notes.wav is not audio.")
    visit.page.get_by_role("tab", name="Cover").click()
    visit.press_generate()
    expect(visit.page.get_by_text("Choose the song to cover first.")).to_be_visible(timeout=SOON)
    visit.complaints = [said for said in visit.complaints if "Media" not in said]  # the player's


def test_the_planners_controls_are_there_only_with_a_planner(visit: Visit, studio: Studio) -> None:
    visit.go(studio.url)
    planner = visit.page.get_by_role("button", name="LM Generation Parameters")
    expect(planner).to_be_hidden()
    studio.service.has_planner, studio.service.preset = True, BASE
    studio.engine.unload()
    studio.engine.configure(ServiceConfig())
    planner.click()
    expect(visit.page.get_by_label("Think")).to_be_visible(timeout=SOON)
    expect(visit.page.locator("#engine")).to_contain_text("vLLM <is> not installed.")
    studio.rest()
    studio.engine.unload()
    expect(visit.page.locator("#status")).to_contain_text("Not loaded", timeout=SOON)
    studio.engine.configure(ServiceConfig())
    visit.ready()


@dataclass
class Program:
    """The real program with the models that ship with it, in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str
    songs: Path

    def engine_pid(self) -> int:
        """The process that renders."""
        command = ["pgrep", "-P", str(self.process.pid), "-f", "acestep.engine.child"]
        return int(subprocess.run(command, capture_output=True, check=True).stdout.split()[0])


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    songs, port = tmp_path_factory.mktemp("songs"), free_port()
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "-m", "acestep", "--port", str(port), "--no-open"]
    with (songs / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [*command, "--output-dir", str(songs)], stdout=log, stderr=subprocess.STDOUT
        )
        began = time.monotonic()
        while not answers(url):
            assert process.poll() is None, (songs / "log.txt").read_text()
            assert time.monotonic() - began < COLD_START, "The page took too long to answer."
            time.sleep(0.05)
        yield Program(process, url, songs)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) in (0, 130)
    assert "Traceback" not in (songs / "log.txt").read_text()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_the_real_program_is_opened_at_once_and_makes_a_song_that_plays(
    visit: Visit, program: Program
) -> None:
    visit.page.goto(program.url)  # the splash, most likely, which opens the page
    expect(visit.page.locator("#status")).to_contain_text(
        "Ready · acestep-v15-nano-turbo", timeout=4 * SOON
    )
    visit.fill("duration", "10")
    visit.open_rendering()
    visit.fill("seed", "11")
    visit.press_generate()
    progress(visit.page, "Done: 10 s", 4 * SOON)
    (song,) = program.songs.rglob("*.flac")
    sound, rate = soundfile.read(song)
    assert (rate, sound.shape) == (SAMPLE_RATE, (480_000, 2)) and abs(sound).max() > 0.01
    take = visit.page.locator(".take").first
    expect(take).to_contain_text("seed 11")
    assert take.locator("audio").evaluate(SEEK) == pytest.approx([10.0, 1.5], abs=0.1)


def test_the_real_model_can_be_cancelled_and_corrected(visit: Visit, program: Program) -> None:
    visit.go(program.url)
    songs = len(list(program.songs.rglob("*.flac")))
    visit.fill("duration", "300")
    visit.press_generate()
    progress(visit.page, re.compile("token|step|Reading"))
    visit.page.locator("#cancel").click()
    progress(visit.page, "Cancelled.")
    assert len(list(program.songs.rglob("*.flac"))) == songs
    visit.fill("duration", "10")
    visit.open_rendering()
    visit.fill("steps", "50")
    visit.press_generate()
    refused = visit.page.get_by_text("Turbo models take 1–20 steps (you gave 50).")
    expect(refused).to_be_visible(timeout=SOON)
    visit.fill("steps", "2")
    visit.press_generate()
    progress(visit.page, "Done: 10 s", 4 * SOON)


def test_the_real_model_repaints_its_own_song(visit: Visit, program: Program) -> None:
    visit.go(program.url)
    made = visit.page.locator(".take", has_text="seed 11").first
    made.get_by_role("button", name="Repaint this").click()
    expect(visit.page.locator("#repaint-facts")).to_contain_text("with seed 11", timeout=SOON)
    visit.fill("repaint-start", "4")
    visit.fill("repaint-end", "12")
    expect(visit.page.locator("#repaint-summary")).to_contain_text(
        "Will replace 0:04.0–0:10.0 (6.0 s) and add 2.0 s after the song.", timeout=SOON
    )
    visit.press_generate()
    progress(visit.page, "Done: 12 s", 4 * SOON)
    take = visit.page.locator(".take").first
    expect(take).to_contain_text("Outside the region 0 samples changed.")
    (edited,) = program.songs.rglob("*_repaint_*.flac")
    request = json.loads(edited.with_suffix(".json").read_text())["request"]
    source = Path(request["source_audio"])
    assert source.is_relative_to(program.songs) and source.with_suffix(".safetensors").is_file()
    before, after = soundfile.read(source)[0], soundfile.read(edited)[0]
    assert len(after) == 12 * SAMPLE_RATE
    assert np.array_equal(before[: 4 * SAMPLE_RATE], after[: 4 * SAMPLE_RATE])


def test_an_engine_killed_while_it_renders_is_said_and_the_next_song_runs(
    visit: Visit, program: Program
) -> None:
    visit.go(program.url)
    visit.fill("duration", "300")
    visit.press_generate()
    progress(visit.page, re.compile("token|step"))
    killed = program.engine_pid()
    os.kill(killed, signal.SIGKILL)
    row = visit.page.locator("#jobs > li").first
    expect(row).to_have_attribute("data-state", "lost", timeout=SOON)
    expect(row).to_contain_text(re.compile("engine.*(stopped|ended|killed)", re.I))
    progress(visit.page, re.compile("engine.*(stopped|ended|killed)", re.I))
    expect(row.get_by_role("button", name="Run again")).to_be_visible()
    visit.fill("duration", "10")
    visit.press_generate()
    progress(visit.page, "Done: 10 s", 4 * SOON)
    assert program.engine_pid() != killed
