"""The source latents of codes: the detokenizer's own training, before the DiT's begins.

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
from scripts.nano.data.codes import FRAMES, LEVELS, score_codes
from scripts.nano.data.score import Score

BATCH = 256  # codes of a step


@dataclass(frozen=True)
class CodeMeans:
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
            written = torch.tensor(score_codes(score))
            frames = torch.from_numpy(latents.astype(np.float32)).unflatten(0, (-1, FRAMES))
            sums.index_add_(0, written, frames)
            counts.index_add_(0, written, torch.ones(len(written)))
        used = counts.nonzero().flatten()
        return cls(used, counts[used], sums[used] / counts[used, None, None])


class DetokenizerObjective(nn.Module):
    """The part of the networks that makes source latents of codes."""

    def __init__(self, model: AceStep, means: CodeMeans) -> None:
        super().__init__()
        self.detokenizer = model.detokenizer
        self.project_out = model.tokenizer.quantizer.project_out
        self._model, self._means = [model], means  # a list: its other weights are not to be trained

    def losses(self, step: int) -> dict[str, Tensor]:
        """How far the latents of some codes are from their means, frequent codes counting more."""
        (model,), means = self._model, self._means
        probability = means.counts.sqrt()
        generator = torch.Generator().manual_seed(step)
        chosen = torch.multinomial(probability, min(BATCH, len(probability)), generator=generator)
        levels = model.tokenizer.quantizer.unfold(means.codes[chosen][None])
        made = rearrange(source_latents(model, levels), "1 (c f) d -> c f d", f=FRAMES)
        wrong = (made - means.latents[chosen]).square().mean((1, 2))
        weight = means.counts[chosen] / probability[chosen]  # as if drawn by their counts
        return {"means": (weight * wrong).sum() / weight.sum()}


def source_latents(model: AceStep, levels: Int[Tensor, "song code dimension"]) -> Tensor:
    """What the detokenizer makes of codes; each different code is worked out once."""
    quantizer = model.tokenizer.quantizer
    different, places = levels.flatten(0, 1).unique(dim=0, return_inverse=True)
    made = model.detokenizer(quantizer.project(quantizer.coordinates(different[None])))
    latents = made[0].unflatten(0, (-1, FRAMES))[places]
    return rearrange(latents, "(b c) f d -> b (c f) d", b=len(levels))
