"""The form shows what the schema says, and gives back what it shows."""

import json
import math
from pathlib import Path
from typing import Any, Literal, get_args

import gradio as gr
import pytest
from fake_engine import BASE, TURBO
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import in_loop

from acestep.errors import InvalidRequest
from acestep.request import Preset, Text2Music, schema
from acestep.request.schema import Schema, setting
from acestep.request.values import (
    INSTRUMENTAL,
    KEY_SCALES,
    LANGUAGES,
    TIME_SIGNATURES,
    AudioFormat,
    GuidanceRule,
    Solver,
    Wavelet,
    WaveletCorrection,
)
from acestep.seeds import MAX_SEED
from acestep.ui import controls
from acestep.ui.controls import LANGUAGE_NAMES
from acestep.ui.examples import EXAMPLES
from acestep.ui.form import Form

DRAWN = [name for name, field in Text2Music.model_fields.items() if controls.is_drawn(field)]
HIDDEN = gr.update(visible=False)
CONTRACTED_IDS = {
    "caption": "caption",
    "lyrics": "lyrics",
    "think": "think",
    "lm_temperature": "lm-temperature",
    "lm_cfg_scale": "cfg-scale",
}
text = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=40)


def numbers(name: str) -> st.SearchStrategy[Any]:
    """Values of a numeric field in its own range."""
    field = Text2Music.model_fields[name]
    low, high = schema.bounds(field)
    assert low is not None and high is not None
    if int in (get_args(field.annotation) or (field.annotation,)):
        return st.integers(int(low), int(high))
    return st.floats(low, high, exclude_min=name == "lm_top_p")


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "caption": text.map(lambda t: f"x{t}"),
    "lyrics": st.sampled_from([INSTRUMENTAL]) | text,
    "vocal_language": optional(st.sampled_from(LANGUAGES)),
    "key_scale": optional(st.sampled_from([key for key in KEY_SCALES if key.isascii()])),
    "time_signature": optional(st.sampled_from(list(TIME_SIGNATURES))),
    "reference_audio": optional(st.just(Path("some folder/voice.flac"))),
    "think": st.sampled_from([None, False]),
    "lm_negative_prompt": text,
    "timesteps": optional(
        st.lists(st.floats(0.001, 1.0), min_size=1, max_size=8, unique=True).map(
            lambda ts: tuple(sorted(ts, reverse=True))
        )
    ),
    "guidance_rule": st.sampled_from(get_args(GuidanceRule)),
    "guidance_start": st.floats(0.0, 0.5),
    "guidance_end": st.floats(0.5, 1.0),
    "solver": st.sampled_from(get_args(Solver)),
    "dcw": optional(st.sampled_from(get_args(WaveletCorrection))),
    "dcw_wavelet": st.sampled_from(get_args(Wavelet)),
    "rewrite_caption": optional(st.booleans()),
    "normalize": st.booleans(),
    "format": st.sampled_from(get_args(AudioFormat)),
    "seed": optional(st.integers(0, MAX_SEED)),
    **{n: optional(numbers(n)) for n in ("bpm", "duration", "steps", "shift", "guidance_scale")},
    **{n: numbers(n) for n in ("lm_temperature", "lm_cfg_scale", "lm_top_p", "lm_top_k")},
    **{n: numbers(n) for n in ("takes", "peak_db", "fade_in", "fade_out")},
    **{n: numbers(n) for n in ("dcw_scaler", "dcw_high_scaler")},
}


def drawn() -> Form[Any]:
    with gr.Blocks():
        form = Form(Text2Music, EXAMPLES[Text2Music]["Lo-fi rain"])
        form.draw(*DRAWN)
    return form


@pytest.fixture(scope="module")
def form() -> Form[Text2Music]:
    return in_loop(drawn)


def sent(form: Form[Any], request: Schema, **changes: Any) -> dict[Any, Any]:
    """What the browser sends for a form that shows `request`, after JSON, by component."""
    values = dict(form.fill(request))
    for name, value in changes.items():
        values[form.fields[name]] = value
    return {component: json.loads(json.dumps(value)) for component, value in values.items()}


def test_strategies_cover_every_field_that_is_drawn() -> None:
    assert sorted(VALUES) == sorted(DRAWN)
    assert set(Text2Music.model_fields) - set(DRAWN) == {"task", "plan"}


@settings(max_examples=200, deadline=None)
@given(data=st.fixed_dictionaries(VALUES))
def test_what_is_filled_in_is_read_back(form: Form[Text2Music], data: dict[str, Any]) -> None:
    request = Text2Music.model_validate(data)
    assert form.read(sent(form, request)) == request


@pytest.mark.parametrize("name", DRAWN)
def test_label_help_range_and_choices_come_from_the_schema(
    form: Form[Text2Music], name: str
) -> None:
    control: Any = form.fields[name]
    field = Text2Music.model_fields[name]
    assert control.label == field.title
    assert name == "reference_audio" or control.info.startswith(str(field.description))
    assert control.elem_id == CONTRACTED_IDS.get(name, name.replace("_", "-"))
    low, high = schema.bounds(field)
    if low is not None and name != "seed":
        assert isinstance(control, gr.Textbox)
        assert f"({low:g}–{high:,g})" in str(control.placeholder)
    if schema.choices(field):
        assert isinstance(control, gr.Dropdown)
        open_first = [""] if field.default is None else []
        assert [value for _, value in control.choices] == open_first + list(schema.choices(field))


