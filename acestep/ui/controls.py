"""The control of a field: which it is, what it shows for a value, what was meant by what it sends.

Everything comes from the field itself (`schema.setting`). Numbers are boxes of text, because a
control that clamps or drops what was typed keeps the schema from saying what is wrong with it.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import gradio as gr
from gradio.components import Component
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from acestep.config import AUTO
from acestep.request import schema
from acestep.request.values import KEY_SCALES, LANGUAGES, TIME_SIGNATURES, UNKNOWN_LANGUAGE
from acestep.ui.events import Updates

STRENGTH, STRENGTH_STEP = "strength", 0.05
EMPTY = ""  # what a box or a list holds while the choice is left to the program
Choices = Sequence[tuple[str, str]]  # (shown, sent)
NO_LISTS: Mapping[str, Choices] = MappingProxyType({})
UNIT_WORDS = MappingProxyType({"s": "seconds"})
SWITCH = MappingProxyType({True: "on", False: "off", None: EMPTY})
ELEM_IDS = MappingProxyType({"model": "main-model-path", "lm": "lm-model-path"})  # by widget
TERSE = gr.InputHTMLAttributes(autocomplete="off", autocapitalize="off", spellcheck=False)
LANGUAGE_NAMES = MappingProxyType(
    {
        code: name
        for code, _, name in (
            entry.partition("=")
            for entry in "ar=Arabic az=Azerbaijani bg=Bulgarian bn=Bengali ca=Catalan cs=Czech "
            "da=Danish de=German el=Greek en=English es=Spanish fa=Persian fi=Finnish fr=French "
            "he=Hebrew hi=Hindi hr=Croatian ht=Haitian hu=Hungarian id=Indonesian is=Icelandic "
            "it=Italian ja=Japanese ko=Korean la=Latin lt=Lithuanian ms=Malay ne=Nepali nl=Dutch "
            "no=Norwegian pa=Punjabi pl=Polish pt=Portuguese ro=Romanian ru=Russian sa=Sanskrit "
            "sk=Slovak sr=Serbian sv=Swedish sw=Swahili ta=Tamil te=Telugu th=Thai tl=Tagalog "
            "tr=Turkish uk=Ukrainian ur=Urdu vi=Vietnamese yue=Cantonese zh=Chinese".split()
        )
    }
)


def control_of(
    name: str,
    field: FieldInfo,
    value: Any,
    prefix: str = "",
    lists: Mapping[str, Choices] = NO_LISTS,
) -> Component:
    """The control this field deserves, in the current page.

    Args:
        lists: by widget, what to offer beside typing.
    """
    common: dict[str, Any] = {"label": field.title, "elem_id": elem_id(name, field, prefix)}
    if is_upload(field):  # Not editable: a trimmed song is another file, with other times.
        return gr.Audio(
            as_shown(field, value), type="filepath", sources=["upload"], editable=False, buttons=[],
            **common,
        )  # fmt: skip
    common |= {"info": explanation(field), "value": as_shown(field, value)}
    if (offered := lists.get(_widget(field))) is not None:
        several = any(get_origin(kind) is tuple for kind in kinds(field))
        return gr.Dropdown(list(offered), multiselect=several, allow_custom_value=True, **common)
    if _widget(field) == STRENGTH:
        low, high = schema.bounds(field)
        assert low is not None and high is not None, "a strength has its ends"
        return gr.Slider(low, high, step=STRENGTH_STEP, **common)
    if choices := _choices(field):
        return gr.Dropdown(list(choices), **common)
    if bool in kinds(field):
        return gr.Checkbox(**common)
    lines = schema.extra(field).get("lines", 1)
    return gr.Textbox(
        lines=lines,
        max_lines=2 * lines if lines > 1 else 1,
        placeholder=placeholder(field),
        elem_classes="number" if is_number(field) else None,
        html_attributes=None if lines > 1 else TERSE,
        **common,
    )


def is_drawn(field: FieldInfo) -> bool:
    """Whether a control can hold the field, and there is something to choose."""
    is_record = any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds(field))
    low, high = schema.bounds(field)
    only_one = len(schema.choices(field)) == 1 or (low is not None and low == high)
    return not is_record and not only_one


def elem_id(name: str, field: FieldInfo, prefix: str = "") -> str:
    """Its short name, as on the command line, where it has one."""
    short = ELEM_IDS.get(_widget(field)) or next(iter(schema.extra(field).get("flags", ())), name)
    return prefix + short.lstrip("-").replace("_", "-")


def kinds(field: FieldInfo) -> tuple[Any, ...]:
    """The types a value may have."""
    return _kinds(field.annotation)


def _kinds(annotation: Any) -> tuple[Any, ...]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return tuple(kind for part in get_args(annotation) for kind in _kinds(part))
    return (annotation,)


def is_number(field: FieldInfo) -> bool:
    types = kinds(field)
    return (int in types or float in types) and not _choices(field)


def is_upload(field: FieldInfo) -> bool:
    return Path in kinds(field) and _widget(field) != "folder"


def is_small(field: FieldInfo) -> bool:
    """Whether its control may stand beside others."""
    return not is_upload(field) and schema.extra(field).get("lines", 1) == 1


def may_be_open(field: FieldInfo) -> bool:
    """Whether an empty control leaves the choice to the program. Empty prose is meant."""
    types = kinds(field)
    return str not in types or NoneType in types


def as_shown(field: FieldInfo, value: Any) -> Any:
    """A field's value as its control shows it."""
    if _widget(field) == "opt-out":
        return value is not False
    if is_upload(field):
        return None if value is None else str(value)
    if bool in kinds(field):
        return SWITCH[value] if NoneType in kinds(field) else bool(value)
    if value is None:
        return EMPTY
    match _widget(field):
        case "lora":
            return list(value)
        case widget if widget == STRENGTH:
            return value
        case "meter":
            return TIME_SIGNATURES.get(value, str(value))
        case "key":
            return value.replace("♯", "#").replace("♭", "b")
    return written(value)


