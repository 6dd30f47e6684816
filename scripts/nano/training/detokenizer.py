"""What a code means in latents: the detokenizer's first lesson, before the DiT's training begins.

The best single answer to a code is the mean of all the latents that it was written for. Learnt by
way of the DiT that takes hours; from the means themselves it takes a minute, because every code is
there once.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from acestep.models.acestep import AceStep
from scripts.nano.data.codes import FRAMES, LEVELS, codes
from scripts.nano.data.score import Score

BATCH = 256  # codes of a step


@dataclass(frozen=True)
class Means:
    """The mean latents of every code that was written, and how often it was."""

    codes: Int[Tensor, " code"]
    counts: Float[Tensor, " code"]
    latents: Float[Tensor, "code frame channel"]

    @classmethod
    def of(cls, songs: Iterable[tuple[Score, np.ndarray]], channels: int) -> Self:
        """
        Args:
            songs: scores and their latents, [frame, channel].
        """
        sums, counts = (
            torch.zeros(math.prod(LEVELS), FRAMES, channels),
            torch.zeros(math.prod(LEVELS)),
        )
        for score, latents in songs:
            written = torch.tensor(codes(score))
            frames = torch.from_numpy(latents.astype(np.float32)).unflatten(0, (-1, FRAMES))
            sums.index_add_(0, written, frames)
            counts.index_add_(0, written, torch.ones(len(written)))
        used = counts.nonzero().flatten()
        return cls(used, counts[used], sums[used] / counts[used, None, None])


class Meaning(nn.Module):
    """The part of the networks that says what a code means."""

    def __init__(self, model: AceStep, means: Means) -> None:
        super().__init__()
        self.detokenizer = model.detokenizer
        self.project_out = model.tokenizer.quantizer.project_out
        self._model, self._means = [model], means  # a list: its other weights are not to be trained

    def losses(self, step: int) -> dict[str, Tensor]:
        """How far some codes' meanings are from the means, the frequent codes counting more."""
        (model,), means = self._model, self._means
        chance = means.counts.sqrt()
        generator = torch.Generator().manual_seed(step)
        chosen = torch.multinomial(chance, min(BATCH, len(chance)), generator=generator)
        levels = model.tokenizer.quantizer.unfold(means.codes[chosen][None])
        said = rearrange(hints(model, levels), "1 (c f) d -> c f d", f=FRAMES)
        wrong = (said - means.latents[chosen]).square().mean((1, 2))
        weight = means.counts[chosen] / chance[chosen]  # as if drawn by their counts
        return {"means": (weight * wrong).sum() / weight.sum()}


def hints(model: AceStep, levels: Int[Tensor, "song code dimension"]) -> Tensor:
    """What the detokenizer says of codes; each different code is worked out once."""
    quantizer = model.tokenizer.quantizer
    different, places = levels.flatten(0, 1).unique(dim=0, return_inverse=True)
    said = model.detokenizer(quantizer.project(quantizer.coordinates(different[None])))
    latents = said[0].unflatten(0, (-1, FRAMES))[places]
    return rearrange(latents, "(b c) f d -> b (c f) d", b=len(levels))
