"""What the network sees beside the noise: source latents and a mask, one function per task.

A context is [batch, frame, 128]: 64 channels of source latents, then 64 equal channels of mask.
The mask is 1 where music is to be made and 0 where the source is to be kept; upstream's third
value, 2 for "decide yourself", was an accident of a cast and is not used.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from acestep.types import Context, Latents

SilenceTrack = Float[Tensor, "1 silent_frame channel"]
Song = Float[Tensor, "1 song_frame channel"]
Hints = Float[Tensor, "hint hint_frame channel"]


def text2music(
    silence_track: SilenceTrack, frames: int, batch: int, hints: Hints | None = None
) -> Context:
    """Everything is to be made; the source is silence, or a song in outline to be followed.

    Args:
        silence_track: the checkpoint's silence_latent.pt. It is neither zero nor constant.
        hints: what to follow: detokenized codes of the planner or of a song to cover, or that
            song's own latents. One row for all or one for each of `batch` takes, cut to `frames` or
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


def repaint(
    silence_track: SilenceTrack, source: Song, window: Bool[Tensor, " song_frame"], batch: int
) -> Context:
    """The source outside the window; inside it silence, at the same places of its track."""
    inside = window[:, None]
    kept = torch.where(inside, silence(silence_track, len(window)), source)
    mask = inside.to(kept).expand_as(kept)
    return torch.cat([kept, mask], dim=-1).expand(batch, -1, -1)


def placed(silence_track: SilenceTrack, latents: Song, first_frame: int, frames: int) -> Latents:
    """A song's latents from `first_frame` on, and silence from its beginning around them."""
    before = silence(silence_track, first_frame)
    after = silence(silence_track, frames - first_frame - latents.shape[1])
    return torch.cat([before, latents, after], dim=1)


def silence(track: SilenceTrack, frames: int) -> Latents:
    """The first `frames` frames of the silence track, which starts again at its end."""
    repeats = -(-frames // track.shape[1])
    return track.repeat(1, repeats, 1)[:, :frames]