def written(value: Any) -> str:
    """A value as one types it: `0.85`, `1, 0.75, 0.5`, `12 to 20, 40.5 to 48`."""
    if isinstance(value, tuple):
        pairs = all(isinstance(part, tuple) for part in value)
        return ", ".join(
            " to ".join(map(written, part)) if pairs else written(part) for part in value
        )
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)


def meant(field: FieldInfo, value: Any) -> Any:
    """What the browser sent for a field, as the schema wants it."""
    if is_upload(field) and isinstance(value, Mapping):
        return value.get("path")  # Gradio has checked that it was uploaded here
    # Ticked is what happens by itself where it can; only unticking it is a wish.
    return None if _widget(field) == "opt-out" and value is True else value


def explanation(field: FieldInfo) -> str:
    """The field's description, with the range of a number that its box does not show."""
    unit = UNIT_WORDS.get(schema.unit(field), schema.unit(field))
    low, high = schema.bounds(field)
    is_boxed = is_number(field) and _widget(field) != STRENGTH  # a slider shows its ends
    if is_boxed and field.default is not None and low is not None and high is not None:
        return f"{field.description} From {low:g} to {high:g} {unit}".rstrip() + "."
    return f"{field.description} In {unit}." if unit else str(field.description)


def placeholder(field: FieldInfo, auto: str = "", highest: float | None = None) -> str:
    """What the empty box says: the field's own words, else what comes by itself, and the range.

    Args:
        auto: what `auto` is, where that is known.
        highest: the most that is possible, where that is less than the field's own limit.
    """
    if own := schema.extra(field).get("placeholder"):
        return str(own)
    if not is_number(field):
        return ""
    low, high = schema.bounds(field)
    high = high if highest is None else highest
    default = f"{AUTO}: {auto}" if auto else AUTO
    usual = default if field.default is None else written(field.default)
    return f"{usual} ({low:g}–{high:,g})" if low is not None and high is not None else usual


def annotate(field: FieldInfo, note: str = "", *, acts: bool = True) -> Updates:
    """An update that says something of a field under its control; one that would change nothing
    cannot be changed, and says only why."""
    words = html.escape(note, quote=False)
    info = " ".join(filter(None, [explanation(field), words])) if acts else words
    return gr.update(info=info, interactive=acts)


def refit(field: FieldInfo, auto: Any, highest: float | None = None) -> Updates:
    """An update that tells what `auto` is; None where nobody knows before."""
    words = "" if auto is None else written(auto)
    if choices := _choices(field):
        first = (f"{AUTO}: {words}" if words else AUTO, EMPTY)
        offered = [first if sent == EMPTY else (label, sent) for label, sent in choices]
        return gr.update(choices=offered, visible=True)
    return gr.update(placeholder=placeholder(field, words, highest), visible=True)


def _widget(field: FieldInfo) -> str:
    return str(schema.extra(field).get("widget", ""))


def _choices(field: FieldInfo) -> Choices:
    """The list that the field's value comes from; empty where it is free."""
    auto = (AUTO, EMPTY)
    match _widget(field):
        case "language":
            named = sorted((name, code) for code, name in LANGUAGE_NAMES.items())
            known = [(f"{name} ({code})", code) for name, code in named if code in LANGUAGES]
            return [auto, *known, (UNKNOWN_LANGUAGE, UNKNOWN_LANGUAGE)]
        case "key":
            return [auto, *((_engraved(key), key) for key in KEY_SCALES if key.isascii())]
        case "meter":
            return [auto, *((meter, meter) for meter in TIME_SIGNATURES.values())]
        case "opt-out":
            return []
    types = kinds(field)
    open_ = [auto] if NoneType in types else []
    if bool in types:
        return [*open_, ("on", "on"), ("off", "off")] if open_ else []
    literals = [value for kind in types if get_origin(kind) is Literal for value in get_args(kind)]
    return [*open_, *((str(value), str(value)) for value in literals)] if literals else []


def _engraved(key: str) -> str:
    """`Bb minor`, as the checkpoints write it, with the proper sign."""
    return key[:2].replace("#", "♯").replace("b", "♭") + key[2:]
