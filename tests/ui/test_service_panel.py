"""The Service Configuration panel: what it offers, says and does, around an engine without
networks and a hub on the loopback."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from fake_engine import FakeEngine, FakeService
from fake_hub import HubServer, empty_computer
from loops import in_loop
from model_folders import write_lora, write_model

from acestep.checkpoints.hub import HuggingFace
from acestep.config import ServiceConfig
from acestep.engine.engine import DeviceRow, EngineState, Loaded, MemoryLine
from acestep.engine.jobs import Event, Failure
from acestep.engine.models import Checkpoints, Download, Downloads, lora_folder
from acestep.errors import CheckpointError
from acestep.request import Text2Music
from acestep.request.schema import setting
from acestep.ui.service import APPLIED, NOT_APPLIED, Panel, download_line, memory_html, status_line

SOON = 30.0
TURBO, BASE = "acestep-v15-nano-turbo", "acestep-v15-nano-base"
PUBLISHED = "acestep-v15-turbo"  # on the hub of the tests, and not on this computer


GPU = DeviceRow(name="cuda:0", about="GeForce RTX 3060, 7.1 GB free")
CPU = DeviceRow(name="cpu", about="a CPU")


class Polished(ServiceConfig):
    """A setting more than there is today."""

    polish: bool = setting(False, "looks", "Polish", "Makes it shine.")


@pytest.fixture
def places(tmp_path: Path) -> Checkpoints:
    """A computer with the two nano models and their planner."""
    places = empty_computer(tmp_path)
    for name in (TURBO, BASE):
        write_model(places.root / name, "dit")
    write_model(places.root / "acestep-nano-vae", "vae")
    write_model(places.root / "acestep-nano-text-encoder", "text_encoder")
    write_model(places.root / "acestep-5Hz-lm-nano", "lm")
    return places


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    engine = FakeEngine(tmp_path / "songs", FakeService())
    engine.configure(ServiceConfig())
    engine.until(lambda: engine.state.status == "ready")
    yield engine
    engine.close()


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture
def downloads(server: HubServer, tmp_path: Path) -> Iterator[Downloads]:
    running = Downloads(HuggingFace(server.url, cache=tmp_path / "cache"), retry_seconds=0)
    yield running
    server.go_on.set()
    running.close()


@pytest.fixture
def panel(engine: FakeEngine, downloads: Downloads, places: Checkpoints) -> Panel:
    return drawn(engine, ServiceConfig, downloads, places)


def drawn(
    engine: FakeEngine,
    config_class: type[ServiceConfig],
    downloads: Downloads,
    places: Checkpoints,
) -> Panel:
    def draw() -> Panel:
        with gr.Blocks():
            return Panel(engine, config_class, downloads, lambda folder: places)

    return in_loop(draw)


def sent(panel: Panel, **fields: Any) -> dict[Any, Any]:
    """What the browser sends for the panel as it was drawn, but for these fields."""
    values: dict[Any, Any] = {
        part: getattr(part, "value", None) for part in panel.form.fields.values()
    }
    values[panel._news] = values[panel._followed] = panel._news.value
    values[panel._said] = panel._said.value
    return values | {panel.form.fields[name]: value for name, value in fields.items()}


def by_id(updates: dict[Any, Any]) -> dict[str, Any]:
    return {str(getattr(part, "elem_id", None)): update for part, update in updates.items()}


def notes(panel: Panel, updates: dict[Any, Any]) -> dict[str, str]:
    """What is said below the controls that name models."""
    return {choice.name: updates[choice.note] for choice in panel._choices}


def statuses(panel: Panel, **fields: Any) -> list[str]:
    """What the panel says of the engine while it initializes what these fields choose."""
    steps = [by_id(step) for step in panel.initialize(sent(panel, **fields))]
    return [step["service-status"] for step in steps if "service-status" in step]


def test_every_setting_has_its_control_and_one_that_is_added_gets_one_by_itself(
    engine: FakeEngine, downloads: Downloads, places: Checkpoints
) -> None:
    panel = drawn(engine, Polished, downloads, places)
    assert panel.form.fields.keys() == Polished.model_fields.keys()
    ids = {part.elem_id for part in panel.form.fields.values()}
    assert ids >= {"main-model-path", "lm-model-path", "backend", "device", "lm-device"}
    assert ids >= {"offload-dit", "int8", "lm-nf4", "memory-limit", "lora", "lora-strength"}
    added: Any = panel.form.fields["polish"]
    assert (added.label, added.value) == ("Polish", False)
    list(panel.initialize(sent(panel, polish=True)))
    assert engine.state.config == Polished(polish=True)


def notes_under(panel: Panel, updates: dict[Any, Any]) -> dict[str, Any]:
    """What `weigh` says under controls, and which it leaves to be changed."""
    fields = {part: name for name, part in panel.form.fields.items()}
    return {
        fields[part]: (update["info"], update["interactive"])
        for part, update in updates.items()
        if part in fields
    }


def test_devices_are_offered_by_name_with_what_is_free(
    engine: FakeEngine, downloads: Downloads, places: Checkpoints
) -> None:
    engine.service.devices = [GPU, CPU]
    panel = drawn(engine, ServiceConfig, downloads, places)
    for name in ("device", "lm_device"):
        control: Any = panel.form.fields[name]
        assert control.choices == [
            ("auto", "auto"),
            ("cuda:0 — GeForce RTX 3060, 7.1 GB free", "cuda:0"),
            ("cpu — a CPU", "cpu"),
        ]
    engine.service.devices = [CPU]
    offered = panel.show(engine.state)[panel.form.fields["device"]]["choices"]
    assert [value for _, value in offered] == ["auto", "cpu"]


def test_every_control_acts_on_the_engine(
    engine: FakeEngine, downloads: Downloads, places: Checkpoints
) -> None:
    engine.service.devices = [GPU, CPU]
    write_lora(lora_folder(places) / "warm.safetensors")
    panel = drawn(engine, ServiceConfig, downloads, places)
    chosen: dict[str, Any] = {
        "device": "cuda:0", "lm_device": "cpu", "offload_dit": True, "int8": True, "lm_nf4": True,
        "memory_limit": "6.5", "lora": ["warm.safetensors:0.5"], "lora_strength": 1.35,
    }  # fmt: skip
    list(panel.initialize(sent(panel, **chosen)))
    assert engine.state.config == ServiceConfig(
        **chosen | {"memory_limit": 6.5, "lora": ("warm.safetensors:0.5",)}
    )


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("memory_limit", "much", "Memory Limit must be a number from 0.5 to 1,024 GB"),
        ("lora_strength", 7, "LoRA Strength must be a number from 0 to 2 (you gave 7)."),
        ("lora", ["warm:9"], "The strength of a LoRA is from 0 to 2 (you gave warm:9)."),
        ("lora", ["cold"], "The LoRA 'cold' is not on this computer"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_under_its_control(
    panel: Panel, engine: FakeEngine, field: str, value: Any, sentence: str
) -> None:
    (refused,) = panel.initialize(sent(panel, **{field: value}))
    complaint = refused[panel.form.complaint]
    assert complaint["field"] == field.replace("_", "-") and sentence in complaint["message"]
    assert engine.state.config == ServiceConfig()


def test_a_control_that_would_change_nothing_says_why_and_cannot_be_changed(
    panel: Panel, engine: FakeEngine
) -> None:
    values = sent(panel)
    on_cpu = panel.weigh(values)
    said = notes_under(panel, on_cpu)
    nothing = "Nothing to offload: everything already runs on the CPU."
    assert said["offload_dit"] == (nothing, False)
    assert said["lora_strength"] == ("Nothing to weigh: no LoRA is chosen.", False)
    words, acts = said["lm_nf4"]
    assert "nothing is gained by 4 bits" in words and not acts
    words, acts = said["int8"]
    assert "is only 19.2 MB: this saves next to nothing." in words and acts
    assert words.startswith("Stores the big matrices in 8 bits")
    assert "auto is cpu: a CPU." in said["device"][0]
    # Only what differs is said again.
    values[panel._said] = on_cpu[panel._said]
    assert notes_under(panel, panel.weigh(values)) == {}
    engine.service.devices = [GPU, CPU]
    said = notes_under(panel, panel.weigh(values))
    assert said.keys() == {"offload_dit", "device"} and said["offload_dit"][1] is True
    assert "less than 1 GB" in said["offload_dit"][0]


def test_what_was_chosen_can_be_taken_back_where_it_does_nothing(panel: Panel) -> None:
    said = notes_under(panel, panel.weigh(sent(panel, offload_dit=True, lora_strength=0.5)))
    assert said["offload_dit"][1] and said["lora_strength"][1]
    assert "Nothing to offload" in said["offload_dit"][0]


def test_without_a_planner_what_acts_on_it_says_so(panel: Panel) -> None:
    said = notes_under(panel, panel.weigh(sent(panel, lm="none")))
    for name in ("backend", "lm_device", "lm_nf4"):
        assert said[name] == ("No 5Hz LM is chosen that this could act on.", False)


def test_the_memory_line_follows_the_settings_and_the_song(panel: Panel) -> None:
    def said(request: Text2Music | None = None, **fields: Any) -> str:
        return panel.weigh(sent(panel, **fields), request)[panel._memory]

    assert f"{TURBO}: peak 6.4 of 8.0 GB." in said() and 'class="memory fits"' in said()
    assert "peak 3.2 of 8.0 GB." in said(int8=True)
    song = Text2Music(caption="dub", duration=100, takes=2)
    assert "peak 8.0 of 8.0 GB." in said(song) and 'class="memory tight"' in said(song)
    assert 'class="memory over"' in said(song, memory_limit="4")
    assert "The music model streams from main memory." in said(offload_dit=True)
    assert said(memory_limit="much") == ""


def test_the_memory_line_says_how_long_a_song_like_it_takes(
    panel: Panel, engine: FakeEngine
) -> None:
    song = Text2Music(caption="dub", duration=100, steps=4)
    assert "About" not in panel.weigh(sent(panel), song)[panel._memory]
    engine.ended(engine.submit(song))
    said = panel.weigh(sent(panel), song)[panel._memory]
    assert re.search(r"About \d+ s for 100 s of music\.", said)
    other = panel.weigh(sent(panel, model=BASE), song)[panel._memory]
    assert "About" not in other  # what it was asked of is not what is loaded


def test_the_bar_of_the_memory_line_is_a_meter_with_words() -> None:
    line = MemoryLine(sentence="<2B> fits.", used=6_100_000_000, budget=8_000_000_000, fits=True)
    shown = memory_html(line)
    assert "&lt;2B&gt; fits." in shown and "width: 76%" in shown
    assert 'role="meter"' in shown and 'aria-valuetext="6.1 GB of 8.0 GB: fits"' in shown
    over = memory_html(line.model_copy(update={"used": 9_000_000_000, "fits": False}))
    assert "does not fit" in over and "width: 100%" in over


def test_an_adapter_is_applied_without_loading_again(
    panel: Panel, engine: FakeEngine, places: Checkpoints
) -> None:
    write_lora(lora_folder(places) / "warm.safetensors")
    chosen = sent(panel, lora=["warm.safetensors"], lora_strength=0.5)
    steps = list(panel.initialize(chosen))
    assert APPLIED in steps[-1][panel._applied] and steps[-1][panel._pending] == ""
    assert "warm.safetensors acts." in panel.show(engine.state)[panel._status]
    assert len(engine.service.loads) == 1 and engine.service.adapted[-1].lora_strength == 0.5
    assert panel.look(sent(panel))[panel._applied] == ""  # what is chosen now is not
    *_, last = panel.initialize({**chosen, panel.form.fields["model"]: BASE})
    assert panel._applied not in last and len(engine.service.loads) == 2


def test_the_loras_of_the_folder_are_offered_and_the_others_told(
    panel: Panel, places: Checkpoints
) -> None:
    empty = notes_under(panel, panel.weigh(sent(panel)))["lora"][0]
    assert "yet: put one there, or type where it is." in empty
    write_lora(lora_folder(places) / "warm.safetensors")
    (lora_folder(places) / "old.ckpt").write_bytes(b"\x80")
    offered = panel.list_models(sent(panel))[panel.form.fields["lora"]]["choices"]
    assert offered == [("warm.safetensors — LoRA, rank 2", "warm.safetensors")]


def test_what_is_here_and_what_can_be_fetched_are_told_apart(
    panel: Panel, places: Checkpoints
) -> None:
    control: Any = panel.form.fields["model"]
    labels = {value: label for label, value in control.choices}
    assert labels[TURBO] == f"✔ {TURBO}"
    assert re.fullmatch(rf"⬇ {PUBLISHED} \(\d+\.\d GB\)", labels[PUBLISHED])
    planner: Any = panel.form.fields["lm"]
    assert [value for _, value in planner.choices][:3] == ["auto", "none", "acestep-5Hz-lm-nano"]


def test_the_form_says_while_it_differs_from_what_is_loaded(panel: Panel) -> None:
    assert panel.look(sent(panel))[panel._pending] == ""
    assert NOT_APPLIED in panel.look(sent(panel, model=BASE))[panel._pending]
    assert NOT_APPLIED in panel.look(sent(panel, device="cpu"))[panel._pending]
    assert panel.look(sent(panel, model=TURBO, device="auto"))[panel._pending] == ""


@pytest.mark.parametrize(
    ("model", "sentence", "button"),
    [
        (BASE, "", ""),
        (PUBLISHED, f"{PUBLISHED} is not on this computer", "Download ("),
        ("acestep-v15-xyz", "`acestep-v15-xyz` was not found in", ""),
        ("acestep-5Hz-lm-nano", "is a 5Hz language model, not a music model", ""),
        ("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;", ""),
    ],
)
def test_a_model_that_cannot_be_loaded_is_told_below_its_control(
    panel: Panel, model: str, sentence: str, button: str
) -> None:
    updates = panel.look(sent(panel, model=model))
    assert sentence in notes(panel, updates)["model"]
    fetch = updates[panel._choices[0].fetch]
    assert fetch["visible"] is bool(button) and fetch.get("value", "").startswith(button)


def test_a_folder_typed_as_a_path_is_judged_by_its_files(panel: Panel, tmp_path: Path) -> None:
    pickled = tmp_path / "mine"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"\x80")
    said = notes(panel, panel.look(sent(panel, model=str(pickled))))["model"]
    assert "Only .safetensors weights are loaded; found pytorch_model.bin." in said


def test_initialize_loads_what_is_chosen_and_tells_how_it_gets_there(
    panel: Panel, engine: FakeEngine
) -> None:
    engine.service.load_seconds = 0.2
    words = " ".join(statuses(panel, model=BASE))
    assert words.index(f"Loading {BASE} …") < words.index(f"{BASE} on CPU.")
    assert engine.state.config.model == BASE and engine.state.status == "ready"


def test_initialize_of_what_is_loaded_ends_at_once(panel: Panel, engine: FakeEngine) -> None:
    began = time.monotonic()
    *_, last = panel.initialize(sent(panel))
    assert last[panel._pending] == "" and time.monotonic() - began < 5
    assert len(engine.service.loads) == 1


def test_a_model_that_is_not_here_is_refused_before_what_is_loaded_is_given_up(
    panel: Panel, engine: FakeEngine
) -> None:
    (refused,) = panel.initialize(sent(panel, model=PUBLISHED))
    complaint = refused[panel.form.complaint]
    assert complaint["field"] == "main-model-path"
    assert f"{PUBLISHED} is not on this computer" in complaint["message"]
    assert engine.state.config.model == TURBO and engine.state.status == "ready"


def test_a_load_that_fails_says_why(panel: Panel, engine: FakeEngine) -> None:
    engine.service.load_failure = CheckpointError("<model.safetensors> is damaged.")
    *_, shown, _ = panel.initialize(sent(panel, model=BASE))
    status = by_id(shown)["service-status"]
    assert 'role="alert"' in status and "&lt;model.safetensors&gt; is damaged." in status


def test_a_switch_says_which_song_it_waits_for(panel: Panel, engine: FakeEngine) -> None:
    engine.service.step_seconds = 0.1
    engine.started(engine.submit(Text2Music(caption="dub <techno>", duration=10)))
    first, *_, last = statuses(panel, model=BASE)
    name = "text2music “dub &lt;techno&gt;”"
    assert f"Switches to {BASE} after the running song: {name}." in first
    assert f"{BASE} on CPU." in last


def test_unload_gives_the_memory_back_or_says_what_runs(panel: Panel, engine: FakeEngine) -> None:
    engine.service.step_seconds = 0.1
    job = engine.submit(Text2Music(caption="dub", duration=10))
    refused = panel.unload()[panel._status]
    assert 'role="alert"' in refused and "Finish or cancel the running job first" in refused
    engine.ended(job)
    assert "Nothing is loaded." in panel.unload()[panel._status]
    assert engine.state.status == "empty"


def test_a_page_follows_a_switch_made_elsewhere_unless_something_was_chosen_here(
    panel: Panel, engine: FakeEngine
) -> None:
    engine.configure(ServiceConfig(model=BASE))
    engine.until(lambda: engine.state.loaded and engine.state.loaded.model == BASE)
    news = panel.show(engine.state)[panel._news]
    model = panel.form.fields["model"]
    same = panel.follow({**sent(panel), panel._news: news})
    assert same[model] == BASE and same[panel._pending] == ""
    chosen = panel.follow({**sent(panel, device="cpu"), panel._news: news})
    assert model not in chosen and NOT_APPLIED in chosen[panel._pending]
    assert chosen[panel._followed] == news


def test_showing_a_state_updates_only_what_it_may(panel: Panel, engine: FakeEngine) -> None:
    assert set(panel.show(engine.state)) <= panel.components


def until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + SOON
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_download_shows_bytes_is_stopped_goes_on_and_ends_in_a_model_that_can_be_chosen(
    panel: Panel, server: HubServer, downloads: Downloads, engine: FakeEngine, places: Checkpoints
) -> None:
    server.stalls_after = 50_000
    chosen = sent(panel, model=PUBLISHED)
    choice = panel._choices[0]
    begun = panel.fetch(choice, chosen)
    assert begun[choice.fetch]["visible"] is False and begun[panel._timer].active
    until(lambda: downloads.snapshot()[0].done >= 50_000)
    time.sleep(0.6)  # before which a speed would be a guess
    running = panel.tick(chosen)
    assert re.search(r"acestep-v15-turbo: 0\.\d MB of 0\.\d MB", running[panel._progress])
    assert 'max="' in running[panel._progress] and running[panel._cancel]["visible"] is True
    stopped = panel.cancel(chosen)
    server.go_on.set()
    until(lambda: downloads.snapshot()[0].is_over)
    stopped = panel.tick(chosen)
    assert "Stopped at" in stopped[panel._progress] and not stopped[panel._timer].active
    assert stopped[choice.fetch]["value"].startswith("Resume Download (")
    server.stalls_after = None
    panel.fetch(choice, chosen)
    until(lambda: downloads.snapshot()[0].state == "done")
    assert [asked for asked in server.ranges if asked]  # it went on where it was
    ended = panel.tick(chosen)
    labels = dict((value, label) for label, value in ended[panel.form.fields["model"]]["choices"])
    assert labels[PUBLISHED] == f"✔ {PUBLISHED}"
    assert ended[choice.fetch]["visible"] is False and ended[choice.note] == ""
    list(panel.initialize(chosen))
    assert engine.state.config.model == PUBLISHED and engine.state.status == "ready"


LOADED = Loaded(
    model=TURBO,
    preset=FakeService().preset,
    has_planner=True,
    planner="acestep-5Hz-lm-nano on pt.",
    device="CPU",
    seconds=0.42,
)
STATES = {
    "empty": (EngineState(status="empty", config=ServiceConfig()), "Nothing is loaded."),
    "loading": (
        EngineState(
            status="loading",
            config=ServiceConfig(),
            loading=Event(at=0, stage="loading", done=1, total=4),
        ),
        f"Loading {TURBO} …",
    ),
    "ready": (
        EngineState(status="ready", config=ServiceConfig(), loaded=LOADED),
        f"Loaded in 0.4 s: {TURBO} on CPU. Planner: acestep-5Hz-lm-nano on pt.",
    ),
    "failed": (
        EngineState(
            status="failed",
            config=ServiceConfig(),
            failure=Failure(type="EngineStopped", message="The engine stopped (signal 9)."),
        ),
        "The engine stopped (signal 9).",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_the_state_of_the_engine_is_a_sentence(name: str) -> None:
    state, sentence = STATES[name]
    assert sentence in status_line(state)


def test_a_running_download_is_not_read_out_every_second_but_its_end_is() -> None:
    row = Download(name="x", state="downloading", folder=Path(), done=1, total=2, sentence="<1 B>")
    assert "role" not in download_line(row) and 'value="1" max="2"' in download_line(row)
    assert "&lt;1 B&gt;" in download_line(row)
    failed = row.model_copy(update={"state": "failed", "sentence": "The disk is full."})
    assert 'role="alert"' in download_line(failed) and "The disk is full." in download_line(failed)
