"""Cover: a song in another style, with its structure kept."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from acestep.errors import InvalidRequest
from acestep.request.music import WholeSong
from acestep.request.schema import setting
from acestep.request.values import File


class Cover(WholeSong):
    """Turn a song into another style that keeps its structure."""

    name: ClassVar[str] = "cover"
    title: ClassVar[str] = "Cover"
    verb: ClassVar[str] = "cover"
    argument: ClassVar[str | None] = "source_audio"
    source: ClassVar[str | None] = "source_audio"
    task: Literal["cover"] = "cover"
    source_audio: File = setting(
        ..., "source", "Source Audio", "The song to cover.",
        metavar="SONG", missing="Choose the song to cover first.",
    )  # fmt: skip
    audio_cover_strength: float = setting(
        1.0, "source", "Audio Cover Strength",
        "The share of the steps that follow the source: high is the same song in new clothes.",
        flags=("--strength",), ge=0.0, le=1.0,
    )  # fmt: skip
    cover_noise_strength: float = setting(
        0.0, "source", "Cover Noise Strength", "Starts closer to the source's own sound.",
        place="more", ge=0.0, le=1.0,
    )  # fmt: skip
    quantize: bool = setting(
        True, "source", "Quantize",
        "Follow the source through its 5 Hz codes, which keep structure and melody. Off follows "
        "its sound itself: very close, so choose an Audio Cover Strength of 0.2 to 0.5.",
        place="more",
    )  # fmt: skip

    @model_validator(mode="after")
    def _says_what_to_become(self) -> Self:
        if not self.caption:
            raise InvalidRequest("caption", "Say what it should become, e.g. 'jazz trio'.")
        return self
