"""What a song demands of memory: as much of a request as its size depends on."""

from dataclasses import dataclass
from typing import Self

from acestep.models.constants import CAPTION_TOKENS, LYRICS_TOKENS
from acestep.request import MusicRequest, Preset

USUAL_SECONDS = 120.0
PROMPT_LENGTH = 512  # tokens of the planner, with usual lyrics
TEXT_LENGTH = 768  # what the DiT attends to, with usual lyrics


@dataclass(frozen=True)
class Demand:
    """As much of a request as memory depends on.

    Attributes:
        guided: whether guidance doubles what the DiT sees.
        thinks: whether the 5Hz LM plans first.
        encodes_source: whether a recording is read, to be changed or for its timbre.
        text_tokens: what the DiT attends to.
        prompt_tokens: what the 5Hz LM reads before it writes.
        branches: 2 where the codes are guided.
    """

    seconds: float = USUAL_SECONDS
    takes: int = 1
    guided: bool = False
    thinks: bool = False
    encodes_source: bool = False
    text_tokens: int = TEXT_LENGTH
    prompt_tokens: int = PROMPT_LENGTH
    branches: int = 2

    @classmethod
    def usual(cls, preset: Preset, *, has_planner: bool) -> Self:
        """The song that a checkpoint makes when nothing is asked for."""
        guided = preset.guidance_scale > 1
        return cls(preset.duration, guided=guided, thinks=has_planner)

    @classmethod
    def of(
        cls,
        request: MusicRequest,
        preset: Preset,
        *,
        has_planner: bool,
        seconds: float | None = None,
    ) -> Self:
        """What a request needs.

        Args:
            seconds: of the song it starts from; None is the length asked for, or the preset's.
        """
        planned = request.to_plan(has_planner=has_planner)
        asked = request.model_dump(include={"duration", "lm_cfg_scale"})
        # No language needs more than a token for two letters, but those of one letter a word.
        lyrics = min(LYRICS_TOKENS, len(request.lyrics.encode()) // 2 + 64)
        return cls(
            seconds=seconds or asked.get("duration") or preset.duration,
            takes=request.takes,
            guided=(request.guidance_scale or preset.guidance_scale) > 1,
            thinks=planned is not None,
            encodes_source=request.source_file is not None or request.reference_audio is not None,
            text_tokens=lyrics + CAPTION_TOKENS,
            prompt_tokens=lyrics + PROMPT_LENGTH,
            branches=1 if asked.get("lm_cfg_scale") == 1 else 2,
        )
