"""What the Repaint and Cover tabs share: a source, what is said about it, and its words."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.errors import AceStepError, InvalidRequest
from acestep.request import schema
from acestep.request.values import UNKNOWN_LANGUAGE
from acestep.ui import sources
from acestep.ui.events import AT_ONCE, Updates
from acestep.ui.form import EMPTY, Form

MUSIC = ("lyrics", "vocal_language", "bpm", "key_scale", "time_signature")


@dataclass(frozen=True)
class Source:
    """The source's box and the lines below the controls that depend on it.

    Attributes:
        form: has the source as its field `source_audio`.
        facts: what the source is, or why it cannot be used.
        words: fields that a song of ours fills with what it was asked for.
        summary: what a run would do, which the fields `decisive` decide.
    """

    form: Form[Any]
    facts: gr.HTML
    words: Collection[str]
    summary: gr.HTML | None = None
    decisive: Collection[str] = ()

    def wire(self) -> None:
        """Say what the source is when it changes, and what will happen when a number does."""
        box = self.form.fields["source_audio"]
        options = {**AT_ONCE, "preprocess": False, "trigger_mode": "always_last"}
        lines = [self.facts, *([self.summary] if self.summary else [])]
        gr.on(
            _changes([box]),
            self._look,
            self.form.components,
            [*lines, *(self.form.fields[name] for name in self.words)],
            **options,
        )
        if self.summary is not None:
            numbers = [self.form.fields[name] for name in self.decisive if name != "source_audio"]
            gr.on(
                _changes(numbers),
                lambda values: {self.summary: self._say(values)},
                {box, *numbers},
                [self.summary],
                **options,
            )

    def _look(self, values: Mapping[Any, Any]) -> Updates:
        """Look at the source that has come, or has gone."""
        song = self._song(values)
        said: Updates = {self.summary: self._say(values)} if self.summary else {}
        if song is None:
            return {self.facts: "", **said}
        try:
            facts = sources.line(sources.facts(song))
        except AceStepError as error:
            return {self.facts: sources.complaint(error), **said}
        empty = {name for name in self.words if values[self.form.fields[name]] in (None, EMPTY)}
        return {self.facts: facts, **said, **self._words_of(song, empty)}

    def _say(self, values: Mapping[Any, Any]) -> str:
        """What a run would do, or why it cannot."""
        song = self._song(values)
        if song is None:
            return ""
        try:
            seconds = sources.length(song)
        except AceStepError:
            return ""  # said beside the source
        try:
            return sources.line(self.form.read(values, self.decisive).summary(seconds))
        except AceStepError as error:
            return sources.complaint(error)

    def _song(self, values: Mapping[Any, Any]) -> Path | None:
        upload = values[self.form.fields["source_audio"]]
        return Path(upload["path"]) if isinstance(upload, Mapping) else None

    def require(self, values: Mapping[Any, Any]) -> Path:
        """The song in the box.

        Raises:
            InvalidRequest: there is none.
        """
        song = self._song(values)
        if song is None:
            missing = schema.extra(self.form.task.model_fields["source_audio"])["missing"]
            raise InvalidRequest("source_audio", missing)
        return song

    @property
    def taking(self) -> list[Component]:
        """What `take` may update."""
        fields = [self.form.fields[name] for name in ("source_audio", *self.words)]
        return [*fields, self.facts]

    def take(self, song: Path) -> Updates:
        """Updates that put a finished song into the box, with the words it was made from."""
        return {
            self.form.fields["source_audio"]: str(song),
            self.facts: sources.line(sources.facts(song)),
            **self._words_of(song, self.words),
        }

    def _words_of(self, song: Path, names: Collection[str]) -> Updates:
        """Updates that show what a song of ours was asked for, as far as that is known."""
        asked = sources.request_of(song)
        if asked is None:
            return {}
        known = {name: getattr(asked, name) for name in names}
        if known.get("vocal_language") == UNKNOWN_LANGUAGE:
            del known["vocal_language"]
        return dict(self.form.show(known))


def _changes(parts: Iterable[Any]) -> list[Any]:
    """The events of these components' values."""
    return [part.change for part in parts]
