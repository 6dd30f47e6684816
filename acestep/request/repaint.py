"""Repaint: regions of a song are made anew; the rest stays bit-identical."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, model_validator
from pydantic_core import PydanticCustomError

from acestep.errors import InvalidRequest
from acestep.request import regions as written
from acestep.request.music import MusicRequest
from acestep.request.regions import Region, require_forward, settle, summarize
from acestep.request.schema import setting
from acestep.request.values import MAX_DURATION, MAX_REGIONS, File, RepaintMode


def _regions(value: object) -> object:
    """Pairs of seconds, also as people write them (`12:20, 40 to 48`); one pair may be written
    without the brackets around it."""
    if isinstance(value, str):
        value = written.read(value)
    elif isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        value = written.read(",".join(value))
    pairs = [value] if _is_pair(value) else value
    if not isinstance(pairs, list | tuple) or not all(map(_is_pair, pairs)):
        raise PydanticCustomError(
            "sentence",
            "Regions are pairs of seconds, such as [[12, 20], [40.5, 48]] (you gave {value}).",
            {"value": str(value)[:40]},
        )
    return pairs


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(x, int | float) and abs(x) <= 2 * MAX_DURATION for x in value)
    )


class Repaint(MusicRequest):
    """Make a region of a song anew, or add music at its ends.

    Everything outside the region stays bit-identical.
    """

    name: ClassVar[str] = "repaint"
    title: ClassVar[str] = "Repaint"
    verb: ClassVar[str] = "repaint"
    argument: ClassVar[str | None] = "source_audio"
    source: ClassVar[str | None] = "source_audio"
    task: Literal["repaint"] = "repaint"
    source_audio: File = setting(
        ..., "source", "Source Audio", "The song to change.",
        metavar="SONG", missing="Choose the song to change first.",
    )  # fmt: skip
    repainting_start: float = setting(
        0.0, "source", "Repainting Start",
        "Where the region begins; below 0 adds music before the song.",
        flags=("--start",), placeholder="0: the start of the song",
        unit="s", ge=-MAX_DURATION, le=MAX_DURATION,
    )  # fmt: skip
    repainting_end: float | None = setting(
        None, "source", "Repainting End",
        "Where the region ends (empty: the end of the song, or its beginning when the region "
        "begins before it); past the song adds music after it.",
        flags=("--end",), placeholder="the end of the song",
        unit="s", ge=0.0, le=2 * MAX_DURATION,
    )  # fmt: skip
    regions: Annotated[tuple[Region, ...], BeforeValidator(_regions)] = setting(
        (), "source", "Regions",
        "Several regions at once, as pairs of seconds, instead of Repainting Start and End.",
        flags=("--region",), metavar="A:B", place="more",
        placeholder="such as 12 to 20, 40.5 to 48", max_length=MAX_REGIONS,
    )  # fmt: skip
    mode: RepaintMode = setting(
        "balanced", "source", "Repaint Mode",
        "balanced goes by Strength; conservative joins most smoothly; aggressive is freest.",
    )  # fmt: skip
    strength: float = setting(
        0.5, "source", "Strength",
        "0 keeps closest to the original at the borders, 1 is free; for the balanced mode.",
        ge=0.0, le=1.0,
    )  # fmt: skip
    crossfade: float = setting(
        0.04, "source", "Crossfade", "Blend at both borders, inside the region.",
        unit="s", ge=0.0, le=2.0,
    )  # fmt: skip

    @model_validator(mode="after")
    def _has_one_kind_of_region(self) -> Self:
        if self.regions and (self.repainting_start, self.repainting_end) != (0.0, None):
            raise InvalidRequest(
                "regions", "Give either Regions or Repainting Start and End, not both."
            )
        if self.regions:
            require_forward(self.regions, "regions")
        elif self.repainting_end is not None:
            region = (self.repainting_start, self.repainting_end)
            require_forward([region], "repainting_end")
        return self

    def regions_of(self, source_seconds: float) -> tuple[Region, ...]:
        """The regions on a source of this length: sorted, apart, in seconds of the source.

        Raises:
            InvalidRequest: a region lies past the song, or the song would become too long.
        """
        wanted = self.regions or [(self.repainting_start, self._end(source_seconds))]
        field = "regions" if self.regions else "repainting_start"
        return settle(wanted, source_seconds, MAX_DURATION, field)

    def check_source(self, seconds: float) -> None:
        self.regions_of(seconds)

    def summary(self, source_seconds: float) -> str:
        """What a run would do to a source of this length, in words.

        Raises:
            InvalidRequest: what the run would say, in the same sentence.
        """
        return summarize(self.regions_of(source_seconds), source_seconds)

    def _end(self, source_seconds: float) -> float:
        if self.repainting_end is not None:
            return self.repainting_end
        # A beginning before the song, and nothing else, asks for an introduction.
        return 0.0 if self.repainting_start < 0 else source_seconds
