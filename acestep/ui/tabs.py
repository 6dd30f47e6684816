"""What the page's tabs have in common: a form for one task, and the settings every task shares."""

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block

from acestep.request import Preset
from acestep.ui.edits import Source
from acestep.ui.events import Updates
from acestep.ui.form import Form


@dataclass(frozen=True)
class Tab:
    """One task on the page.

    Attributes:
        door: where it is drawn; its id is the task.
        with_planner: what is shown only where a planner is loaded.
        source: of a task that changes a song: where that song goes.
    """

    door: gr.Tab
    form: Form[Any]
    with_planner: Block | None = None
    source: Source | None = None

    @property
    def task(self) -> str:
        return str(self.door.id)

    @property
    def components(self) -> set[Any]:
        """What `suit` may update."""
        return {*self.form.components, *([self.with_planner] if self.with_planner else [])}

    def suit(self, preset: Preset, *, has_planner: bool) -> Updates:
        """Updates that fit the tab to the service that was loaded."""
        updates: Updates = dict(self.form.suit(preset, has_planner=has_planner))
        if self.with_planner is not None:
            updates[self.with_planner] = gr.update(visible=has_planner)
        return updates


def draw_rendering(form: Form[Any], *, fades: bool = True) -> None:
    """How the networks work and what the file is like."""
    with gr.Accordion("Rendering", open=False, elem_id=f"{form.prefix}rendering"):
        form.draw_row("steps", "shift", "solver")
        form.draw_row("seed", "format")
        form.draw_row("guidance_scale", "guidance_rule")
        form.draw_row("guidance_start", "guidance_end")
        form.draw_row("timesteps", "dcw")
        form.draw_row("normalize", "peak_db")
        if fades:
            form.draw_row("fade_in", "fade_out")
