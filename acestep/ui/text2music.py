"""The Text2Music tab: draws the form, then wires Generate, Cancel and the examples."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import gradio as gr

from acestep import schema
from acestep.errors import Cancelled
from acestep.request import Text2Music
from acestep.ui import results
from acestep.ui.boundary import bounded
from acestep.ui.examples import EXAMPLES
from acestep.ui.form import Form
from acestep.ui.results import Results
from acestep.ui.worker import Run, Worker

POLL_SECONDS = 0.2
WATCHERS = 20  # tabs that can watch a run at once; the worker runs one request at a time

HIDDEN = "hidden"  # stays in the document, unlike visible=False, so it comes back at once

AT_ONCE: Mapping[str, Any] = MappingProxyType(
    {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
)

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Text2MusicTab:
    """The tab's parts that events read and update."""

    form: Form
    planner: gr.Accordion
    generate: gr.Button
    cancel: gr.Button
    progress: gr.HTML
    results: Results
    run: gr.State


def build(worker: Worker) -> Text2MusicTab:
    """Draw the tab in the current page, then wire it."""
    form = Form(next(iter(EXAMPLES.values())))
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            examples = _draw_examples()
            planner = _draw_form(form)
        with gr.Column(scale=2, min_width=320, elem_id="side"):
            with gr.Column(elem_id="actions"):
                generate = gr.Button("Generate Music", variant="primary", elem_id="generate")
                cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", visible=HIDDEN)
                progress = gr.HTML(elem_id="progress")
            takes = Results()
    run = gr.State()
    tab = Text2MusicTab(form, planner, generate, cancel, progress, takes, run)
    _wire(tab, worker, examples)
    return tab


def _draw_examples() -> dict[str, gr.Button]:
    with gr.Row(elem_id="examples"):
        return {
            name: gr.Button(name, size="sm", min_width=80, elem_classes="example")
            for name in EXAMPLES
        }


def _draw_form(form: Form) -> gr.Accordion:
    """Draw every field; the planner's accordion waits for a planner."""
    form.draw("caption", "lyrics")
    with gr.Row():
        form.draw_instrumental()
        form.draw("vocal_language")
    with gr.Row():
        form.draw("bpm", "key_scale", "time_signature")
    with gr.Row():
        form.draw("duration", "takes")
    form.draw("reference_audio")
    with gr.Accordion(
        "LM Generation Parameters", open=False, visible=False, elem_id="planner"
    ) as planner:
        form.draw("think")
        with gr.Row():
            form.draw("lm_temperature", "lm_cfg_scale")
        with gr.Row():
            form.draw("lm_top_p", "lm_top_k")
        form.draw("lm_negative_prompt")
    with gr.Accordion("Rendering", open=False, elem_id="rendering"):
        with gr.Row():
            form.draw("steps", "shift", "solver")
        with gr.Row():
            form.draw("seed", "format")
        with gr.Row():
            form.draw("guidance_scale", "guidance_rule")
        with gr.Row():
            form.draw("guidance_start", "guidance_end")
        with gr.Row():
            form.draw("timesteps", "dcw")
        with gr.Row():
            form.draw("normalize", "peak_db")
        with gr.Row():
            form.draw("fade_in", "fade_out")
    return planner


def _wire(tab: Text2MusicTab, worker: Worker, examples: Mapping[str, gr.Button]) -> None:
    """Event functions get {component: value} and yield {component: value} for what changed.

    `preprocess=False`: the values come as the browser sent them, so that the schema judges them
    and not Gradio's conversions, which turn a dict into text and let infinity through.
    """

    def press_generate(values: Mapping[Any, Any]) -> Iterator[Updates]:
        run = worker.submit(tab.form.read(values))
        yield from watch(tab, worker, run)

    def press_cancel(run: Run | None) -> None:
        if run is not None:
            run.cancel()

    def be_ready() -> Updates:
        return {
            tab.generate: gr.update(visible=True),
            tab.cancel: gr.update(visible=HIDDEN),
            tab.run: None,
        }

    pressed = tab.generate.click(
        bounded(press_generate),
        tab.form.components,
        [tab.generate, tab.cancel, tab.progress, tab.run, *tab.results.components],
        preprocess=False,
        show_progress="hidden",
        concurrency_limit=WATCHERS,
        api_visibility="private",
    )
    # `then` alone would not do: Gradio 6.31 leaves it out when the event fails.
    pressed.success(be_ready, None, [tab.generate, tab.cancel, tab.run], **AT_ONCE)
    pressed.failure(
        lambda: {**be_ready(), tab.progress: ""},
        None,
        [tab.generate, tab.cancel, tab.run, tab.progress],
        **AT_ONCE,
    )
    tab.cancel.click(press_cancel, tab.run, None, **AT_ONCE)
    for name, button in examples.items():
        song = example(tab.form, EXAMPLES[name])
        button.click(partial(dict, song), None, list(song), **AT_ONCE)


def example(form: Form, request: Text2Music) -> Updates:
    """Values that put an example into the form, without touching how it is planned or rendered."""
    rendering = {
        form.fields[name]
        for name, field in Text2Music.model_fields.items()
        if name in form.fields and schema.group(field) not in ("text", "music")
    }
    return {part: value for part, value in form.fill(request).items() if part not in rendering}


def watch(tab: Text2MusicTab, worker: Worker, run: Run) -> Iterator[Updates]:
    """Show a run until it ends. Ending this generator (a closed tab) does not end the run.

    Every update stands alone: the browser skips one when the next follows at once.

    Raises:
        AceStepError: what stopped the run.
    """
    began = time.monotonic()
    busy = {
        tab.generate: gr.update(visible=HIDDEN),
        tab.cancel: gr.update(visible=True),
        tab.run: run,
    }
    shown = ""
    while not run.wait(POLL_SECONDS if shown else 0):
        if (now := _where(worker, run, began)) != shown:
            shown = now
            yield {tab.progress: shown, **busy}
    try:
        takes = run.takes()
    except Cancelled:
        yield {tab.progress: '<p role="status">Cancelled.</p>'}
    else:
        music, spent = sum(take.duration for take in takes), time.monotonic() - began
        done = results.ended(f"Done: {music:.0f} s of music in {spent:.1f} s.")
        yield {tab.progress: done, **tab.results.show(takes)}


def _where(worker: Worker, run: Run, began: float) -> str:
    words = results.sentence(
        run.progress, ahead=worker.ahead_of(run), is_loading=worker.service is None
    )
    if run.cancelled:
        words = "Cancelling"
    return results.bar(words, run.progress, time.monotonic() - began)
