"""Draws the page and makes an application of it. Importing this imports gradio."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.routing import APIRoute
from gradio.components import Component
from gradio.route_utils import API_PREFIX
from gradio.routes import App
from gradio.themes import Base, Default
from gradio.utils import MatplotlibBackendMananger
from starlette.routing import Mount

from acestep.config import ServiceConfig
from acestep.engine.engine import Engine
from acestep.errors import InvalidRequest
from acestep.request import TASKS, MusicRequest
from acestep.ui import api, live, routes, tabs
from acestep.ui.boundary import bounded
from acestep.ui.events import AT_ONCE, Updates
from acestep.ui.live import Live
from acestep.ui.service import Panel
from acestep.ui.tabs import Tab

TITLE = "ACE-Step 1.5"
MAX_UPLOAD = "256mb"
MAX_CALLS = 20  # callers of the endpoint that may wait in Gradio's queue
CACHE_SWEEP, CACHE_AGE = 3600, 86_400  # seconds; uploads and copies for the players, not songs
IDLE_SECONDS = 0.02
SIZES = ("duration", "takes", "think", "steps", "source_audio")  # what a song's cost depends on
HERE = Path(__file__).parent
PLAIN: Mapping[str, Any] = MappingProxyType({"js_on_load": None, "apply_default_css": False})
# What page.js fills. Gradio leaves it alone because its value never changes.
STATUS = '<p role="status">Connecting …</p><p id="engine" hidden></p>'
BAR = """
<div class="bar">
  <button id="cancel" type="button" hidden>Cancel</button>
  <div id="progress" class="running" hidden>
    <span role="status"><a></a></span><span class="time"></span>
    <progress aria-label="Progress of this stage"></progress>
  </div>
</div>
"""
LIST = """
<p id="notice" role="alert" class="warning" hidden></p>
<ol id="jobs" aria-label="Songs"></ol>
<button id="show-all" type="button" class="save" hidden></button>
"""


def mount(
    engine: Engine,
    config_class: type[ServiceConfig],
    output_dir: Path,
    auth: tuple[str, str] | None,
) -> tuple[FastAPI, AbstractAsyncContextManager[object]]:
    """The page as an application, and its lifespan."""

    async def mounted() -> tuple[FastAPI, AbstractAsyncContextManager[object]]:
        return _mount(engine, config_class, output_dir, auth)

    # Outside of an event loop, Gradio opens loops that it never closes.
    return asyncio.run(mounted())


def _mount(
    engine: Engine,
    config_class: type[ServiceConfig],
    output_dir: Path,
    auth: tuple[str, str] | None,
) -> tuple[FastAPI, AbstractAsyncContextManager[object]]:
    blocks = draw(engine, config_class)
    # Gradio looks at its queue a thousand times a second, 10 % of a core; on Windows it takes a
    # slower pace itself.
    blocks._queue.sleep_when_free = IDLE_SECONDS
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        auth=auth,
        show_error=True,
        max_file_size=MAX_UPLOAD,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        footer_links=["api", "settings"],
        theme=theme(),
        head=head(),
    )
    # Only a page that was launched checks that a file which a caller names was uploaded.
    blocks.has_launched = True
    page = app.routes.pop()
    assert isinstance(page, Mount) and isinstance(page.app, App)
    rows = Live(engine, output_dir)
    app.include_router(routes.routes(engine, rows, _login_check(page.app)))
    app.routes.append(page)
    return app, _serving(app, rows)


def draw(engine: Engine, config_class: type[ServiceConfig] = ServiceConfig) -> gr.Blocks:
    """Draw the page, then wire what is not a tab's own."""
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(CACHE_SWEEP, CACHE_AGE)
    ) as page:
        with gr.Row(elem_id="header"):
            gr.HTML(f"<h1>{TITLE}</h1>")
            gr.HTML(STATUS, elem_id="status", **PLAIN)
        panel = Panel(engine, config_class)
        with gr.Row():
            with gr.Column(scale=3, min_width=320), gr.Tabs() as row:
                drawn = [tabs.build(task) for task in TASKS.values()]
            with gr.Column(scale=2, min_width=320, elem_id="side"):
                column = Column(row, drawn)
        column.wire(engine)
        for tab in drawn:
            tab.wire(engine)
        panel.wire_memory(*column.song())
        _wire_fitting(engine, drawn, panel)
        api.expose(engine)
    return page.queue(max_size=MAX_CALLS)


