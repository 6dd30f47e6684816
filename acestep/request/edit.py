"""What repaint and cover share."""

from typing import ClassVar, Self

from pydantic import model_validator

from acestep.errors import InvalidRequest
from acestep.request.music import MusicRequest
from acestep.request.preset import Preset


class Edit(MusicRequest):
    """What repaint and cover share: the source gives the length and takes the planner's place."""

    can_think: ClassVar[bool] = False

    @model_validator(mode="after")
    def _follows_its_source(self) -> Self:
        if self.duration is not None:
            raise InvalidRequest(
                "duration", "The source decides how long the song is: leave Audio Duration out."
            )
        if self.think or self.plan is not None:
            raise InvalidRequest(
                "think" if self.think else "plan",
                "The 5Hz LM plans new songs only; this one follows its source. Leave "
                + ("Think off." if self.think else "the plan out."),
            )
        return self

    def _length(self, preset: Preset) -> None:
        """Known when the source is read."""
