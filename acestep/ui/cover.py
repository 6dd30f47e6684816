"""The Cover tab: a song in another style, with its structure kept."""

import gradio as gr

from acestep.request import Cover
from acestep.ui.edits import MUSIC, Source
from acestep.ui.form import Form
from acestep.ui.tabs import Tab, draw_rendering


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
