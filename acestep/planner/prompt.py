"""What the planner is asked: requests and helper questions as prompt text, token for token the form
the checkpoints were trained on.

Qwen3's chat format; every prompt ends in an open assistant turn that the model continues. Control
tokens inside the user's words are spelled apart, so that a lyric cannot end its own turn.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from acestep.planner.think_block import codes_to_text, to_text
from acestep.request import Plan
from acestep.request.planned import PlannedRequest
from acestep.request.values import INSTRUMENTAL

GENERATE = "Generate audio semantic tokens based on the given conditions:"
UNDERSTAND = "Understand the given musical conditions and describe the audio semantics accordingly:"
CREATE = "Expand the user's input into a more detailed and specific musical description:"
FORMAT = "Format the user's input into a more detailed and specific musical description:"
NO_INPUT = "NO USER INPUT"  # what the model saw in training where a condition was dropped


class Guided(NamedTuple):
    """Two prompts for classifier-free guidance: towards the first, away from the second."""

    conditional: str
    unconditional: str


def metadata_prompt(request: PlannedRequest) -> Guided:
    """Phase 1: the model thinks, that is, writes the `<think>` block."""
    lyrics = f"# Lyric\n{_plain(request.lyrics)}\n"
    negative = _negative(request)
    away = f"# Caption\n{negative}\n\n{lyrics}" if negative else lyrics
    return Guided(_turns(GENERATE, _song(request)), _turns(GENERATE, away))


def codes_prompt(request: PlannedRequest, plan: Plan) -> Guided:
    """Phase 2: the block is written, the audio codes follow in the same turn.

    The user block keeps the caption as the user wrote it; the planner's own is in the block. The
    unconditional side is the bare negative prompt and an empty block.
    """
    away = _turns(GENERATE, _negative(request) or NO_INPUT)
    return Guided(
        _turns(GENERATE, _song(request)) + _block(plan) + "\n\n",
        away + _block(Plan()) + "\n\n",
    )


def understand_prompt(codes: Sequence[int]) -> str:
    """Describe a song from its codes; without codes the model invents one."""
    return _turns(UNDERSTAND, codes_to_text(codes) or NO_INPUT)


def create_prompt(idea: str, *, instrumental: bool) -> str:
    """Turn an idea into caption, lyrics and metadata; without an idea the model has its own."""
    answer = "true" if instrumental else "false"
    return _turns(CREATE, f"{_plain(idea.strip()) or NO_INPUT}\n\ninstrumental: {answer}")


def format_prompt(caption: str, lyrics: str) -> str:
    """Rewrite a caption and lyrics in the style the models know best."""
    caption = _plain(caption.strip()) or NO_INPUT
    lyrics = _plain(lyrics.strip()) or INSTRUMENTAL
    return _turns(FORMAT, f"# Caption\n{caption}\n\n# Lyric\n{lyrics}")


def _song(request: PlannedRequest) -> str:
    return f"# Caption\n{_plain(request.caption)}\n\n# Lyric\n{_plain(request.lyrics)}\n"


def _negative(request: PlannedRequest) -> str:
    """The negative prompt, empty where the user wrote none or the model's word for none."""
    negative = request.lm_negative_prompt.strip()
    return "" if negative == NO_INPUT else _plain(negative)


def _block(plan: Plan) -> str:
    caption = plan.model_copy(update={"caption": _plain(plan.caption)})
    return to_text(caption)


def _turns(instruction: str, user: str) -> str:
    return (
        f"<|im_start|>system\n# Instruction\n{instruction}\n\n<|im_end|>\n"
        f"<|im_start|>user\n{user}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def _plain(text: str) -> str:
    """The text with no control token in it: `<|im_end|>` becomes `< |im_end|>`."""
    return re.sub(r"<(?=\||/?think>)", "< ", text)
