"""The Text2Music tab: a caption and lyrics become a song."""

from functools import partial

import gradio as gr

from acestep.request import Text2Music, schema
from acestep.ui.events import AT_ONCE, Updates
from acestep.ui.examples import EXAMPLES
from acestep.ui.form import Form
from acestep.ui.tabs import Tab, draw_rendering


def build() -> Tab:
    """Draw the tab in the current page, then wire its examples."""
    with gr.Tab("Text2Music", id="text2music") as door:
        form = Form(Text2Music, next(iter(EXAMPLES.values())))
        with gr.Row(elem_id="examples"):
            buttons = {
                name: gr.Button(name, size="sm", min_width=80, elem_classes="example")
                for name in EXAMPLES
            }
        form.draw("caption", "lyrics")
        with gr.Row():
            form.draw_instrumental()
            form.draw("vocal_language")
        form.draw_row("bpm", "key_scale", "time_signature")
        form.draw_row("duration", "takes")
        form.draw("reference_audio")
        planner = _draw_planner(form)
        draw_rendering(form)
        for name, button in buttons.items():
            song = example(form, EXAMPLES[name])
            button.click(partial(dict, song), None, list(song), **AT_ONCE)
    return Tab(door, form, planner)


def _draw_planner(form: Form[Text2Music]) -> gr.Accordion:
    """Hidden until there is a planner."""
    with gr.Accordion(
        "LM Generation Parameters", open=False, visible=False, elem_id="planner"
    ) as planner:
        form.draw("think")
        form.draw_row("lm_temperature", "lm_cfg_scale")
        form.draw_row("lm_top_p", "lm_top_k")
        form.draw("lm_negative_prompt")
    return planner


def example(form: Form[Text2Music], request: Text2Music) -> Updates:
    """Values that put an example into the form, without touching how it is planned or rendered."""
    words = {
        name
        for name, field in Text2Music.model_fields.items()
        if schema.group(field) in ("text", "music")
    }
    return dict(form.fill(request, only=words))
