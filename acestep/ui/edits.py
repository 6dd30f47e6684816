"""What a tab has whose task changes a song: its source, and what is said and heard about it."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.engine import songs
from acestep.engine.engine import Engine
from acestep.errors import AceStepError, InvalidRequest
from acestep.request import Plan, schema
from acestep.request.asked import Recording
from acestep.request.values import TIME_SIGNATURES, UNKNOWN_LANGUAGE
from acestep.ui.boundary import bounded, line, warned
from acestep.ui.events import AT_ONCE, WATCHERS, Updates, steps_of
from acestep.ui.form import Form

MUSIC = ("lyrics", "vocal_language", "bpm", "key_scale", "time_signature")
HEARD = ("bpm", "key_scale", "time_signature")
REGION = ("repainting_start", "repainting_end")
PATIENCE_SECONDS = 1.0  # between two looks at a job that says nothing
SHORT = 3.0  # seconds; the thirds of a longer song are whole seconds


@dataclass(frozen=True)
class SourceBox:
    """The source's box and the lines below the controls that depend on it.

    Attributes:
        form: has the source in its field `name`.
        facts: what the source is, or why it cannot be used.
        summary: what a run would do; the source's group of fields decides it.
    """

    form: Form[Any]
    name: str
    facts: gr.HTML
    summary: gr.HTML | None = None

    @property
    def words(self) -> list[str]:
        """Fields that a song of ours fills with what it was asked for.

        Its caption is among them where most of the song stays; else the song is to become
        something new, which the user says.
        """
        names = MUSIC if self.summary is None else ("caption", *MUSIC)
        return [name for name in names if name in self.form.fields]

    @property
    def decisive(self) -> list[str]:
        """Fields that decide what a run would do."""
        fields = self.form.task.model_fields
        return [name for name in self.form.fields if schema.group(fields[name]) == "source"]

    def wire(self) -> None:
        """Say what the source is when it changes, and what will happen when a number does."""
        box = self.form.fields[self.name]
        options = {**AT_ONCE, "preprocess": False, "trigger_mode": "always_last"}
        lines = [self.facts, *([self.summary] if self.summary else [])]
        gr.on(
            _changes([box]),
            self.look,
            self.form.components,
            [*lines, *self._filled_by(self.words)],
            **options,
        )
        if self.summary is not None:
            numbers = [self.form.fields[name] for name in self.decisive if name != self.name]
            gr.on(
                _changes(numbers),
                lambda values: {self.summary: self._say(values)},
                {box, *numbers},
                [self.summary],
                **options,
            )

    def look(self, values: Mapping[Any, Any]) -> Updates:
        """Look at the source that has come, or has gone."""
        song = self._song(values)
        lines: Updates = {self.summary: self._say(values)} if self.summary else {}
        if song is None:
            return {self.facts: "", **lines}
        try:
            facts = line(songs.facts(song))
        except AceStepError as error:
            return {self.facts: warned(error), **lines}
        empty = {name for name in self.words if not values[self.form.fields[name]]}
        return {self.facts: facts, **lines, **self._words_of(song, empty)}

    def _say(self, values: Mapping[Any, Any]) -> str:
        """What a run would do, or why it cannot."""
        song = self._song(values)
        if song is None:
            return ""
        try:
            seconds = songs.length(song)
        except AceStepError:
            return ""  # said beside the source
        try:
            return line(self.form.read(values, self.decisive).summary(seconds))
        except AceStepError as error:
            return warned(error)

    def _song(self, values: Mapping[Any, Any]) -> Path | None:
        upload = values[self.form.fields[self.name]]
        return Path(upload["path"]) if isinstance(upload, Mapping) else None

    def require(self, values: Mapping[Any, Any]) -> Path:
        """The song in the box.

        Raises:
            InvalidRequest: there is none.
        """
        song = self._song(values)
        if song is None:
            missing = schema.extra(self.form.task.model_fields[self.name])["missing"]
            raise InvalidRequest(self.name, missing)
        return song

    @property
    def taking(self) -> list[Component]:
        """What `take` may update."""
        return [self.facts, *self._filled_by([self.name, *self.words, *self.decisive])]

    def take(self, song: Path) -> Updates:
        """Updates that put a finished song into the box, with the words it was made from and a
        region of it to begin with.

        Raises:
            AudioError: the song is no longer there, or cannot be read.
        """
        return {
            self.facts: line(songs.facts(song)),
            **self.form.show({self.name: song}),
            **self._words_of(song, self.words),
            **self.form.show(self.proposed(songs.length(song))),
        }

    def proposed(self, seconds: float) -> dict[str, Any]:
        """A region inside a song of this length, where the task has one: the middle third."""
        if not set(REGION) <= self.form.fields.keys():
            return {}
        digits = 0 if seconds >= SHORT else 2
        region = (round(seconds / 3, digits), round(seconds * 2 / 3, digits))
        several = {"regions": ()} if "regions" in self.form.fields else {}
        return {**dict(zip(REGION, region, strict=True)), **several}

    def _words_of(self, song: Path, names: Collection[str]) -> Updates:
        """Updates that show what a song of ours was asked for, as far as that is known."""
        asked = songs.request_of(song)
        if asked is None:
            return {}
        known = {name: getattr(asked, name) for name in names}
        if known.get("vocal_language") == UNKNOWN_LANGUAGE:
            del known["vocal_language"]
        return self.form.show(known)

    def _filled_by(self, names: Iterable[str]) -> list[Component]:
        """What shows these fields."""
        parts = [self.form.fields[name] for name in dict.fromkeys(names)]
        return [*parts, *([self.form.instrumental] if self.form.instrumental else [])]


class Hearing:
    """What the planner hears in a source, offered beside the fields that may take it over."""

    def __init__(self, source: SourceBox) -> None:
        """Draw the button that listens, and the line that says what was heard."""
        prefix = source.form.prefix
        self.source = source
        with gr.Row():
            self.listen = gr.Button(
                "Estimate BPM and Key from the Source",
                size="sm",
                elem_id=f"{prefix}listen",
                visible=False,
            )
            self.accept = gr.Button("Accept", size="sm", elem_id=f"{prefix}accept", visible=False)
        self.line = gr.HTML(elem_id=f"{prefix}heard", elem_classes="said")
        self.heard = gr.State()

    def wire(self, engine: Engine) -> None:
        """Listen when asked to; write into the form only what is accepted."""
        box: Any = self.source.form.fields[self.source.name]
        shown = [self.line, self.accept, self.heard]

        def listen(values: Mapping[Any, Any]) -> Iterator[Updates]:
            yield from self.watch(engine, self.source.require(values))

        listening = self.listen.click(
            bounded(listen),
            {box},
            shown,
            preprocess=False,
            show_progress="hidden",
            concurrency_limit=WATCHERS,
            api_visibility="private",
        )
        # What was heard in one song is not offered for the next.
        box.change(self._clear, None, shown, cancels=[listening], **AT_ONCE)
        fields = [self.source.form.fields[name] for name in HEARD]
        self.accept.click(self.take_over, self.heard, [*fields, *shown], **AT_ONCE)

    def watch(self, engine: Engine, song: Path) -> Iterator[Updates]:
        """Have the planner listen, and offer what it hears. Whoever goes away ends it."""
        job = engine.submit(Recording(source_audio=song), action="understand")
        try:
            yield {**self._clear(), self.line: line("Listening …")}
            *_, job = steps_of(engine, job.id, PATIENCE_SECONDS)
        finally:
            engine.cancel(job.id)
        if job.outcome is not None and job.outcome.plan is not None:
            yield self._offer(Plan.model_validate(job.outcome.plan))
        elif job.failure is not None and job.state != "cancelled":
            yield {**self._clear(), self.line: warned(job.failure.message)}
        else:
            yield {**self._clear(), self.line: line("Cancelled.")}

    def _offer(self, plan: Plan) -> Updates:
        known = {name: value for name in HEARD if (value := getattr(plan, name)) is not None}
        return {
            self.line: line(heard(plan)),
            self.accept: gr.update(visible=bool(known)),
            self.heard: known,
        }

    def take_over(self, known: Mapping[str, Any] | None) -> Updates:
        return {**self.source.form.show(known or {}), **self._clear()}

    def _clear(self) -> Updates:
        return {self.line: "", self.accept: gr.update(visible=False), self.heard: None}


def heard(plan: Plan) -> str:
    """What the planner heard, in a sentence."""
    facts = [
        f"{plan.bpm} BPM" if plan.bpm else "",
        plan.key_scale or "",
        TIME_SIGNATURES.get(plan.time_signature or 0, ""),
    ]
    known = ", ".join(filter(None, facts))
    return f"Heard: {known}." if known else "No clear beat or key is heard."


def _changes(parts: Iterable[Any]) -> list[Any]:
    """The events of these components' values."""
    return [part.change for part in parts]
