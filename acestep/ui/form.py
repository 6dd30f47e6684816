"""A form: one component per field of a task's request, drawn from the schema.

Label, help, range and choices come from the field, so they are written once, in `request.py`.
`read` takes what the browser sent, untouched by Gradio's own conversions, and lets the schema
judge it: every bad value ends in the schema's sentence. An empty field means "you choose".
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar, get_args

import gradio as gr
from gradio.components import Component
from pydantic.fields import FieldInfo

from acestep.request import MusicRequest, Preset, regions, schema
from acestep.request.values import INSTRUMENTAL, KEY_SCALES, TIME_SIGNATURES, UNKNOWN_LANGUAGE

AUTO = "auto"
# What an untouched number box holds: Gradio leaves None out of the page's configuration, and a box
# without a value shows 0. One that was emptied by hand sends null.
EMPTY = ""
NOT_DRAWN = frozenset({"task", "plan"})  # the tab decides the task; a plan has no control yet
ELEM_IDS = MappingProxyType(  # the others are the field's name
    {
        "lm_cfg_scale": "cfg-scale",
        "repainting_start": "start",
        "repainting_end": "end",
        "audio_cover_strength": "strength",
    }
)
UPLOADED = frozenset({"reference_audio", "source_audio"})
BOXES = frozenset({"repainting_start"})  # numbers whose range is too wide for a slider
PLACEHOLDERS = MappingProxyType(
    {
        "timesteps": f"{AUTO}, or such as 1, 0.75, 0.5, 0.25",
        "repainting_start": "0: the start of the song",
        "repainting_end": "the end of the song",
        "regions": "such as 12 to 20, 40.5 to 48",
    }
)
LINES = MappingProxyType({"caption": 3, "lyrics": 8, "lm_negative_prompt": 2})
UNIT_WORDS = MappingProxyType({"s": "seconds"})
STEPS = MappingProxyType({"lm_temperature": 0.05, "duration": 1.0})
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
            "tr=Turkish uk=Ukrainian ur=Urdu vi=Vietnamese yue=Cantonese zh=Chinese "
            "unknown=unknown".split()
        )
    }
)

Request = TypeVar("Request", bound=MusicRequest)


class Form(Generic[Request]):
    """The fields drawn so far, by name, and the switch that silences the voice.

    Args:
        task: what the form asks for.
        start: what it shows at first; None shows the schema's defaults.
        prefix: begins the ids of its controls, so that several forms fit on a page.
    """

    def __init__(self, task: type[Request], start: Request | None = None, prefix: str = "") -> None:
        self.task = task
        self.prefix = prefix
        self.fields: dict[str, Component] = {}
        self._start = start
        self.instrumental: gr.Checkbox | None = None

    def draw(self, *names: str) -> None:
        """Draw these fields here, in this order."""
        for name in names:
            field = self.task.model_fields[name]
            self.fields[name] = component(
                name, field, _shown(name, self._at_first(name)), self.prefix
            )

    def draw_row(self, *names: str) -> None:
        """Draw these fields side by side, where there is room."""
        with gr.Row():
            self.draw(*names)

    def draw_instrumental(self) -> None:
        self.instrumental = gr.Checkbox(
            label="Instrumental",
            info="No voice: the lyrics are kept but not used.",
            elem_id=f"{self.prefix}instrumental",
            value=self._at_first("lyrics") == INSTRUMENTAL,
        )

    def _at_first(self, name: str) -> Any:
        if self._start is not None:
            return getattr(self._start, name)
        field = self.task.model_fields[name]
        return None if field.is_required() else field.default

    @property
    def components(self) -> set[Component]:
        """What an event takes as its inputs."""
        return {*self.fields.values(), *([self.instrumental] if self.instrumental else [])}

    def read(self, values: Mapping[Any, Any], only: Collection[str] | None = None) -> Request:
        """The request these values ask for.

        Args:
            values: by component, as the browser sent them.
            only: the fields that count; the others keep their defaults. None counts all.

        Raises:
            InvalidRequest: in the schema's own sentence.
        """
        counted = self.fields.keys() if only is None else self.fields.keys() & only
        data = {
            name: _plain(name, self.task.model_fields[name], values[self.fields[name]])
            for name in self.fields
            if name in counted
        }
        if "lyrics" in data and self.instrumental and values[self.instrumental]:
            data["lyrics"] = INSTRUMENTAL
        return self.task.model_validate(data)

    def fill(
        self, request: MusicRequest, only: Collection[str] | None = None
    ) -> dict[Component, Any]:
        """Values that show this request, or only these fields of it; `read` gives it back."""
        names = self.fields.keys() if only is None else self.fields.keys() & only
        return self.show({name: getattr(request, name) for name in names})

    def show(self, values: Mapping[str, Any]) -> dict[Component, Any]:
        """Updates that show these values of fields."""
        shown = {self.fields[name]: _shown(name, value) for name, value in values.items()}
        if self.instrumental and "lyrics" in values:
            shown[self.instrumental] = values["lyrics"] == INSTRUMENTAL
        return shown

    def suit(self, preset: Preset, *, has_planner: bool) -> dict[Component, Any]:
        """Updates that tell what `auto` is on this checkpoint and switch off what it cannot use."""
        updates: dict[Component, Any] = {
            self.fields["steps"]: gr.update(
                placeholder=f"{AUTO}: {preset.steps} (1–{preset.max_steps})"
            ),
            self.fields["shift"]: gr.update(placeholder=f"{AUTO}: {preset.shift:g} (1–5)"),
        }
        if "think" in self.fields:
            updates[self.fields["think"]] = gr.update(value=has_planner)
        why = "Turbo models need no guidance."
        for name in ("guidance_scale", "guidance_rule", "guidance_start", "guidance_end"):
            description = self.task.model_fields[name].description
            updates[self.fields[name]] = gr.update(
                interactive=not preset.is_turbo, info=why if preset.is_turbo else description
            )
        scale = "off" if preset.is_turbo else f"{AUTO}: {preset.guidance_scale:g} (1–15)"
        updates[self.fields["guidance_scale"]]["placeholder"] = scale
        return updates


def component(name: str, field: FieldInfo, value: Any, prefix: str = "") -> Component:
    """The control a field of this type deserves."""
    common: dict[str, Any] = {
        "label": field.title,
        "elem_id": prefix + ELEM_IDS.get(name, name.replace("_", "-")),
    }
    described: dict[str, Any] = common | {"info": _help(field), "value": value}
    if name in _listed():
        return gr.Dropdown(list(_listed()[name]), **described)
    if schema.choices(field):
        return gr.Dropdown(list(schema.choices(field)), **described)
    types = _types(field)
    if bool in types:
        return gr.Checkbox(**{**described, "value": bool(value)})
    if int in types or float in types:
        return _number(name, field, described)
    if name in PLACEHOLDERS:
        return gr.Textbox(placeholder=PLACEHOLDERS[name], **described)
    if str in types:
        lines = LINES[name]
        return gr.Textbox(lines=lines, max_lines=2 * lines, **described)
    # Not editable: a trimmed song is another file, and its times are not the song's.
    return gr.Audio(
        type="filepath", sources=["upload"], editable=False, buttons=[], value=value, **common
    )


def _number(name: str, field: FieldInfo, described: Mapping[str, Any]) -> Component:
    """A slider when the field always has a value; a box that may stay empty when it need not.

    The box carries no limits: the browser would silently move a value into them, where the schema
    says what is wrong.
    """
    low, high = schema.bounds(field)
    types = _types(field)
    step = STEPS.get(name, 1 if int in types else 0.01 if (high or 0) <= 1 else 0.1)
    if _is_box(name, field):
        span = f" ({low:g}–{high:,g})" if name != "seed" else ""
        placeholder = PLACEHOLDERS.get(name, f"{AUTO}{span}")
        box = gr.Number(step=step, placeholder=placeholder, **described)
        if box.value is None:
            box.value = EMPTY
        return box
    lowest = low if _is_allowed(field, low) else step
    return gr.Slider(lowest or 0, high or 0, step=step, **described)


def _is_allowed(field: FieldInfo, low: float | None) -> bool:
    return any(getattr(rule, "ge", None) == low for rule in field.metadata)


def _listed() -> Mapping[str, tuple[tuple[str, str], ...]]:
    """Fields whose type is text or a number but whose values are a list, as (shown, sent)."""
    auto = (AUTO, "")
    languages = sorted(
        (name, code) for code, name in LANGUAGE_NAMES.items() if code != UNKNOWN_LANGUAGE
    )
    return {
        "vocal_language": (
            auto,
            *((f"{name} ({code})", code) for name, code in languages),
            (UNKNOWN_LANGUAGE, UNKNOWN_LANGUAGE),
        ),
        "key_scale": (auto, *((_engraved(key), key) for key in KEY_SCALES if key.isascii())),
        "time_signature": (auto, *((written, written) for written in TIME_SIGNATURES.values())),
    }


def _engraved(key: str) -> str:
    """`Bb minor`, as the checkpoints write it, with the proper sign."""
    return key[:2].replace("#", "♯").replace("b", "♭") + key[2:]


def _types(field: FieldInfo) -> tuple[Any, ...]:
    return get_args(field.annotation) or (field.annotation,)


def _help(field: FieldInfo) -> str:
    """The field's description, with the unit of its numbers."""
    unit = schema.unit(field)
    return (
        f"{field.description} In {UNIT_WORDS.get(unit, unit)}." if unit else str(field.description)
    )


def _plain(name: str, field: FieldInfo, value: Any) -> Any:
    """What the browser sent for a field, as the schema wants it."""
    if name == "timesteps" and isinstance(value, str):
        return tuple(value.replace(",", " ").split()) or None
    if name == "regions" and isinstance(value, str):
        return regions.read(value)
    if name in UPLOADED and isinstance(value, Mapping):
        return value.get("path")  # Gradio has checked that it was uploaded here
    return None if value == EMPTY and _is_box(name, field) else value


def _is_box(name: str, field: FieldInfo) -> bool:
    """Whether the field is drawn as a number box, which may be empty."""
    types = _types(field)
    return name in BOXES or (type(None) in types and (int in types or float in types))


def _shown(name: str, value: Any) -> Any:
    """A field's value as its control shows it."""
    if name == "lyrics":
        return "" if value == INSTRUMENTAL else value
    if name == "key_scale" and value is not None:
        return value.replace("♯", "#").replace("♭", "b")
    if name in _listed():
        return TIME_SIGNATURES.get(value, value) if value else ""
    if name == "timesteps":
        return ", ".join(str(t) for t in value or ())
    if name == "regions":
        return ", ".join(f"{start:g} to {end:g}" for start, end in value or ())
    return str(value) if name in UPLOADED and value is not None else value
