"""What anything that can be asked for has in common: perhaps a recording it starts from."""

from pathlib import Path
from typing import ClassVar, Self

from acestep.request.preset import Preset
from acestep.request.schema import Schema, setting
from acestep.request.values import File


class Asked(Schema):
    """Something to be done.

    Attributes:
        source: the field that holds the recording it starts from.
    """

    source: ClassVar[str | None] = None

    @property
    def source_file(self) -> Path | None:
        """The recording it starts from; None when there is none."""
        return None if self.source is None else getattr(self, self.source)

    def with_source(self, song: Path) -> Self:
        """The same about another file."""
        return self if self.source is None else self.model_copy(update={self.source: song})

    def check(self, preset: Preset, *, has_planner: bool) -> None:
        """Refuse what this checkpoint cannot do.

        Raises:
            InvalidRequest: a value is off this checkpoint's preset, or Think has no planner.
        """

    def check_source(self, seconds: float) -> None:
        """Refuse what cannot be done with a source of this length.

        Raises:
            InvalidRequest: it has no such region, say.
        """


class Recording(Asked):
    """A recording to be understood."""

    source: ClassVar[str | None] = "source_audio"
    source_audio: File = setting(
        ..., "source", "Source Audio", "The recording to listen to.",
        missing="Choose a recording first.",
    )  # fmt: skip