def test_no_control_clamps_or_drops_what_is_typed(form: Form[Text2Music]) -> None:
    assert not [part for part in form.fields.values() if isinstance(part, gr.Number | gr.Slider)]


def test_lists_of_the_schema_are_offered_whole(form: Form[Text2Music]) -> None:
    def offered(name: str) -> list[str]:
        component: Any = form.fields[name]
        return [value for _, value in component.choices]

    assert set(offered("vocal_language")) == {"", *LANGUAGES} == {"", "unknown", *LANGUAGE_NAMES}
    assert set(offered("key_scale")) == {"", *(key for key in KEY_SCALES if key.isascii())}
    assert offered("time_signature") == ["", *TIME_SIGNATURES.values()]


def test_keys_are_shown_with_their_proper_signs_and_sent_plain(form: Form[Text2Music]) -> None:
    component: Any = form.fields["key_scale"]
    shown = {value: label for label, value in component.choices}
    assert (shown["F# minor"], shown["Bb major"], shown["B minor"]) == (
        "F♯ minor", "B♭ major", "B minor",
    )  # fmt: skip


def test_an_empty_box_means_you_choose(form: Form[Text2Music]) -> None:
    request = form.read(sent(form, Text2Music(caption="x")))
    assert request == Text2Music(caption="x")


@pytest.mark.parametrize("nothing", ["", None])
def test_an_untouched_box_and_an_emptied_one_both_mean_you_choose(
    form: Form[Text2Music], nothing: str | None
) -> None:
    boxes = [name for name in DRAWN if controls.is_number(Text2Music.model_fields[name])]
    values = sent(form, Text2Music(caption="x"), **dict.fromkeys(boxes, nothing))
    assert len(boxes) >= 15 and form.read(values) == Text2Music(caption="x")


def test_think_left_ticked_is_the_programs_choice_and_unticked_is_a_wish(
    form: Form[Text2Music],
) -> None:
    assert form.read(sent(form, Text2Music(caption="x"))).think is None
    assert form.read(sent(form, Text2Music(caption="x"), think=False)).think is False


def test_lyrics_with_instrumental_ticked_are_a_sentence_and_never_dropped(
    form: Form[Text2Music],
) -> None:
    values = sent(form, Text2Music(caption="x", lyrics="[Verse]\nla"))
    assert form.read(values).lyrics == "[Verse]\nla"
    values[form.instrumental] = True
    with pytest.raises(InvalidRequest) as error:
        form.read(values)
    assert (error.value.field, str(error.value)) == (
        "lyrics",
        "There are lyrics, but Instrumental is ticked: untick it to have them sung, or empty the "
        "lyrics.",
    )
    for silent in ("", " \n", "[Instrumental]", "[inst]"):
        assert form.read({**values, form.fields["lyrics"]: silent}).is_instrumental


def test_an_upload_is_read_from_what_the_browser_sends(form: Form[Text2Music]) -> None:
    upload = {"path": "/cache/voice.wav", "meta": {"_type": "gradio.FileData"}}
    request = form.read(sent(form, Text2Music(caption="x"), reference_audio=upload))
    assert request.reference_audio == Path("/cache/voice.wav")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("bpm", "12", "BPM must be a whole number from 30 to 300 (you gave 12)."),
        ("bpm", "100.5", "BPM must be a whole number from 30 to 300 (you gave 100.5)."),
        ("bpm", "abc", "BPM must be a whole number from 30 to 300 (you gave abc)."),
        ("duration", math.inf, "Audio Duration must be a number from 10 to 600 s (you gave inf)."),
        ("duration", 5, "Audio Duration must be a number from 10 to 600 s (you gave 5)."),
        ("caption", {"a": 1}, "Music Caption must be text (you gave {'a': 1})."),
        ("caption", None, "Music Caption is missing."),
        ("caption", "x" * 530, "Music Caption is 530 characters; the limit is 512."),
        ("lm_temperature", "5", "LM Temperature must be a number from 0 to 2 (you gave 5)."),
        ("lm_cfg_scale", [], "CFG Scale must be a number from 1 to 7 (you gave [])."),
        ("key_scale", "H minor", "Key 'H minor' is not known. Try 'B minor'."),
        ("time_signature", "5/4", "Choose 2/4, 3/4, 4/4 or 6/8 (you gave '5/4')."),
        ("vocal_language", "xx", "Unknown language code 'xx'."),
        ("solver", "magic", "Solver must be one of euler, heun, sde (you gave magic)."),
        (
            "timesteps",
            "1, fast",
            "Timesteps must all be numbers from above 0 to 1 (you gave fast).",
        ),
        ("timesteps", "0.5 1", "Timesteps must fall from one to the next."),
        ("normalize", "perhaps", "Normalize must be true or false (you gave perhaps)."),
    ],
)
def test_whatever_is_sent_ends_in_the_schemas_sentence(
    form: Form[Text2Music], name: str, value: Any, sentence: str
) -> None:
    values = {**sent(form, Text2Music(caption="x")), form.fields[name]: value}
    with pytest.raises(InvalidRequest) as error:
        form.read(values)
    assert (error.value.field, str(error.value)) == (name, sentence)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(DRAWN),
    value=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
        max_leaves=5,
    ),
)
def test_no_json_value_gets_past_the_schema_or_raises_anything_else(
    form: Form[Text2Music], name: str, value: Any
) -> None:
    try:
        request = form.read({**sent(form, Text2Music(caption="x")), form.fields[name]: value})
    except InvalidRequest as error:
        assert str(error).endswith(".")
    else:
        assert Text2Music.model_validate(request.model_dump()) == request


