"""The form shows what the schema says, and gives back what it shows."""

import json
import math
from pathlib import Path
from typing import Any, get_args

import gradio as gr
import pytest
from fake_service import BASE, TURBO
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import in_loop

from acestep.errors import InvalidRequest
from acestep.request import Text2Music, schema
from acestep.request.values import (
    INSTRUMENTAL,
    KEY_SCALES,
    LANGUAGES,
    TIME_SIGNATURES,
    AudioFormat,
    GuidanceRule,
    Solver,
    WaveletCorrection,
)
from acestep.seeds import MAX_SEED
from acestep.ui.examples import EXAMPLES
from acestep.ui.form import LANGUAGE_NAMES, NOT_DRAWN, Form

DRAWN = [name for name in Text2Music.model_fields if name not in NOT_DRAWN]
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
    "think": st.booleans(),
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
    "dcw": st.sampled_from(get_args(WaveletCorrection)),
    "normalize": st.booleans(),
    "format": st.sampled_from(get_args(AudioFormat)),
    "seed": optional(st.integers(0, MAX_SEED)),
    **{n: optional(numbers(n)) for n in ("bpm", "duration", "steps", "shift", "guidance_scale")},
    **{n: numbers(n) for n in ("lm_temperature", "lm_cfg_scale", "lm_top_p", "lm_top_k")},
    **{n: numbers(n) for n in ("takes", "peak_db", "fade_in", "fade_out")},
}


def drawn() -> Form:
    with gr.Blocks():
        form = Form(Text2Music, EXAMPLES["Lo-fi rain"])
        form.draw(*DRAWN)
        form.draw_instrumental()
    return form


@pytest.fixture(scope="module")
def form() -> Form:
    return in_loop(drawn)


def sent(form: Form, request: Text2Music, **changes: Any) -> dict[Any, Any]:
    """What the browser sends for a form that shows `request`, after JSON, by component."""
    values = dict(form.fill(request))
    for name, value in changes.items():
        values[form.fields[name]] = value
    return {component: json.loads(json.dumps(value)) for component, value in values.items()}


def test_strategies_cover_every_field_that_is_drawn() -> None:
    assert sorted(VALUES) == sorted(DRAWN)


@settings(max_examples=200, deadline=None)
@given(data=st.fixed_dictionaries(VALUES))
def test_what_is_filled_in_is_read_back(form: Form, data: dict[str, Any]) -> None:
    request = Text2Music.model_validate(data)
    assert form.read(sent(form, request)) == request


@pytest.mark.parametrize("name", DRAWN)
def test_label_help_range_and_choices_come_from_the_schema(form: Form, name: str) -> None:
    component = form.fields[name]
    info = getattr(component, "info", None) or ""
    field = Text2Music.model_fields[name]
    assert component.label == field.title
    assert name == "reference_audio" or info.startswith(str(field.description))
    assert component.elem_id == CONTRACTED_IDS.get(name, name.replace("_", "-"))
    if isinstance(component, gr.Slider):
        low, high = schema.bounds(field)
        assert low is not None and component.maximum == high
        assert low <= component.minimum <= low + (component.step or 0)
        Text2Music.model_validate({"caption": "x", name: component.minimum})
    if isinstance(component, gr.Dropdown) and schema.choices(field):
        assert [value for _, value in component.choices] == list(schema.choices(field))


def test_lists_of_the_schema_are_offered_whole(form: Form) -> None:
    def offered(name: str) -> list[str]:
        component: Any = form.fields[name]
        return [value for _, value in component.choices]

    assert set(offered("vocal_language")) == {"", *LANGUAGES} == {"", *LANGUAGE_NAMES}
    assert set(offered("key_scale")) == {"", *(key for key in KEY_SCALES if key.isascii())}
    assert offered("time_signature") == ["", *TIME_SIGNATURES.values()]


def test_keys_are_shown_with_their_proper_signs_and_sent_plain(form: Form) -> None:
    component: Any = form.fields["key_scale"]
    shown = {value: label for label, value in component.choices}
    assert (shown["F# minor"], shown["Bb major"], shown["B minor"]) == (
        "F♯ minor", "B♭ major", "B minor",
    )  # fmt: skip


def test_an_empty_box_means_you_choose(form: Form) -> None:
    request = form.read(sent(form, Text2Music(caption="x")))
    assert request == Text2Music(caption="x")


@pytest.mark.parametrize("nothing", ["", None])
def test_an_untouched_number_box_and_an_emptied_one_both_mean_you_choose(
    form: Form, nothing: str | None
) -> None:
    boxes = [name for name, part in form.fields.items() if isinstance(part, gr.Number)]
    values = sent(form, Text2Music(caption="x"), **dict.fromkeys(boxes, nothing))
    assert len(boxes) >= 6 and form.read(values) == Text2Music(caption="x")


def test_instrumental_silences_lyrics_that_stay_in_the_form(form: Form) -> None:
    values = sent(form, Text2Music(caption="x", lyrics="[Verse]\nla"))
    assert form.read(values).lyrics == "[Verse]\nla"
    values[form.instrumental] = True
    assert form.read(values).is_instrumental


def test_an_upload_is_read_from_what_the_browser_sends(form: Form) -> None:
    upload = {"path": "/cache/voice.wav", "meta": {"_type": "gradio.FileData"}}
    request = form.read(sent(form, Text2Music(caption="x"), reference_audio=upload))
    assert request.reference_audio == Path("/cache/voice.wav")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("bpm", 12, "BPM must be a whole number from 30 to 300 (you gave 12)."),
        ("bpm", 100.5, "BPM must be a whole number from 30 to 300 (you gave 100.5)."),
        ("bpm", "fast", "BPM must be a whole number from 30 to 300 (you gave fast)."),
        ("duration", math.inf, "Audio Duration must be a number from 10 to 600 s (you gave inf)."),
        ("duration", 5, "Audio Duration must be a number from 10 to 600 s (you gave 5)."),
        ("caption", {"a": 1}, "Music Caption must be text (you gave {'a': 1})."),
        ("caption", None, "Music Caption is missing."),
        ("caption", "x" * 530, "Music Caption is 530 characters; the limit is 512."),
        ("lm_temperature", None, "LM Temperature is missing."),
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
    form: Form, name: str, value: Any, sentence: str
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
    form: Form, name: str, value: Any
) -> None:
    try:
        request = form.read({**sent(form, Text2Music(caption="x")), form.fields[name]: value})
    except InvalidRequest as error:
        assert str(error).endswith(".")
    else:
        assert Text2Music.model_validate(request.model_dump()) == request


def test_turbo_switches_guidance_off_and_says_why(form: Form) -> None:
    updates = form.suit(TURBO, has_planner=False)
    scale = updates[form.fields["guidance_scale"]]
    assert (scale["interactive"], scale["info"]) == (False, "Turbo models need no guidance.")
    assert updates[form.fields["steps"]]["placeholder"] == "auto: 8 (1–20)"
    assert updates[form.fields["think"]]["value"] is False


def test_base_switches_guidance_and_think_on(form: Form) -> None:
    updates = form.suit(BASE, has_planner=True)
    scale = updates[form.fields["guidance_scale"]]
    assert (scale["interactive"], scale["placeholder"]) == (True, "auto: 7 (1–15)")
    assert scale["info"] == Text2Music.model_fields["guidance_scale"].description
    assert updates[form.fields["think"]]["value"] is True


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_suit_the_turbo_models_as_they_are(form: Form, name: str) -> None:
    request = form.read(sent(form, EXAMPLES[name]))
    assert request.resolve(TURBO, has_planner=False).warnings() == []
