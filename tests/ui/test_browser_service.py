"""A person at Service Configuration and at the forms, in Chromium, around an engine without
networks and a hub on the loopback.

    uv run pytest -m browser
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import gradio as gr
import numpy as np
import pytest
import soundfile
from chromium import SETTLE, SOON, Visit
from fake_engine import FakeEngine, FakeService
from fake_hub import HubServer, empty_computer
from loops import in_loop
from model_folders import write_lora, write_model
from pages import OpenPage, free_port
from playwright.sync_api import Browser, expect

from acestep.checkpoints.hub import HuggingFace
from acestep.config import ServiceConfig
from acestep.engine.engine import DeviceRow
from acestep.engine.models import Downloads
from acestep.errors import OutOfMemory
from acestep.request import Cover, Repaint, Text2Music
from acestep.ui.service import Panel

GPU = DeviceRow(name="cuda:0", about="a GPU, 7.1 GB free")
CPU = DeviceRow(name="cpu", about="a CPU")
BASE, PUBLISHED = "acestep-v15-nano-base", "acestep-v15-turbo"

pytestmark = [
    pytest.mark.browser,
    # Gradio's queue uses what pandas 3 has deprecated, on the server's thread.
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "tape.wav"
    soundfile.write(path, np.full((12 * 8000, 1), 0.1), 8000)
    return path


def fake(engine: object) -> FakeEngine:
    return cast(FakeEngine, engine)


def asked(page_engine: object) -> list[Text2Music | Repaint | Cover]:
    return cast("list[Text2Music | Repaint | Cover]", fake(page_engine).service.requests)


def open_panel(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Service Configuration").click()
    expect(visit.page.locator("#main-model-path input")).to_be_visible(timeout=SOON)


def choose(visit: Visit, elem_id: str, label: str) -> None:
    """Pick from a list."""
    visit.page.locator(f"#{elem_id} input").click()
    visit.page.get_by_role("option", name=re.compile(rf"^\W*{label}( [(—]|$)")).click()


def type_in(visit: Visit, elem_id: str, name: str) -> None:
    """Type into a list what it does not offer, no faster than the list follows."""
    box = visit.page.locator(f"#{elem_id} input")
    box.fill(name)
    visit.page.wait_for_timeout(SETTLE)
    box.press("Enter")


def test_another_model_is_chosen_initialized_used_and_given_back_without_a_restart(
    visit: Visit, open_page: OpenPage
) -> None:
    page = open_page(FakeService(seconds=1.0))
    visit.go(page.url)
    open_panel(visit)
    pending, status = visit.page.locator("#pending"), visit.page.locator("#service-status")
    choose(visit, "main-model-path", BASE)
    expect(pending).to_have_text("Not applied yet — press Initialize Service.", timeout=SOON)
    visit.page.locator("#initialize").click()
    expect(status).to_contain_text(f"{BASE} on CPU.", timeout=SOON)
    expect(pending).to_have_text("", timeout=SOON)
    expect(visit.page.locator("#status")).to_contain_text(BASE, timeout=SOON)
    visit.open_rendering()
    steps = visit.page.locator(visit.box("steps")).first
    expect(steps).to_have_attribute("placeholder", "auto: 8 (1–200)", timeout=SOON)
    expect(visit.page.locator("#guidance-rule")).to_be_visible(timeout=SOON)
    visit.fill("guidance-scale", "5")
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Done:", timeout=SOON)
    (song,) = asked(page.engine)
    assert song.guidance_scale == 5
    choose(visit, "main-model-path", "acestep-v15-nano-turbo")
    visit.page.locator("#initialize").click()
    expect(status).to_contain_text("acestep-v15-nano-turbo on CPU.", timeout=SOON)
    expect(steps).to_have_attribute("placeholder", "auto: 8 (1–20)", timeout=SOON)
    expect(visit.page.locator("#guidance-rule")).to_be_hidden(timeout=SOON)
    scale = visit.page.locator(visit.box("guidance-scale")).first
    expect(scale).to_have_value("5")  # what was typed stays, and is refused in a sentence
    visit.press_generate()
    complaint = visit.page.locator("#guidance-scale [role=alert]")
    expect(complaint).to_contain_text("has no effect on turbo models", timeout=SOON)
    visit.fill("guidance-scale", "")
    expect(complaint).to_have_count(0)
    visit.press_generate()
    expect(visit.page.locator("#jobs > li")).to_have_count(2, timeout=SOON)


def test_each_control_acts_and_is_there_after_a_reload(
    visit: Visit, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page(FakeService(devices=[GPU, CPU]))
    write_lora(tmp_path / "loras" / "warm.safetensors")
    visit.go(page.url)
    open_panel(visit)
    for elem_id in ("offload-dit", "int8"):
        visit.page.locator(f"#{elem_id} input").check()
    choose(visit, "device", "cuda:0")
    choose(visit, "lm-device", "cpu")
    visit.fill("memory-limit", "6.5")
    type_in(visit, "lora", f"{tmp_path / 'loras' / 'warm.safetensors'}:0.5")
    type_in(visit, "lora", str(tmp_path / "loras" / "warm.safetensors"))
    strength = visit.page.locator("#lora-strength input[type=number]")
    expect(strength).to_be_enabled(timeout=SOON)
    strength.fill("1.35")
    strength.press("Tab")
    memory = visit.page.locator("#memory")
    expect(memory).to_contain_text("of 6.5 GB.", timeout=SOON)
    expect(memory.get_by_role("meter")).to_have_attribute("aria-valuetext", re.compile("fits"))
    visit.page.locator("#initialize").click()
    expect(visit.page.locator("#service-status")).to_contain_text(
        "warm.safetensors:0.5 acts.", timeout=SOON
    )
    warm = str(tmp_path / "loras" / "warm.safetensors")
    expected = ServiceConfig(
        device="cuda:0",
        lm_device="cpu",
        offload_dit=True,
        int8=True,
        memory_limit=6.5,
        lora=(f"{warm}:0.5", warm),
        lora_strength=1.35,
    )
    assert page.engine.state.config == expected
    expect(visit.page.locator("#pending")).to_have_text("", timeout=SOON)
    visit.page.wait_for_timeout(SETTLE)  # Gradio complains of a stream that a reload cuts off
    visit.page.reload()
    visit.ready()
    open_panel(visit)
    for elem_id in ("offload-dit", "int8"):
        expect(visit.page.locator(f"#{elem_id} input")).to_be_checked(timeout=SOON)
    expect(visit.page.locator("#device input")).to_have_value(re.compile("^cuda:0"))
    expect(visit.page.locator("#lora")).to_contain_text("warm.safetensors:0.5")
    expect(strength).to_have_value("1.35")
    expect(visit.page.locator("#pending")).to_have_text("")
    assert page.engine.state.config == expected
    # Now only the strength: nothing is loaded again.
    loads = len(fake(page.engine).service.loads)
    strength.fill("0.2")
    strength.press("Tab")
    expect(visit.page.locator("#pending")).to_contain_text("Not applied yet", timeout=SOON)
    visit.page.locator("#initialize").click()
    expect(visit.page.locator("#applied")).to_contain_text("Applied", timeout=SOON)
    assert page.engine.state.config.lora_strength == 0.2
    assert len(fake(page.engine).service.loads) == loads


def test_what_would_change_nothing_says_its_sentence(visit: Visit, open_page: OpenPage) -> None:
    visit.go(open_page().url)
    open_panel(visit)
    offload = visit.page.locator("#offload-dit")
    expect(offload).to_contain_text(
        "Nothing to offload: everything already runs on the CPU.", timeout=SOON
    )
    expect(offload.locator("input")).to_be_disabled()
    expect(visit.page.locator("#lm-nf4")).to_contain_text("nothing is gained by 4 bits")
    expect(visit.page.locator("#lm-nf4 input")).to_be_disabled()
    expect(visit.page.locator("#int8")).to_contain_text("this saves next to nothing")
    expect(visit.page.locator("#int8 input")).to_be_enabled()
    strength = visit.page.locator("#lora-strength")
    expect(strength).to_contain_text("Nothing to weigh: no LoRA is chosen.")
    expect(strength.locator("input[type=number]")).to_be_disabled()
    choose(visit, "lm-model-path", "none: do without")
    for elem_id in ("backend", "lm-device", "lm-nf4"):
        said = visit.page.locator(f"#{elem_id}")
        expect(said).to_contain_text("No 5Hz LM is chosen", timeout=SOON)
        expect(said.locator("input")).to_be_disabled()
    type_in(visit, "lora", "cold")
    expect(visit.page.locator("#lora")).to_contain_text(
        "The LoRA 'cold' is not on this computer", timeout=SOON
    )
    visit.page.locator("#initialize").click()
    expect(visit.page.locator("#lora [role=alert]")).to_contain_text("'cold'", timeout=SOON)


def test_the_memory_line_follows_the_song(visit: Visit, open_page: OpenPage) -> None:
    visit.go(open_page().url)
    open_panel(visit)
    memory = visit.page.locator("#memory")
    visit.fill("duration", "100")
    expect(memory).to_contain_text("peak 6.0 of 8.0 GB.", timeout=SOON)
    visit.fill("duration", "300")
    expect(memory).to_contain_text("peak 10.0 of 8.0 GB.", timeout=SOON)
    meter = memory.get_by_role("meter")
    expect(meter).to_have_attribute("aria-valuetext", "10.0 GB of 8.0 GB: does not fit")


def test_a_song_that_ran_out_of_memory_is_made_again_lighter(
    visit: Visit, open_page: OpenPage
) -> None:
    service = FakeService(devices=[GPU, CPU], failure=OutOfMemory("Out of memory on the GPU."))
    page = open_page(service)
    visit.go(page.url)
    visit.press_generate()
    expect(visit.page.locator("#jobs")).to_contain_text("Out of memory on the GPU.", timeout=SOON)
    retries = visit.page.locator("#jobs .retry")
    expect(retries).to_have_text(
        ["Retry with Offload DiT to CPU", "Retry with INT8 Quantization"], timeout=SOON
    )
    service.failure = None
    retries.first.click()
    expect(visit.page.locator("#progress")).to_contain_text("Done:", timeout=SOON)
    assert page.engine.state.config == ServiceConfig(offload_dit=True)
    open_panel(visit)
    expect(visit.page.locator("#offload-dit input")).to_be_checked(timeout=SOON)


def test_a_second_page_follows_a_switch_but_keeps_its_own_choice(
    visit: Visit, browser: Browser, open_page: OpenPage
) -> None:
    page = open_page()
    visit.go(page.url)
    open_panel(visit)
    page.engine.configure(ServiceConfig(model=BASE))
    model = visit.page.locator("#main-model-path input")
    expect(model).to_have_value(f"✔ {BASE}", timeout=SOON)
    expect(visit.page.locator("#pending")).to_have_text("")
    choose(visit, "device", "cpu")
    expect(visit.page.locator("#pending")).to_contain_text("Not applied yet", timeout=SOON)
    page.engine.configure(ServiceConfig())
    expect(visit.page.locator("#service-status")).to_contain_text(
        "acestep-v15-nano-turbo on", timeout=SOON
    )
    expect(model).to_have_value(f"✔ {BASE}")
    expect(visit.page.locator("#pending")).to_contain_text("Not applied yet")


def test_what_cannot_be_loaded_is_refused_under_its_control(
    visit: Visit, open_page: OpenPage
) -> None:
    page = open_page()
    visit.go(page.url)
    open_panel(visit)
    type_in(visit, "main-model-path", "acestep-v15-xyz")
    said = visit.page.get_by_text("`acestep-v15-xyz` was not found in")
    expect(said.first).to_be_visible(timeout=SOON)
    visit.page.locator("#initialize").click()
    expect(visit.page.locator("#main-model-path [role=alert]")).to_contain_text(
        "was not found", timeout=SOON
    )
    assert page.engine.state.config == ServiceConfig()


def test_unload_gives_the_memory_back_and_says_so(visit: Visit, open_page: OpenPage) -> None:
    page = open_page(FakeService(step_seconds=1.0))
    visit.go(page.url)
    open_panel(visit)
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Rendering", timeout=SOON)
    status = visit.page.locator("#service-status")
    visit.page.locator("#unload").click()
    expect(status).to_contain_text("Finish or cancel the running job first", timeout=SOON)
    visit.page.locator("#cancel").click()
    expect(visit.page.locator("#progress")).to_contain_text("Cancelled", timeout=SOON)
    visit.page.locator("#unload").click()
    expect(status).to_contain_text("Nothing is loaded.", timeout=SOON)


def test_lyrics_typed_while_instrumental_is_ticked_are_sung(
    visit: Visit, open_page: OpenPage
) -> None:
    page = open_page(FakeService(seconds=1.0))
    visit.go(page.url)
    instrumental = visit.page.locator("#instrumental input")
    expect(instrumental).to_be_checked()
    visit.fill("lyrics", "[Verse]\nla la")
    expect(instrumental).not_to_be_checked()
    visit.press_generate()
    expect(visit.page.locator("#progress")).to_contain_text("Done:", timeout=SOON)
    (song,) = asked(page.engine)
    assert song.lyrics == "[Verse]\nla la"
    instrumental.check()
    visit.press_generate()
    complaint = visit.page.locator("#lyrics [role=alert]")
    expect(complaint).to_contain_text("but Instrumental is ticked", timeout=SOON)
    box = visit.page.locator("#lyrics textarea")
    expect(box).to_have_attribute("aria-invalid", "true")
    expect(box).to_have_attribute("aria-describedby", "lyrics-complaint")
    assert len(asked(page.engine)) == 1


def test_what_is_typed_into_a_number_is_judged_as_it_was_typed(
    visit: Visit, open_page: OpenPage
) -> None:
    page = open_page(FakeService(has_planner=True))
    visit.go(page.url)
    visit.fill("bpm", "abc")
    visit.press_generate()
    expect(visit.page.locator("#bpm [role=alert]")).to_have_text(
        "BPM must be a whole number from 30 to 300 (you gave abc).", timeout=SOON
    )
    visit.fill("bpm", "")
    # The field at fault is in an accordion that is closed: it opens.
    visit.page.get_by_role("button", name="LM Generation Parameters").click()
    visit.fill("lm-temperature", "5")
    visit.page.get_by_role("button", name="LM Generation Parameters").click()
    visit.press_generate()
    complaint = visit.page.locator("#lm-temperature [role=alert]")
    expect(complaint).to_have_text(
        "LM Temperature must be a number from 0 to 2 (you gave 5).", timeout=SOON
    )
    expect(complaint).to_be_visible()
    assert asked(page.engine) == []


def test_what_is_heard_is_written_only_when_it_is_accepted(
    visit: Visit, open_page: OpenPage, recording: Path
) -> None:
    visit.go(open_page(FakeService(has_planner=True)).url)
    visit.page.get_by_role("tab", name="Cover").click()
    visit.page.locator("#cover-source-audio input[type=file]").set_input_files(recording)
    expect(visit.page.locator("#cover-facts")).to_contain_text("12.0 s", timeout=SOON)
    visit.page.locator("#cover-listen").click()
    heard = visit.page.locator("#cover-heard")
    expect(heard).to_have_text("Heard: 96 BPM, E minor.", timeout=SOON)
    bpm = visit.page.locator(visit.box("cover-bpm"))
    expect(bpm).to_have_value("")
    visit.page.locator("#cover-accept").click()
    expect(bpm).to_have_value("96", timeout=SOON)
    expect(visit.page.locator("#cover-key-scale input")).to_have_value("E minor")
    expect(visit.page.locator("#cover-accept")).to_be_hidden()


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture
def panel_alone(server: HubServer, tmp_path: Path) -> Iterator[tuple[str, FakeEngine]]:
    """A page that is the panel, on a computer without models; its address."""
    places = empty_computer(tmp_path)
    write_model(places.root / "vae", "vae")
    engine = FakeEngine(tmp_path / "songs")
    downloads = Downloads(HuggingFace(server.url, cache=tmp_path / "cache"), retry_seconds=0)

    def draw() -> gr.Blocks:
        with gr.Blocks(analytics_enabled=False) as page:
            panel = Panel(engine, ServiceConfig, downloads, lambda folder: places)
            page.load(lambda: panel.show(engine.state), None, [*panel.components], queue=False)
        page.launch(server_port=free_port(), prevent_thread_lock=True, quiet=True, ssr_mode=False)
        return page

    page = in_loop(draw)
    yield str(page.local_url), engine
    server.go_on.set()
    page.close(verbose=False)
    downloads.close()
    engine.close()


def test_a_model_is_fetched_from_a_hub_stopped_gone_on_with_and_loaded(
    visit: Visit, panel_alone: tuple[str, FakeEngine], server: HubServer
) -> None:
    url, engine = panel_alone
    server.stalls_after = 50_000
    visit.page.goto(url)
    open_panel(visit)
    choose(visit, "main-model-path", PUBLISHED)
    fetch = visit.page.locator("#download-model")
    expect(fetch).to_have_text(re.compile(r"Download \(\d+\.\d GB\)"), timeout=SOON)
    expect(visit.page.get_by_text(f"{PUBLISHED} is not on this computer").first).to_be_visible()
    fetch.click()
    line = visit.page.locator("#downloads")
    expect(line).to_contain_text(re.compile(r"0\.\d MB of 0\.\d MB"), timeout=SOON)
    expect(line.locator("progress")).to_have_attribute("max", re.compile(r"\d+"))
    expect(fetch).to_be_hidden()
    visit.page.locator("#cancel-download").click()
    expect(line).to_contain_text("Stopped at", timeout=SOON)
    server.stalls_after = None
    server.go_on.set()
    expect(fetch).to_have_text(re.compile("Resume Download"), timeout=SOON)
    fetch.click()
    expect(line).to_contain_text("every file was checked", timeout=SOON)
    expect(fetch).to_be_hidden()
    assert any(server.ranges)  # it went on where it had stopped
    expect(visit.page.locator("#main-model-path input")).to_have_value(
        f"✔ {PUBLISHED}", timeout=SOON
    )
    visit.page.locator("#initialize").click()
    expect(visit.page.locator("#service-status")).to_contain_text(
        f"{PUBLISHED} on CPU.", timeout=SOON
    )
    assert engine.state.config.model == PUBLISHED
    visit.page.wait_for_timeout(SETTLE)  # the server may not end in the middle of an answer
