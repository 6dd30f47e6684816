"""Text2Music: a caption and lyrics become a song."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from acestep.errors import InvalidRequest
from acestep.request.planned import PlannedRequest
from acestep.request.preset import Preset
from acestep.request.resolved import ResolvedRequest


class Text2Music(PlannedRequest):
    """Turn a caption and lyrics into a song."""

    name: ClassVar[str] = "text2music"
    title: ClassVar[str] = "Text2Music"
    verb: ClassVar[str] = "generate"
    task: Literal["text2music"] = "text2music"

    @model_validator(mode="after")
    def _describes_something(self) -> Self:
        if not self.caption and self.is_instrumental and self.plan is None:
            raise InvalidRequest("caption", "Describe the music you want, or write lyrics.")
        return self

    def resolve(self, preset: Preset) -> "ResolvedText2Music":
        base = super().resolve(preset)
        plan = self.plan
        rewritten = plan.caption if plan and self.rewrites(preset) else ""
        return ResolvedText2Music(
            **{**vars(base), "caption": rewritten or self.caption},
            duration=self.length(preset),
            codes=plan.codes if plan else (),
        )


@dataclass(frozen=True)
class ResolvedText2Music(ResolvedRequest[Text2Music]):
    """Attributes:
    duration: seconds.
    codes: the plan's, one row per take or one for all; empty without a plan.
    """

    duration: float
    codes: tuple[tuple[int, ...], ...]
