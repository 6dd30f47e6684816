"""What the network sees beside the noise: source latents and a mask, one function per task.

A context is [batch, frame, 128]: 64 channels of source latents, then 64 equal channels of mask.
The mask is 1 where music is to be made and 0 where the source is to be kept; upstream's third
value, 2 for "decide yourself", was an accident of a cast and is not used.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from acestep.types import Context, Latents

SilenceTrack = Float[Tensor, "1 silent_frame channel"]
Hints = Float[Tensor, "hint hint_frame channel"]


def text2music(
    silence_track: SilenceTrack, frames: int, batch: int, hints: Hints | None = None
) -> Context:
    """Everything is to be made; the source is silence, or what the planner's codes stand for.

    Args:
        silence_track: the checkpoint's silence_latent.pt. It is neither zero nor constant.
        hints: detokenized codes for all (1 row) or for each of `batch` takes, cut to `frames` or
            continued with silence from its beginning, as in training.
    """
    if hints is None:
        source = silence(silence_track, frames)
    else:
        missing = max(frames - hints.shape[1], 0)
        rest = silence(silence_track, missing).to(hints).expand(len(hints), -1, -1)
        source = torch.cat([hints[:, :frames], rest], dim=1)
    source = source.expand(batch, -1, -1)
    return torch.cat([source, torch.ones_like(source)], dim=-1)


def silence(track: SilenceTrack, frames: int) -> Latents:
    """The first `frames` frames of the silence track, which starts again at its end."""
    repeats = -(-frames // track.shape[1])
    return track.repeat(1, repeats, 1)[:, :frames]
