"""Holding on to the source around what is repainted, while solving and after it.

An inpaint mask is True at frames that are made anew. What is done here keeps latents outside it on
the source's own path, so that the new music grows out of it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from acestep.diffusion.noise import noised
from acestep.diffusion.sampler import Step
from acestep.request.values import RepaintMode
from acestep.types import Latents, Shared

InpaintMask = Bool[Tensor, " frame"]

BLEND_FRAMES = 25  # one second, at the strongest hold


@dataclass(frozen=True)
class InpaintConstraint:
    """How strongly a repaint is held to its source outside the mask.

    Attributes:
        mask: True at frames that are made anew.
        source: latents of the song that is held to, in their place.
        share: of the steps, from the first, after which the source is injected again.
        blend_frames: over so many frames outside each border the result passes into the source.
        injects_last: whether the last step is one of them. Where it is, only the source is left
            outside the mask, and there is nothing to blend.
    """

    mask: InpaintMask
    source: Shared
    share: float
    blend_frames: int
    injects_last: bool

    @classmethod
    def of(
        cls,
        mode: RepaintMode,
        strength: float,
        mask: InpaintMask,
        source: Shared,
        *,
        is_turbo: bool,
    ) -> "InpaintConstraint":
        """As the reference holds a repaint: a turbo run ends with its last step's prediction.

        Args:
            strength: how free a balanced repaint is; the other modes ignore it.
        """
        firmness = {"conservative": 1.0, "aggressive": 0.0, "balanced": 1.0 - strength}[mode]
        return cls(mask, source, firmness, round(BLEND_FRAMES * firmness), not is_turbo)

    def after_step(self, step: Step, noise: Latents, steps: int) -> Latents:
        """The step's latents, with the source injected outside the mask in the first of `steps`.

        Args:
            noise: what the run began with.
        """
        injected = round(self.share * steps)
        if step.index >= (injected if self.injects_last else min(injected, steps - 1)):
            return step.latents
        mask, source = self.mask.to(noise.device), self.source.to(noise)
        return reinject(step.latents, source, noise, mask, step.t_next)

    def after_run(self, latents: Latents) -> Latents:
        """The run's result, passing into the source outside the mask."""
        if self.blend_frames == 0:
            return latents
        mask, source = self.mask.to(latents.device), self.source.to(latents)
        return blend(latents, source, mask, self.blend_frames)


def reinject(
    latents: Latents, source: Shared, noise: Latents, mask: InpaintMask, t: float
) -> Latents:
    """Outside the mask: the source, as noisy as a run that began with `noise` is at time t."""
    return torch.where(mask[:, None], latents, noised(source, noise, t))


def blend(latents: Latents, source: Shared, mask: InpaintMask, frames: int) -> Latents:
    """The result passing into the source outside each border, over `frames` frames; the rest of
    the outside is the source."""
    weight = ramps(mask, frames)[:, None]
    return weight * latents + (1 - weight) * source


def ramps(mask: InpaintMask, frames: int) -> Float[Tensor, " frame"]:
    """1 inside the mask; outside it falling evenly, to 0 at frame number `frames` + 1.

    A mask that is empty or full has no border, hence no ramp.
    """
    edges = (mask & ~(mask.roll(1) & mask.roll(-1))).nonzero().flatten()
    if len(edges) == 0:
        return mask.float()
    places = torch.arange(len(mask), device=mask.device)
    distance = (places[:, None] - edges).abs().amin(dim=1)
    outside = (1 - distance / (frames + 1)).clamp(min=0)
    return torch.where(mask, 1.0, outside)
