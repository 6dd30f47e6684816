"""The Service Configuration panel: which models run and where, generated from the configuration.

What is chosen here is not loaded until Initialize Service is pressed, and the panel says so, and
what a song would take of the memory. A control that would change nothing says why. Models that are
not on this computer can be downloaded, stopped and gone on with.
"""

import html
import json
import queue
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr

from acestep.config import AUTO, NO_LM, ServiceConfig
from acestep.engine import models
from acestep.engine.engine import Change, Engine, EngineState, MemoryLine
from acestep.engine.models import Checkpoints, Download, Downloads, Kind
from acestep.errors import AceStepError, CheckpointError, InvalidRequest, ModelMissing
from acestep.request import MusicRequest, schema
from acestep.ui import controls
from acestep.ui.boundary import bounded, line, warned
from acestep.ui.controls import Choices
from acestep.ui.events import AT_ONCE, WATCHERS, Updates
from acestep.ui.form import Form

KINDS: Mapping[str, Kind] = MappingProxyType({"model": "dit", "lm": "lm"})  # by widget
PLANNERS: Choices = (
    (f"{AUTO}: the one that fits the music model", AUTO),
    (f"{NO_LM}: do without", NO_LM),
)
LISTS = (*KINDS, "device", "lora")  # widgets that offer what is on this computer
PRESENCES = tuple(models.MARKS)  # what is here comes first
NOT_APPLIED = "Not applied yet — press Initialize Service."
APPLIED = "Applied: the next song is made with it."
SAID_NOTHING, NOTHING_TO_SAY = "{}", ("", True)  # under all controls, as JSON; under one
MEMORY_WORDS: Mapping[str, str] = MappingProxyType(
    {"fits": "fits", "tight": "fits, with little to spare", "over": "does not fit"}
)
TIGHT = 0.85  # share of the memory above which little is left for what else runs
TICK_SECONDS = 1.0
SETTLED_SECONDS = 2.0  # an engine that says nothing for so long has nothing to load
ACCORDION = "service"


@dataclass(frozen=True)
class Choice:
    """A setting that names a model: its control, the line below it, and what fetches the model."""

    name: str
    widget: str
    note: gr.HTML
    fetch: gr.Button

    @property
    def kind(self) -> Kind:
        return KINDS[self.widget]


