"""A tab for one task, drawn from its request's fields: the page knows no task by name.

Fields stand in their groups. What a class has brings its extras along: lyrics the switch that
silences them, a source the lines about it, a summary the line that says what a run would do.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import gradio as gr
from gradio.blocks import Block

from acestep.engine.engine import Engine
from acestep.request import TASKS, MusicRequest, Preset, schema
from acestep.ui import controls
from acestep.ui.edits import HEARD, Hearing, SourceBox
from acestep.ui.events import AT_ONCE, Updates
from acestep.ui.examples import EXAMPLES
from acestep.ui.form import Form

SOURCE, TEXT, MUSIC, PLANNER = "source", "text", "music", "planner"
FRONT, MORE = "front", "more"  # places of fields that do not stand with their group
# Id and heading of what is folded away, in this order; a group without a row gets its own name.
FOLDED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        MORE: ("more", "More"),
        PLANNER: ("planner", "LM Generation Parameters"),
        "rendering": ("rendering", "Rendering"),
        "output": ("rendering", "Rendering"),
    }
)


@dataclass(frozen=True)
class Tab:
    """One task on the page.

    Attributes:
        door: where it is drawn; its id is the task.
        with_planner: what is shown only where a planner is loaded.
        source: of a task that changes a song: where that song goes.
        hearing: of such a task: what the planner hears in the song.
    """

    door: gr.Tab
    form: Form[Any]
    with_planner: tuple[Block, ...] = ()
    source: SourceBox | None = None
    hearing: Hearing | None = None

    @property
    def task(self) -> str:
        return str(self.door.id)

    @property
    def components(self) -> set[Any]:
        """What `suit`, `form.refuse` and `form.accept` may update."""
        return {*self.form.components, self.form.complaint, *self.with_planner}

    def suit(self, preset: Preset, *, has_planner: bool) -> Updates:
        """Updates that fit the tab to the service that was loaded."""
        shown = {part: gr.update(visible=has_planner) for part in self.with_planner}
        return {**self.form.suit(preset, has_planner=has_planner), **shown}

    def wire(self, engine: Engine) -> None:
        """Let what asks the engine ask this one."""
        if self.hearing is not None:
            self.hearing.wire(engine)


def build(task: type[MusicRequest]) -> Tab:
    """Draw the tab of a task inside the page's row of tabs, and wire all but the engine."""
    groups = _groups(task)
    examples = EXAMPLES.get(task, {})
    with gr.Tab(task.title, id=task.name) as door:
        prefix = "" if task is next(iter(TASKS.values())) else f"{task.name}-"
        form = Form(task, next(iter(examples.values()), None), prefix)
        buttons = _draw_examples(form, examples)
        source = _draw_source(form, groups.pop(SOURCE, []))
        form.draw(*groups.pop(TEXT, []))
        form.draw(*groups.pop(MUSIC, []), *groups.pop(FRONT, []))
        can_hear = source is not None and task.model_fields.keys() >= set(HEARD)
        hearing = Hearing(source) if source is not None and can_hear else None
        folded = _draw_folded(form, groups)
        for label, button in buttons.items():
            song = example(form, examples[label])
            button.click(partial(dict, song), None, list(song), **AT_ONCE)
        if source is not None:
            source.wire()
    planner = [folded[PLANNER]] if PLANNER in folded else []
    with_planner = (*planner, *([hearing.listen] if hearing else []))
    return Tab(door, form, with_planner, source, hearing)


def example(form: Form[Any], request: MusicRequest) -> Updates:
    """Values that put an example into the form, without touching how it is planned or rendered."""
    fields = form.task.model_fields
    words = {name for name, field in fields.items() if schema.group(field) in (TEXT, MUSIC)}
    return form.fill(request, words)


def _groups(task: type[MusicRequest]) -> dict[str, list[str]]:
    """The fields that are drawn, by where they stand."""
    groups: dict[str, list[str]] = {}
    for name, field in task.model_fields.items():
        if controls.is_drawn(field):
            place = schema.extra(field).get("place") or schema.group(field)
            groups.setdefault(str(place), []).append(name)
    return groups


def _draw_source(form: Form[Any], names: Iterable[str]) -> SourceBox | None:
    """The source and the fields that say what to do with it, each with a line below."""
    box = form.task.source
    if box is None:
        form.draw(*names)
        return None
    form.draw(box)
    facts = gr.HTML(elem_id=f"{form.prefix}facts", elem_classes="said")
    form.draw(*(name for name in names if name != box))
    says = hasattr(form.task, "summary")
    summary = gr.HTML(elem_id=f"{form.prefix}summary", elem_classes="said") if says else None
    return SourceBox(form, box, facts, summary)


def _draw_folded(form: Form[Any], groups: Mapping[str, Iterable[str]]) -> dict[str, gr.Accordion]:
    """The other groups, folded away, by group. The planner's is hidden until there is one."""
    order = [*FOLDED, *(group for group in groups if group not in FOLDED)]
    accordions: dict[str, gr.Accordion] = {}
    for group in filter(groups.__contains__, order):
        elem_id, heading = FOLDED.get(group, (group, group.capitalize()))
        elem_id = form.prefix + elem_id
        same = (part for part in accordions.values() if part.elem_id == elem_id)
        accordions[group] = next(same, None) or gr.Accordion(
            heading, open=False, visible=group != PLANNER, elem_id=elem_id
        )
        with accordions[group]:
            form.draw(*groups[group], accordion=elem_id)
    return accordions


def _draw_examples(form: Form[Any], names: Collection[str]) -> dict[str, gr.Button]:
    """A button for each song to start from."""
    if not names:
        return {}
    with gr.Row(elem_id=f"{form.prefix}examples"):
        return {
            name: gr.Button(name, size="sm", min_width=80, elem_classes="example") for name in names
        }
