"""The Repaint tab: a region of a song is made anew, or music is added at its ends."""

import gradio as gr

from acestep.request import Repaint
from acestep.ui.edits import MUSIC, Source
from acestep.ui.form import Form
from acestep.ui.tabs import Tab, draw_rendering

REGION = ("source_audio", "repainting_start", "repainting_end", "regions")


def build() -> Tab:
    """Draw the tab in the current page, then wire its summary line."""
    with gr.Tab("Repaint", id="repaint") as door:
        form = Form(Repaint, prefix="repaint-")
        form.draw("source_audio")
        facts = gr.HTML(elem_id="repaint-facts", elem_classes="said")
        form.draw_row("repainting_start", "repainting_end")
        summary = gr.HTML(elem_id="repaint-summary", elem_classes="said")
        form.draw("caption", "lyrics")
        form.draw_row("vocal_language", "takes")
        form.draw_row("mode", "strength", "crossfade")
        with gr.Accordion("More", open=False, elem_id="repaint-more"):
            form.draw("regions")
            form.draw_row("bpm", "key_scale", "time_signature")
            form.draw("reference_audio")
        draw_rendering(form, fades=False)  # a fade would change what is to stay
        source = Source(form, facts, ("caption", *MUSIC), summary, REGION)
        source.wire()
    return Tab(door, form, source=source)
