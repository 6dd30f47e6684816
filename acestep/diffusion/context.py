"""What the network sees beside the noise: source latents and a mask.

A context is [batch, frame, 128]: 64 channels of source latents, then 64 equal channels of mask.
The mask is 1 where music is to be made and 0 where the source is to be kept; upstream's third
value, 2 for "decide yourself", was an accident of a cast and is not used.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from acestep.types import Context, Latents

SilenceTrack = Float[Tensor, "1 silent_frame channel"]
Song = Float[Tensor, "1 song_frame channel"]
Guides = Float[Tensor, "row guide_frame channel"]


@dataclass(frozen=True)
class Conditioning:
    """What the DiT is told in one step: states to attend to, shared by all takes, and each take's
    context."""

    states: Float[Tensor, "1 token width"]
    context: Context


def to_be_made(
    silence_track: SilenceTrack, frames: int, batch: int, source_latents: Guides | None = None
) -> Context:
    """Everything is to be made; the source is silence, or a song in outline to be followed.

    Args:
        silence_track: the checkpoint's silence_latent.pt. It is neither zero nor constant.
        source_latents: what to follow: detokenized codes of the planner or of a song to cover, or
            that song's own latents. One row for all or one for each of `batch` takes, cut to
            `frames` or continued with silence from its beginning, as in training.
    """
    if source_latents is None:
        source = silence(silence_track, frames)
    else:
        missing = max(frames - source_latents.shape[1], 0)
        rest = silence(silence_track, missing).to(source_latents)
        rest = rest.expand(len(source_latents), -1, -1)
        source = torch.cat([source_latents[:, :frames], rest], dim=1)
    source = source.expand(batch, -1, -1)
    return torch.cat([source, torch.ones_like(source)], dim=-1)


def inpainted(
    silence_track: SilenceTrack, source: Song, inpaint_mask: Bool[Tensor, " song_frame"], batch: int
) -> Context:
    """The source outside the mask; inside it silence, at the same places of its track."""
    inside = inpaint_mask[:, None]
    kept = torch.where(inside, silence(silence_track, len(inpaint_mask)), source)
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
