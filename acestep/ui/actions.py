"""Beside the tabs: Generate and Cancel for whichever is open, where the run is, and its takes."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component

from acestep.errors import Cancelled
from acestep.ui import results
from acestep.ui.boundary import bounded
from acestep.ui.edits import Source
from acestep.ui.events import AT_ONCE, POLL_SECONDS, WATCHERS, Updates
from acestep.ui.results import Results
from acestep.ui.tabs import Tab
from acestep.ui.worker import Run, SavedTake, Worker

Result = TypeVar("Result")

HIDDEN = "hidden"  # stays in the document, unlike visible=False, so it comes back at once


class Actions:
    """The column that every tab shares.

    Attributes:
        task: the tab that is open. The browser sets it itself, so that a click on Generate right
            after one on a tab finds it.
    """

    def __init__(self, tabs: Sequence[Tab]) -> None:
        self._tabs = {tab.task: tab for tab in tabs}
        with gr.Column(elem_id="actions"):
            self.generate = gr.Button("Generate Music", variant="primary", elem_id="generate")
            self.cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", visible=HIDDEN)
            self.progress = gr.HTML(elem_id="progress")
        self.results = Results({tab.task: f"{tab.door.label} this" for tab in tabs if tab.source})
        self.run = gr.State()
        self.task = gr.Textbox(tabs[0].task, visible=False)

    def wire(self, row: gr.Tabs, worker: Worker) -> None:
        """Let Generate run the form of the open tab, Cancel end what runs, and the buttons below
        a take send it to a tab of the row."""

        def begin(values: Mapping[Any, Any]) -> Run[list[SavedTake]]:
            return worker.submit(self._tabs[values[self.task]].form.read(values))

        forms = {part for tab in self._tabs.values() for part in tab.form.components}
        self.starts(self.generate, worker, begin, {self.task, *forms}, self._show)
        self.cancel.click(_cancel, self.run, None, **AT_ONCE)
        for tab in self._tabs.values():
            tab.door.select(None, None, self.task, js=f"() => '{tab.task}'", **AT_ONCE)
            if tab.source is not None:
                self._wire_sends(row, tab, tab.source)

    def _wire_sends(self, row: gr.Tabs, tab: Tab, source: Source) -> None:
        def send(song: Mapping[str, Any]) -> Updates:
            opened = {row: gr.update(selected=tab.task), self.task: tab.task}
            return {**opened, **source.take(Path(song["path"]))}

        for slot in self.results.slots:
            slot.sends[tab.task].click(
                bounded(send),
                slot.player,
                [row, self.task, *source.taking],
                preprocess=False,
                **AT_ONCE,
            )

    def starts(
        self,
        button: gr.Button,
        worker: Worker,
        begin: Callable[[Mapping[Any, Any]], Run[Result]],
        inputs: set[Any],
        finish: Callable[[Result, float], Updates],
        outputs: Sequence[Component] = (),
    ) -> None:
        """Let a button start a run that this column then shows.

        `preprocess=False`: the values come as the browser sent them, so that the schema judges
        them and not Gradio's conversions, which turn a dict into text and let infinity through.

        Args:
            begin: gets {component: value} of the `inputs`.
            finish: gets the result and the seconds it took, returns what to show.
            outputs: what `finish` may update beside this column.
        """

        def press(values: Mapping[Any, Any]) -> Iterator[Updates]:
            yield from self.watch(worker, begin(values), finish)

        pressed = button.click(
            bounded(press),
            inputs,
            [*self._changing, *self.results.components, *outputs],
            preprocess=False,
            show_progress="hidden",
            concurrency_limit=WATCHERS,
            api_visibility="private",
        )
        # `then` alone would not do: Gradio 6.31 leaves it out when the event fails.
        pressed.success(self._ready, None, [self.generate, self.cancel, self.run], **AT_ONCE)
        pressed.failure(
            lambda: {**self._ready(), self.progress: ""}, None, self._changing, **AT_ONCE
        )

    @property
    def _changing(self) -> list[Component]:
        return [self.generate, self.cancel, self.progress, self.run]

    def _ready(self) -> Updates:
        return {
            self.generate: gr.update(visible=True),
            self.cancel: gr.update(visible=HIDDEN),
            self.run: None,
        }

    def _show(self, takes: Sequence[SavedTake], spent: float) -> Updates:
        music = sum(take.duration for take in takes)
        done = results.ended(f"Done: {music:.0f} s of music in {spent:.1f} s.")
        return {self.progress: done, **self.results.show(takes)}

    def watch(
        self, worker: Worker, run: Run[Result], finish: Callable[[Result, float], Updates]
    ) -> Iterator[Updates]:
        """Show a run until it ends. Ending this generator (a closed tab) does not end the run.

        Every update stands alone: the browser skips one when the next follows at once.

        Raises:
            AceStepError: what stopped the run.
        """
        began = time.monotonic()
        busy = {
            self.generate: gr.update(visible=HIDDEN),
            self.cancel: gr.update(visible=True),
            self.run: run,
        }
        shown = ""
        while not run.wait(POLL_SECONDS if shown else 0):
            if (now := _where(worker, run, began)) != shown:
                shown = now
                yield {self.progress: shown, **busy}
        try:
            result = run.result()
        except Cancelled:
            yield {self.progress: '<p role="status">Cancelled.</p>'}
        else:
            yield finish(result, time.monotonic() - began)


def _cancel(run: Run[Any] | None) -> None:
    if run is not None:
        run.cancel()


def _where(worker: Worker, run: Run[Any], began: float) -> str:
    words = results.sentence(
        run.progress, ahead=worker.ahead_of(run), is_loading=worker.service is None
    )
    if run.cancelled:
        words = "Cancelling"
    return results.bar(words, run.progress, time.monotonic() - began)
