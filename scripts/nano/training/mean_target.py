"""What the DiT's first velocity is trained towards: what a song sounds like on average."""

import torch
from torch import Tensor
from torch.nn import functional as F

from scripts.nano.data.codes import FRAMES, LEVELS
from scripts.nano.data.silence import PERIOD


def mean_target(latents: Tensor, facts: Tensor | None) -> Tensor:
    """What is usual in a song at each of its frames: [frame, channel]

    That is its mean over the clock's period; with the facts of its codes, [code, dimension], the
    mean over the period while a chord lasts, and what beats and backbeats usually add to it.
    """
    frames = torch.arange(len(latents), device=latents.device)
    cells = [frames % PERIOD]
    if facts is not None:
        beat, backbeat, _, row, column = facts.repeat_interleave(FRAMES, dim=0).unbind(dim=1)
        chord = row * LEVELS[4] + column
        cells = [
            chord * PERIOD + frames % PERIOD,
            *(f * FRAMES + frames % FRAMES for f in (beat, backbeat)),
        ]
    usual = torch.zeros_like(latents)
    for cell in cells:
        share = F.one_hot(cell).to(latents)
        means = share.mT @ (latents - usual) / share.sum(dim=0)[:, None].clamp_min(1)
        usual = usual + means[cell]
    return usual
