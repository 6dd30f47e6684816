"""The Cover tab: a song in another style, with its structure kept."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from acestep.request import Cover, Plan
from acestep.request.values import TIME_SIGNATURES
from acestep.ui.actions import Actions
from acestep.ui.edits import MUSIC, Source
from acestep.ui.events import Updates
from acestep.ui.form import Form
from acestep.ui.sources import line
from acestep.ui.tabs import Tab, draw_rendering
from acestep.ui.worker import Run, Worker

HEARD = ("bpm", "key_scale", "time_signature")


def build() -> Tab:
    """Draw the tab in the current page."""
    with gr.Tab("Cover", id="cover") as door:
        form = Form(Cover, prefix="cover-")
        form.draw("source_audio")
        facts = gr.HTML(elem_id="cover-facts", elem_classes="said")
        form.draw("audio_cover_strength", "caption", "lyrics")
        form.draw_row("vocal_language", "takes")
        form.draw_row("bpm", "key_scale", "time_signature")
        listen = gr.Button(
            "Estimate BPM and Key from the Source", size="sm", elem_id="listen", visible=False
        )
        with gr.Accordion("More", open=False, elem_id="cover-more"):
            form.draw_row("cover_noise_strength", "quantize")
            form.draw("reference_audio")
        draw_rendering(form)
        source = Source(form, facts, MUSIC)
        source.wire()
    return Tab(door, form, with_planner=listen, source=source)


def wire(tab: Tab, actions: Actions, worker: Worker) -> None:
    """Let the planner listen to the source, and put what it hears into the form."""
    form, source, listen = tab.form, tab.source, tab.with_planner
    assert source is not None and isinstance(listen, gr.Button)

    def begin(values: Mapping[Any, Any]) -> Run[Plan]:
        return worker.understand(source.require(values))

    def finish(heard: Plan, _: float) -> Updates:
        known = {name: value for name in HEARD if (value := getattr(heard, name)) is not None}
        return {actions.progress: line(said(heard)), **form.show(known)}

    heard = [form.fields[name] for name in HEARD]
    actions.starts(listen, worker, begin, {form.fields["source_audio"]}, finish, heard)


def said(heard: Plan) -> str:
    """What the planner heard, in a sentence."""
    facts = [
        f"{heard.bpm} BPM" if heard.bpm else "",
        heard.key_scale or "",
        TIME_SIGNATURES.get(heard.time_signature or 0, ""),
    ]
    known = ", ".join(fact for fact in facts if fact)
    return f"The planner hears {known}." if known else "The planner hears no clear beat or key."
