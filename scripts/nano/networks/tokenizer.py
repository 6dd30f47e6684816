"""The nano models' byte-pair tokens, learnt from what the nano models read.

One vocabulary for text encoder and planner; the planner's copy also knows the audio codes. It is
made once: a network is worth nothing with other tokens than those it was trained with.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from acestep.models.tokenizer import read_tokenizer
from acestep.planner import prompt as prompts
from acestep.planner.think_block import to_text
from acestep.request import Plan
from acestep.request.values import KEY_SCALES, SECTION_TAGS
from acestep.tasks import conditioning
from scripts.make_tiny import train_tokenizer, with_codes
from scripts.nano.data import captions, codes
from scripts.nano.data.score import compose

SIZE = 1600  # of the byte pairs; control tokens and codes come on top
SONGS = 2000
FIRST_READ = 10**9  # apart from all songs that networks learn from or are judged by


def read_or_make(path: Path) -> Tokenizer:
    """The words, bytes and control tokens that all nano models share."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make().save(str(path))
    return read_tokenizer(path)


def make(songs: int = SONGS) -> Tokenizer:
    """The same on every machine, as long as the songs are."""
    return train_tokenizer(list(_texts(songs)), SIZE)


def with_audio_codes(tokenizer: Tokenizer) -> Tokenizer:
    """The planner's copy."""
    return with_codes(tokenizer, math.prod(codes.LEVELS))


def _texts(songs: int) -> Iterator[str]:
    """Prompts of the DiT and of the planner, as the product writes them."""
    for seed in range(FIRST_READ, FIRST_READ + songs):
        rng = np.random.default_rng(seed)
        score = compose(seed)
        request = captions.request_for(score, rng)
        instruction = (conditioning.FILL_MASK, conditioning.FOLLOW_CODES, conditioning.REPAINT)
        yield conditioning.caption_prompt(request, instruction[seed % 3], score.duration)
        yield conditioning.lyrics_prompt(request)
        yield prompts.metadata_prompt(request).conditional
        yield to_text(
            Plan(
                bpm=request.bpm,
                caption=request.caption,
                duration=request.duration,
                key_scale=request.key_scale,
                vocal_language=request.vocal_language,
                time_signature=request.time_signature,
            )
        )
    for _ in range(songs // 20):
        yield prompts.understand_prompt([])
        yield prompts.create_prompt("", instrumental=True)
        yield prompts.create_prompt("", instrumental=False)
        yield prompts.format_prompt("", "")
        yield from (f"[{tag}]\n" for tag in SECTION_TAGS)
        yield from (f"- keyscale: {key}\nkeyscale: {key}\n" for key in KEY_SCALES)
        yield "genres: hip hop\n"