def test_turbo_hides_guidance_and_says_why(form: Form[Text2Music]) -> None:
    updates = form.suit(TURBO, has_planner=False)
    assert updates[form.fields["guidance_scale"]]["placeholder"] == "off: turbo models need none"
    hidden = {
        name for name, part in form.fields.items() if updates.get(part, {}).get("visible") is False
    }
    assert hidden == {"guidance_rule", "guidance_start", "guidance_end"}
    assert updates[form.fields["steps"]]["placeholder"] == "auto: 8 (1–20)"
    assert updates[form.fields["duration"]]["placeholder"] == "auto: 12 (10–600)"


def test_base_shows_guidance_and_leaves_the_length_to_the_planner(form: Form[Text2Music]) -> None:
    updates = form.suit(BASE, has_planner=True)
    assert updates[form.fields["guidance_scale"]]["placeholder"] == "auto: 7 (1–15)"
    assert updates[form.fields["guidance_rule"]]["visible"] is True
    assert updates[form.fields["steps"]]["placeholder"] == "auto: 8 (1–200)"
    assert updates[form.fields["duration"]]["placeholder"] == "auto (10–600)"


@pytest.mark.parametrize("preset", [TURBO, BASE])
def test_fitting_a_form_to_a_model_keeps_what_was_typed(
    form: Form[Text2Music], preset: Preset
) -> None:
    for update in form.suit(preset, has_planner=True).values():
        assert "value" not in update


def test_a_complaint_names_its_field_and_the_accordion_to_open() -> None:
    def draw() -> Form[Text2Music]:
        with gr.Blocks():
            form = Form(Text2Music, prefix="toy-")
            form.draw("caption")
            form.draw("steps", accordion="toy-rendering")
        return form

    form = in_loop(draw)
    sentence = "Steps must be a whole number from 1 to 200 (you gave abc)."
    said = form.refuse(InvalidRequest("steps", sentence))[form.complaint]
    assert (said["field"], said["accordion"]) == ("toy-steps", "toy-rendering")
    assert said["message"] == sentence
    assert form.accept() == {form.complaint: {}}
    with pytest.raises(gr.Error, match="no control"):
        form.refuse(InvalidRequest("plan", "It has no control here."))


class Everything(Schema):
    """One field of every kind that a request or a service may have."""

    task: Literal["everything"] = "everything"
    ratio: float = setting(0.5, "rendering", "Ratio", "A share.", ge=0.0, le=1.0)
    rewrite: bool | None = setting(None, "text", "Rewrite", "Whether the words may change.")
    kind: Literal["a", "b"] | None = setting(None, "text", "Kind", "Which of two.")
    fixed: float = setting(0.0, "output", "Fixed", "Nothing to choose.", ge=0.0, le=0.0)
    folder: Path | None = setting(None, "models", "Folder", "Where.", widget="folder")


def test_a_class_that_nobody_foresaw_gets_its_controls_by_type() -> None:
    names = [name for name, field in Everything.model_fields.items() if controls.is_drawn(field)]
    assert names == ["ratio", "rewrite", "kind", "folder"]

    def draw() -> Form[Everything]:
        with gr.Blocks():
            form = Form(Everything)
            form.draw(*names)
        return form

    form = in_loop(draw)
    for asked in (Everything(), Everything(ratio=0.25, rewrite=False, kind="b", folder=Path("x"))):
        assert form.read(sent(form, asked)) == asked
    assert form.read(sent(form, Everything(), rewrite="on")).rewrite is True
    kind: Any = form.fields["kind"]
    assert kind.choices == [("auto", ""), ("a", "a"), ("b", "b")]


@pytest.mark.parametrize("name", EXAMPLES[Text2Music])
def test_examples_suit_the_turbo_models_and_fill_no_box_that_nobody_sees(
    form: Form[Text2Music], name: str
) -> None:
    request = form.read(sent(form, EXAMPLES[Text2Music][name]))
    request.check(TURBO, has_planner=False)
    assert request.warnings() == []
    assert (request.bpm, request.key_scale, request.time_signature) == (None, None, None)
