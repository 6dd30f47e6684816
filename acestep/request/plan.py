"""What the planner decided: pure data, as JSON files and recipes hold it."""

from typing import Self

from pydantic import model_validator

from acestep.errors import InvalidRequest
from acestep.request.schema import Schema, setting
from acestep.request.values import (
    CODE_RATE,
    MAX_DURATION,
    MAX_TAKES,
    MIN_DURATION,
    CodeRows,
    KeyScale,
    Language,
    Text,
    TimeSignature,
)


class Plan(Schema):
    """What the planner decided: metadata, the caption it sang to itself, and 5 codes per second."""

    caption: Text = setting("", "plan", "Caption", "The planner's own description of the song.")
    bpm: int | None = setting(None, "plan", "BPM", "Beats per minute.", ge=30, le=300)
    duration: float | None = setting(
        None, "plan", "Duration", "Length of the song.", unit="s", ge=0.2, le=MAX_DURATION
    )
    key_scale: KeyScale = setting(None, "plan", "Key", "Root and mode.")
    time_signature: TimeSignature = setting(
        None, "plan", "Time Signature", "Beats per bar; 6 stands for 6/8."
    )
    vocal_language: Language = setting(None, "plan", "Vocal Language", "Language of the voice.")
    codes: CodeRows = setting(
        (),
        "plan",
        "Codes",
        "Audio codes, five per second: one row per take, or one row for all takes.",
        max_length=MAX_TAKES,
    )

    @model_validator(mode="after")
    def _whole_song(self) -> Self:
        lengths = {len(row) for row in self.codes}
        shortest, longest = (int(s * CODE_RATE) for s in (MIN_DURATION, MAX_DURATION))
        if len(lengths) > 1:
            raise InvalidRequest("codes", "All rows of a plan's codes must have the same length.")
        if lengths and not shortest <= (count := lengths.pop()) <= longest:
            raise InvalidRequest(
                "codes",
                f"A plan's codes must last {MIN_DURATION:g} to {MAX_DURATION:g} s, which is "
                f"{shortest} to {longest} codes (you gave {count}).",
            )
        return self
