"""Text2Music: a caption and lyrics become a song."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from acestep.errors import InvalidRequest
from acestep.request.music import MusicRequest


class Text2Music(MusicRequest):
    """A caption and lyrics become a song."""

    title: ClassVar[str] = "Text2Music"
    verb: ClassVar[str] = "generate"
    task: Literal["text2music"] = "text2music"

    @model_validator(mode="after")
    def _describes_something(self) -> Self:
        if not self.caption and self.is_instrumental and self.plan is None:
            raise InvalidRequest("caption", "Describe the music you want, or write lyrics.")
        return self