class Column:
    """What every tab shares: Generate for the one that is open, and the live list.

    Attributes:
        open_task: the tab that is open. The browser sets it itself, so that a click on Generate
            right after one on a tab finds it.
    """

    def __init__(self, row: gr.Tabs, drawn: Sequence[Tab]) -> None:
        self._row = row
        self._tabs = {tab.task: tab for tab in drawn}
        with gr.Column(elem_id="actions"):
            self._generate = gr.Button("Generate Music", variant="primary", elem_id="generate")
            gr.HTML(BAR, elem_id="bar", **PLAIN)
        gr.HTML(LIST, elem_id="songs", **PLAIN)
        self._submitted = gr.Textbox(visible=False)
        self._open_task = gr.Textbox(drawn[0].task, visible=False)
        self._take = gr.HTML(
            elem_classes="wire", js_on_load=f"acestep.onTake({self._edits()}, trigger)"
        )

    def song(
        self,
    ) -> tuple[list[Any], set[Any], Callable[[Mapping[Any, Any]], MusicRequest | None]]:
        """The song that Generate would make now: the events after which it may be another one, what
        it is read from, and what reads it. A form with a mistake in it makes none."""

        def read(values: Mapping[Any, Any]) -> MusicRequest | None:
            try:
                return self._tabs[values[self._open_task]].form.read(values)
            except InvalidRequest:
                return None

        fields = [tab.form.fields for tab in self._tabs.values()]
        sizes: list[Any] = [each[name] for each in fields for name in SIZES if name in each]
        parts = {part for tab in self._tabs.values() for part in tab.form.components}
        moves = [part.change for part in (*sizes, self._open_task)]
        return moves, {self._open_task, *parts}, read

    def _edits(self) -> str:
        """The tasks that a take can be sent to, with the words on the button, as JSON."""
        edits = {tab.task: f"{tab.door.label} this" for tab in self._tabs.values() if tab.source}
        return json.dumps(edits)

    def wire(self, engine: Engine) -> None:
        """Let Generate submit the form of the open tab, and a take's buttons fill a tab."""

        def submit(values: Mapping[Any, Any]) -> Updates:
            form = self._tabs[values[self._open_task]].form
            try:
                job = engine.submit(form.read(values))
            except InvalidRequest as error:
                return {self._submitted: "", **form.refuse(error)}
            return {self._submitted: job.id, **form.accept()}

        def take(event: gr.EventData) -> Updates:
            tab = self._tabs[event.task]
            if tab.source is None:
                raise InvalidRequest("source_audio", f"{tab.door.label} takes no song.")
            song = api.shown_copy(live.song_of(engine, event.job, event.take))
            opened = {self._row: gr.update(selected=tab.task), self._open_task: tab.task}
            return {**opened, **tab.source.take(song)}

        forms = {part for tab in self._tabs.values() for part in tab.form.components}
        said = [self._submitted, *(tab.form.complaint for tab in self._tabs.values())]
        pressed = self._generate.click(
            bounded(submit), {self._open_task, *forms}, said, preprocess=False, **AT_ONCE
        )
        pressed.success(None, self._submitted, None, js="(id) => acestep.follow(id)", **AT_ONCE)
        taking = {part for tab in self._tabs.values() if tab.source for part in tab.source.taking}
        self._take.click(bounded(take), None, [self._row, self._open_task, *taking], **AT_ONCE)
        for tab in self._tabs.values():
            tab.door.select(
                None, None, self._open_task, js=f"() => acestep.opened('{tab.task}')", **AT_ONCE
            )


def _wire_fitting(engine: Engine, drawn: Sequence[Tab], panel: Panel) -> None:
    """Fit every form to what is loaded when the page asks for it, and then bring back the draft:
    what the person changed, and nothing that a model's preset fitted."""

    def fit() -> Updates:
        state = engine.state
        updates = panel.show(state)
        if state.loaded is not None:
            for tab in drawn:
                updates |= tab.suit(state.loaded.preset, has_planner=state.loaded.has_planner)
        return updates

    fields: list[Component] = [part for tab in drawn for part in tab.form.components]
    names = json.dumps([part.elem_id for part in fields])
    wire = gr.HTML(elem_classes="wire", js_on_load=f"acestep.onFit({names}, trigger)")
    shown = [*{*panel.components, *(part for tab in drawn for part in tab.components)}]
    fitted = wire.click(fit, None, shown, **AT_ONCE)
    fitted.then(None, fields, fields, js="(...values) => acestep.afterFitting(values)", **AT_ONCE)
    gr.on(
        [part.change for part in fields],  # pyright: ignore[reportAttributeAccessIssue]
        None,
        fields,
        None,
        js="(...values) => acestep.changed(values)",
        **AT_ONCE,
    )


def _login_check(page: App) -> Callable[..., Any]:
    """The dependency of Gradio's own routes that refuses who has not signed in."""
    return next(
        route.endpoint
        for route in page.routes
        if isinstance(route, APIRoute) and route.path == f"{API_PREFIX}/login_check"
    )


@asynccontextmanager
async def _serving(app: FastAPI, rows: Live) -> AsyncIterator[None]:
    async with app.router.lifespan_context(app):
        threading.Thread(target=_prepare_first_event, name="acestep-warm", daemon=True).start()
        yield
    rows.close()


def _prepare_first_event() -> None:
    """Gradio imports matplotlib, where there is one, at its first event: seconds of a click."""
    with MatplotlibBackendMananger():
        pass


def head() -> str:
    """Script and style. Gradio rewrites the rules that it gets as css, and drops some."""
    script, style = ((HERE / name).read_text("utf-8") for name in ("page.js", "page.css"))
    return f"<style>{style}</style>\n<script>{script}</script>"


def theme() -> Base:
    """Gradio's own look with the system's fonts: nothing is fetched from elsewhere."""
    return Default(
        primary_hue="orange",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(  # the default's light greys are below the contrast that small text needs
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        input_placeholder_color="*neutral_500",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )
