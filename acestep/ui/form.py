"""A form: the controls of a schema's fields, read and filled as one.

`read` takes what the browser sent, untouched by Gradio's own conversions, and lets the schema judge
it: every bad value ends in the schema's sentence, which stands under its field. An empty box means
"you choose".
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import gradio as gr
from gradio.components import Component

from acestep.errors import InvalidRequest
from acestep.request import Preset
from acestep.request.schema import Schema
from acestep.request.values import INSTRUMENTAL
from acestep.ui import controls
from acestep.ui.boundary import message_box
from acestep.ui.controls import EMPTY, NO_LISTS, Choices
from acestep.ui.events import AT_ONCE, Updates

ROW = 3  # controls side by side
GUIDANCE = "guidance_"  # how the fields begin that turbo models have no use for
NO_GUIDANCE = "off: turbo models need none"
SCRIPT = Path(__file__).with_suffix(".js")
# Typing lyrics asks for a voice.
UNTICK = "(lyrics, ticked) => ticked && !lyrics.trim()"

Request = TypeVar("Request", bound=Schema)


class Form(Generic[Request]):
    """The fields drawn so far, by name, and the switch that silences the voice.

    Args:
        task: what the form asks for.
        start: what it shows at first; None shows the schema's defaults.
        prefix: begins the ids of its controls, so that several forms fit on a page.
        lists: by widget, what a control offers beside typing.

    Attributes:
        complaint: what is wrong, for the browser to put under its field.
    """

    def __init__(
        self,
        task: type[Request],
        start: Request | None = None,
        prefix: str = "",
        lists: Mapping[str, Choices] = NO_LISTS,
    ) -> None:
        self.task = task
        self.prefix = prefix
        self.fields: dict[str, Component] = {}
        self.instrumental: gr.Checkbox | None = None
        self.complaint = gr.HTML(
            html_template="", js_on_load=SCRIPT.read_text("utf-8"), elem_classes="said"
        )
        self._start = start
        self._lists = lists
        self._accordions: dict[str, str] = {}

    def draw(self, *names: str, accordion: str = "") -> None:
        """Draw these fields here, in this order, small ones side by side.

        Args:
            accordion: id of the one they are in.
        """
        self._accordions |= dict.fromkeys(names, accordion)
        row: list[Callable[[], None]] = []
        for name in names:
            if controls.is_small(self.task.model_fields[name]):
                row.append(partial(self._draw, name))
                continue
            _draw_rows(row)
            self._draw(name)
            row = [self._draw_instrumental] if name == "lyrics" else []
        _draw_rows(row)

    def _draw(self, name: str) -> None:
        field, value = self.task.model_fields[name], _sung(name, self._at_first(name))
        self.fields[name] = controls.control_of(name, field, value, self.prefix, self._lists)

    def _draw_instrumental(self) -> None:
        self.instrumental = gr.Checkbox(
            label="Instrumental",
            info="No voice. Typing lyrics unticks it.",
            elem_id=f"{self.prefix}instrumental",
            value=self._at_first("lyrics") == INSTRUMENTAL,
        )
        lyrics: Any = self.fields["lyrics"]
        # Not `input`: it may come before the text that was typed.
        lyrics.change(None, [lyrics, self.instrumental], self.instrumental, js=UNTICK, **AT_ONCE)

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
            InvalidRequest: in the schema's own sentence, or because lyrics are to be silent.
        """
        data: dict[str, Any] = {}
        for name in self.fields if only is None else only:
            field, value = self.task.model_fields[name], values[self.fields[name]]
            if value in (None, EMPTY) and controls.may_be_open(field):
                continue
            data[name] = controls.meant(field, value)
        request = self.task.model_validate(data)
        silenced = self.instrumental is not None and values.get(self.instrumental)
        if silenced and getattr(request, "lyrics", INSTRUMENTAL) != INSTRUMENTAL:
            raise InvalidRequest(
                "lyrics",
                "There are lyrics, but Instrumental is ticked: untick it to have them sung, or "
                "empty the lyrics.",
            )
        return request

    def fill(self, request: Schema, only: Collection[str] | None = None) -> Updates:
        """Values that show this request, or only these fields of it; `read` gives it back."""
        names = self.fields.keys() if only is None else self.fields.keys() & only
        return self.show({name: getattr(request, name) for name in names})

    def show(self, values: Mapping[str, Any]) -> Updates:
        """Updates that show these values of fields."""
        fields = self.task.model_fields
        updates: Updates = {
            self.fields[name]: controls.as_shown(fields[name], _sung(name, value))
            for name, value in values.items()
        }
        if self.instrumental and "lyrics" in values:
            updates[self.instrumental] = values["lyrics"] == INSTRUMENTAL
        return updates

    def suit(self, preset: Preset, *, has_planner: bool) -> Updates:
        """Updates that tell what `auto` is on this checkpoint, and show guidance where it acts.

        What was typed stays: if the checkpoint cannot use it, the schema says so.
        """
        updates: Updates = {}
        for name, control in self.fields.items():
            field, auto = self.task.model_fields[name], getattr(preset, name, None)
            if name == "duration" and has_planner:
                auto = None  # the planner chooses
            if preset.is_turbo and name.startswith(GUIDANCE):
                acts = name == "guidance_scale"  # remains, to say why the others are gone
                updates[control] = gr.update(
                    visible=acts, **({"placeholder": NO_GUIDANCE} if acts else {})
                )
            elif name.startswith(GUIDANCE) or hasattr(preset, name):
                updates[control] = controls.refit(field, auto, getattr(preset, f"max_{name}", None))
        return updates

    def refuse(self, error: InvalidRequest) -> Updates:
        """Updates that put an error's sentence under the field it is about.

        Raises:
            gr.Error: the form does not have this field.
        """
        if error.field not in self.fields:
            raise message_box(error) from error
        return {
            self.complaint: {
                "field": self.fields[error.field].elem_id,
                "accordion": self._accordions[error.field],
                "message": str(error),
                "at": time.time(),  # the same mistake twice is two complaints
            }
        }

    def accept(self) -> Updates:
        """Updates that take away what was wrong before."""
        return {self.complaint: {}}


def _sung(name: str, value: Any) -> Any:
    """A value without what the switch says instead of the lyrics."""
    return EMPTY if name == "lyrics" and value == INSTRUMENTAL else value


def _draw_rows(draws: Sequence[Callable[[], None]]) -> None:
    """Draw these side by side, in rows of about the same length."""
    left = list(draws)
    for rows in range(math.ceil(len(draws) / ROW), 0, -1):
        few = math.ceil(len(left) / rows)
        with gr.Row():
            for draw in left[:few]:
                draw()
        left = left[few:]