class Panel:
    """The panel, drawn where it is made, with its buttons wired.

    Attributes:
        components: what `show` may update.
    """

    def __init__(
        self,
        engine: Engine,
        config_class: type[ServiceConfig],
        downloads: Downloads | None = None,
        places: Callable[[Path | None], Checkpoints] = Checkpoints,
    ) -> None:
        """Draw the panel.

        Args:
            config_class: the settings it shows.
            downloads: fetch models; None fetches from the Hugging Face Hub.
            places: the model folders below a folder, or below the program's own.
        """
        self._engine = engine
        self._config_class = config_class
        self._downloads = downloads or Downloads()
        self._places = places
        config = self._own(engine.state.config)
        with gr.Accordion("Service Configuration", open=False, elem_id=ACCORDION):
            self.form = Form(config_class, config, lists=self._offered(places(config.checkpoints)))
            fields = config_class.model_fields
            self._widgets = {
                name: str(schema.extra(field).get("widget")) for name, field in fields.items()
            }
            self._choices: list[Choice] = []
            groups = dict.fromkeys(schema.group(field) for field in fields.values())
            for group in groups:
                self._draw_group(
                    group, [name for name in fields if schema.group(fields[name]) == group], config
                )
            self._memory = gr.HTML(elem_id="memory", elem_classes="said")
            self._pending = gr.HTML(elem_id="pending", elem_classes="said")
            self._applied = gr.HTML(elem_id="applied", elem_classes="said")
            with gr.Row():
                self._initialize = gr.Button(
                    "Initialize Service", variant="primary", elem_id="initialize"
                )
                self._unload = gr.Button("Unload", elem_id="unload")
            self._status = gr.HTML(status_line(engine.state), elem_id="service-status")
            self._folder = gr.Textbox(
                str(places(config.checkpoints).root),
                label="Models are in",
                interactive=False,
                buttons=["copy"],
                elem_id="folder",
            )
            self._progress = gr.HTML(elem_id="downloads", elem_classes="said")
            self._cancel = gr.Button(
                "Cancel Download", size="sm", elem_id="cancel-download", visible=False
            )
        self._timer = gr.Timer(TICK_SECONDS, active=False)
        # What the engine is set to, and what of that this page has already followed.
        self._news = gr.Textbox(config.model_dump_json(), visible="hidden")
        self._followed = gr.State(config.model_dump_json())
        self._shown = gr.Textbox(visible="hidden")  # when `show` was last asked
        self._said = gr.State(SAID_NOTHING)  # under controls, by field
        self.components: set[Any] = {
            self._status, self._folder, self._news, self._shown, self._progress, self._cancel,
            self._timer,
            *self._offering,
        }  # fmt: skip
        self._wire()

    @property
    def _offering(self) -> list[Any]:
        """The controls that list what there is."""
        return [self.form.fields[name] for name in self._widgets if self._widgets[name] in LISTS]

    def show(self, state: EngineState) -> Updates:
        """Updates that tell where the engine is, and offer the models that there are now."""
        places = self._places(state.config.checkpoints)
        return {
            self._status: status_line(state, self._name(state.waiting_for)),
            self._folder: str(places.root),
            self._news: self._own(state.config).model_dump_json(),
            self._shown: str(time.time()),
            **self._offers(places),
            **self._downloading(),
        }

    def _own(self, config: ServiceConfig) -> ServiceConfig:
        """The configuration as the class that the panel shows."""
        is_own = isinstance(config, self._config_class)
        return config if is_own else self._config_class.model_validate(config.model_dump())

    def _name(self, id: str | None) -> str:
        return "" if id is None else self._engine.job(id).name

    def _draw_group(self, group: str, names: list[str], config: ServiceConfig) -> None:
        """A heading, what names models with what there is to say of it, and the other settings."""
        gr.HTML(f"<h2>{html.escape(group.capitalize())}</h2>", elem_classes="heading")
        chosen = [name for name in names if self._widgets[name] in KINDS]
        if chosen:
            with gr.Row():
                self._choices += [
                    self._draw_choice(name, self._widgets[name], config) for name in chosen
                ]
        self.form.draw(*(name for name in names if name not in chosen), accordion=ACCORDION)

    def _draw_choice(self, name: str, widget: str, config: ServiceConfig) -> Choice:
        with gr.Column(min_width=280):
            self.form.draw(name, accordion=ACCORDION)
            places = self._places(config.checkpoints)
            note, label = self._about(KINDS[widget], getattr(config, name), places)
            line = gr.HTML(note, elem_classes="said")
            fetch = gr.Button(
                label or "Download", size="sm", elem_id=f"download-{name}", visible=bool(label)
            )
        return Choice(name, widget, line, fetch)

    def weigh(self, values: Mapping[Any, Any], request: MusicRequest | None = None) -> Updates:
        """Say what a song takes under what the form shows, and which control would change nothing.

        Args:
            request: what would be made now; None is the usual song of the model.
        """
        try:
            config = self.form.read(values)
        except InvalidRequest:  # `look` says it
            return {self._memory: ""}
        said = values[self._said]
        return {self._memory: self._memory_of(config, request), **self._noted(config, said)}

    def _memory_of(self, config: ServiceConfig, request: MusicRequest | None) -> str:
        try:
            memory = self._engine.memory(config, request)
        except (ModelMissing, CheckpointError):  # said below the model's own control
            return ""
        except AceStepError as error:
            return warned(error)
        is_applied = config == self._own(self._engine.state.config)
        knows = request is not None and is_applied
        expected = self._engine.estimate(request).sentence if request and knows else ""
        return memory_html(memory, expected)

    def _noted(self, config: ServiceConfig, said: str) -> Updates:
        """What is to be said under controls now, where that is not what they say."""
        fields, before = self._config_class.model_fields, json.loads(said)
        notes: dict[str, tuple[str, bool]] = {}
        for name, note in self._engine.notes(config).items():
            # What was chosen before can be taken back, also where it does nothing.
            is_default = getattr(config, name) == fields[name].default
            notes[name] = note.sentence, note.acts or not is_default
        updates: Updates = {self._said: json.dumps(notes)}
        for name, control in self.form.fields.items():
            words, acts = notes.get(name, NOTHING_TO_SAY)
            if (words, acts) != tuple(before.get(name, NOTHING_TO_SAY)):
                updates[control] = controls.annotate(fields[name], words, acts=acts)
        return updates

    def wire_memory(
        self,
        moves: Sequence[Any] = (),
        inputs: Collection[Any] = (),
        request: Callable[[Mapping[Any, Any]], MusicRequest | None] = lambda values: None,
    ) -> None:
        """Weigh again whenever something changes here, or the song that would be made does.

        Args:
            moves: events after which that song may be another one.
            inputs: what it is read from.
            request: reads it.
        """

        def weigh(values: Mapping[Any, Any]) -> Updates:
            return self.weigh(values, request(values))

        shown: list[Any] = [*self.form.fields.values()]
        # One event for all: of two, the answer that comes last might be the older one.
        gr.on(
            [*(control.change for control in (*shown, self._shown)), *moves],
            bounded(weigh),
            {self._said, *shown, *inputs},
            [self._memory, self._said, *shown],
            preprocess=False,
            trigger_mode="always_last",
            **AT_ONCE,
        )

    def _wire(self) -> None:
        inputs: set[Any] = set(self.form.fields.values())
        told = [
            self._pending,
            self._applied,
            *(part for each in self._choices for part in (each.note, each.fetch)),
        ]
        options: dict[str, Any] = {**AT_ONCE, "preprocess": False}
        latest: dict[str, Any] = {**options, "trigger_mode": "always_last"}
        moves: list[Any] = [control.change for control in inputs]
        gr.on(moves, bounded(self.look), inputs, told, **latest)
        folder: Any = self.form.fields["checkpoints"]
        folder.change(self.list_models, inputs, self._offering, **latest)
        self._news.change(
            self.follow,
            {self._news, self._followed, *inputs},
            [self._followed, *inputs, *told],
            **latest,
        )
        shown = [*self.components, *told, self.form.complaint]
        self._initialize.click(
            bounded(self.initialize),
            inputs,
            shown,
            preprocess=False,
            show_progress="hidden",
            concurrency_limit=WATCHERS,
            api_visibility="private",
        )
        self._unload.click(self.unload, None, [*self.components], **AT_ONCE)
        for choice in self._choices:
            choice.fetch.click(partial(self.fetch, choice), inputs, shown, **options)
        self._cancel.click(self.cancel, inputs, shown, **options)
        self._timer.tick(self.tick, inputs, shown, **options)

    def look(self, values: Mapping[Any, Any]) -> Updates:
        """Say whether what the form shows is applied, and what is wrong with a model it names."""
        try:
            config = self.form.read(values)
        except InvalidRequest as error:
            return {self._pending: warned(error)}
        is_applied = config == self._own(self._engine.state.config)
        updates: Updates = {self._pending: ""}
        if not is_applied:
            updates = {self._pending: line(NOT_APPLIED), self._applied: ""}
        places = self._places(config.checkpoints)
        for choice in self._choices:
            note, label = self._about(choice.kind, getattr(config, choice.name), places)
            shown = {"value": label} if label else {}
            updates |= {choice.note: note, choice.fetch: gr.update(visible=bool(label), **shown)}
        return updates

    def follow(self, values: Mapping[Any, Any]) -> Updates:
        """Show what the engine was set to elsewhere, unless something else was chosen here."""
        news, followed = values[self._news], values[self._followed]
        try:
            shown = self.form.read(values).model_dump_json()
        except InvalidRequest:
            return {self._followed: news}
        updates: Updates = {self._followed: news}
        if shown == followed != news:
            updates |= self.form.fill(self._config_class.model_validate_json(news))
        return {**updates, **self.look({**values, **updates})}

    def initialize(self, values: Mapping[Any, Any]) -> Iterator[Updates]:
        """Set the engine to what the form shows, and tell how it gets there."""
        try:
            config = self.form.read(values)
            self._require(config)
        except InvalidRequest as error:
            yield self.form.refuse(error)
            return
        yield {**self.form.accept(), self._pending: "", self._applied: ""}
        before = self._own(self._engine.state.config)
        for state in self._set_to(config):
            yield self.show(state)
        told = self.look(values)
        if before.is_live_change(config) and before != config and not told[self._pending]:
            told[self._applied] = line(APPLIED)
        yield told

    def _require(self, config: ServiceConfig) -> None:
        """Refuse a model or an adapter that cannot be loaded, before what is loaded is given up.

        Raises:
            InvalidRequest: with the reason.
        """
        places = self._places(config.checkpoints)
        for choice in self._choices:
            if sentence := models.check(getattr(config, choice.name), choice.kind, places):
                raise InvalidRequest(choice.name, sentence)
        for row in models.chosen_loras(config, places):
            if row.problem:
                raise InvalidRequest("lora", row.problem)

    def _set_to(self, config: ServiceConfig) -> Iterator[EngineState]:
        """Where the engine is, from the order to its end: loaded, failed, or another order."""
        changes: queue.SimpleQueue[Change] = queue.SimpleQueue()
        forget = self._engine.subscribe(changes.put)
        try:
            self._engine.configure(config)
            has_begun = False
            while True:
                state = self._engine.state
                yield state
                has_begun |= state.status == "loading"
                is_at_rest = state.status != "loading" and state.waiting_for is None
                if self._own(state.config) != config or (has_begun and is_at_rest):
                    return
                told = _next_state(changes)
                if told is None and is_at_rest:
                    return
                # A load may be over before anyone looks, but it was told of.
                has_begun |= told is not None and told.status == "loading"
        finally:
            forget()

    def unload(self) -> Updates:
        """Have the engine give its memory back, or say why it cannot."""
        try:
            self._engine.unload()
        except AceStepError as error:
            return {self._status: warned(error)}
        return self.show(self._engine.state)

    def fetch(self, choice: Choice, values: Mapping[Any, Any]) -> Updates:
        """Download the model that a setting names."""
        try:
            config = self.form.read(values)
            places = self._places(config.checkpoints)
            self._downloads.start(getattr(config, choice.name), places)
        except AceStepError as error:
            return {choice.note: warned(error)}
        return self.tick(values)

    def cancel(self, values: Mapping[Any, Any]) -> Updates:
        """Stop the download that runs; what has arrived is kept."""
        running = [row for row in self._downloads.snapshot() if not row.is_over]
        for row in running[:1]:
            self._downloads.cancel(row.name)
        return self.tick(values)

    def tick(self, values: Mapping[Any, Any]) -> Updates:
        """Tell how far downloads are; when none runs any more, offer what has come."""
        updates = self._downloading()
        if all(row.is_over for row in self._downloads.snapshot()):
            updates |= self.list_models(values)
        return {**updates, **self.look(values)}

    def list_models(self, values: Mapping[Any, Any]) -> Updates:
        """Offer the models of the folder that the form names."""
        try:
            folder = self.form.read(values).checkpoints
        except InvalidRequest:
            folder = self._engine.state.config.checkpoints
        return self._offers(self._places(folder))

    def _downloading(self) -> Updates:
        rows = self._downloads.snapshot()
        runs = not all(row.is_over for row in rows)
        return {
            self._progress: "".join(map(download_line, rows)),
            self._cancel: gr.update(visible=runs),
            self._timer: gr.Timer(active=runs),
        }

    def _offered(self, places: Checkpoints) -> dict[str, Choices]:
        """What there is to choose from, by widget."""
        named: dict[str, Choices] = {
            widget: [
                (row.label, row.name)
                for row in sorted(
                    models.rows(places, kind), key=lambda row: PRESENCES.index(row.presence)
                )
            ]
            for widget, kind in KINDS.items()
        }
        devices = [(f"{row.name} — {row.about}", row.name) for row in self._engine.devices()]
        loras = [row for row in models.loras(places) if not row.problem]
        return {
            **named,
            "lm": [*PLANNERS, *named["lm"]],
            "device": [(AUTO, AUTO), *devices],
            "lora": [(f"{row.name} — {row.about}", row.name) for row in loras],
        }

    def _offers(self, places: Checkpoints) -> Updates:
        offered = self._offered(places)
        return {
            control: gr.update(choices=offered[widget])
            for name, control in self.form.fields.items()
            if (widget := self._widgets[name]) in LISTS
        }

    def _about(self, kind: Kind, value: str, places: Checkpoints) -> tuple[str, str]:
        """What there is to say of a model that was chosen, as HTML, and the words on the button
        that fetches it; empty where there is nothing."""
        sentence = models.check(value, kind, places)
        if sentence is None:
            return "", ""
        row = next((row for row in models.rows(places, kind) if row.name == value), None)
        if row is None or row.download is None:
            return warned(sentence), ""
        task = next((task for task in self._downloads.snapshot() if task.name == value), None)
        if task is not None and not task.is_over:
            return "", ""  # the line of the download says it
        verb = "Resume Download" if task is not None or row.presence == "incomplete" else "Download"
        return line(sentence), f"{verb} ({models.size_text(row.download)})"


def status_line(state: EngineState, waits_for: str = "") -> str:
    """Where the engine is, as HTML.

    Args:
        waits_for: what the running song is called, when a switch waits for it.
    """
    if state.waiting_for is not None:
        return line(f"Switches to {state.config.model} after the running song: {waits_for}.")
    match state.status:
        case "loading":
            return line(f"Loading {state.config.model} …")
        case "failed" if state.failure is not None:
            return warned(state.failure.message)
    if state.loaded is None:
        return line("Nothing is loaded. Initialize Service loads what is chosen; so does a song.")
    loaded = state.loaded
    words = f"Loaded in {loaded.seconds:.1f} s: {loaded.model} on {loaded.device}."
    planner = f"Planner: {loaded.planner}" if loaded.planner else ""
    return line(" ".join(filter(None, [words, planner, *loaded.adapters, loaded.memory])))


def memory_html(memory: MemoryLine, expected: str = "") -> str:
    """What a song takes, as HTML: the sentence, a bar, and what is given up for it to fit.

    Args:
        expected: how long it takes, in words.
    """
    share = memory.used / max(memory.budget, 1)
    level = "over" if not memory.fits else "tight" if share > TIGHT else "fits"
    used, budget = (models.size_text(size) for size in (memory.used, memory.budget))
    traded = memory.traded if memory.fits else []
    notes = [*traded, *([expected] if expected else [])]
    return (
        f'<div class="memory {level}"><p role="status">{html.escape(memory.sentence)}</p>'
        f'<div role="meter" aria-label="Memory" aria-valuemin="0" aria-valuemax="{memory.budget}" '
        f'aria-valuenow="{min(memory.used, memory.budget)}" '
        f'aria-valuetext="{used} of {budget}: {MEMORY_WORDS[level]}">'
        f'<span style="width: {min(share, 1.0):.0%}"></span></div>'
        f"{''.join(f'<p>{html.escape(words)}</p>' for words in notes)}</div>"
    )


def download_line(row: Download) -> str:
    """How far a download is, as HTML. Only its end is announced: its progress would never stop
    being read out."""
    if row.is_over:
        role = "status" if row.state == "done" else "alert"
        return f'<p role="{role}">{html.escape(f"{row.name}: {row.sentence}")}</p>'
    done = f' value="{row.done}" max="{row.total}"' if row.total else ""
    name = html.escape(row.name)
    return (
        f'<div class="running"><p>{name}: {html.escape(row.sentence)}</p>'
        f'<progress aria-label="Download of {name}"{done}></progress></div>'
    )


def _next_state(changes: "queue.SimpleQueue[Change]") -> EngineState | None:
    """Wait for the engine's next state; None when none comes in time."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        try:
            change = changes.get(timeout=left)
        except queue.Empty:
            return None
        if isinstance(change, EngineState):
            return change
    return None
