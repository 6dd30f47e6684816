"""Holding on to the source around a repainted window, while solving and after it.

The window is True at frames that are made anew. What is done here keeps latents outside it on the
source's own path, so that the new music grows out of it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from acestep.diffusion.noise import noised
from acestep.diffusion.sampler import Step
from acestep.request.values import RepaintMode
from acestep.types import Latents, Shared

Window = Bool[Tensor, " frame"]

BLEND_FRAMES = 25  # one second, at the strongest hold


@dataclass(frozen=True)
class Hold:
    """How strongly a repaint holds on to the source outside its window.

    Attributes:
        share: of the steps, from the first, after which the outside is put back.
        blend_frames: over so many frames outside each border the result passes into the source.
    """

    share: float
    blend_frames: int

    @classmethod
    def of(cls, mode: RepaintMode, strength: float) -> "Hold":
        """`strength` is how free a balanced repaint is; the other modes ignore it."""
        firmness = {"conservative": 1.0, "aggressive": 0.0, "balanced": 1.0 - strength}[mode]
        return cls(firmness, round(BLEND_FRAMES * firmness))


@dataclass(frozen=True)
class Keeper:
    """A hold on one source, over one run of so many steps that began with `noise`."""

    hold: Hold
    source: Shared
    noise: Latents
    window: Window
    steps: int

    def after_step(self, step: Step) -> Latents:
        """The step's latents, with the source put back outside the window in the first steps."""
        if step.index >= round(self.hold.share * self.steps):
            return step.latents
        return put_back(step.latents, self.source, self.noise, self.window, step.t_next)

    def after_run(self, latents: Latents) -> Latents:
        """The run's result, passing into the source outside the window."""
        if self.hold.blend_frames == 0:
            return latents
        return blend(latents, self.source, self.window, self.hold.blend_frames)


def put_back(latents: Latents, source: Shared, noise: Latents, window: Window, t: float) -> Latents:
    """Outside the window: the source, as noisy as a run that began with `noise` is at time t."""
    return torch.where(window[:, None], latents, noised(source, noise, t))


def blend(latents: Latents, source: Shared, window: Window, frames: int) -> Latents:
    """The result passing into the source outside each border, over `frames` frames; the rest of
    the outside is the source."""
    weight = ramps(window, frames)[:, None]
    return weight * latents + (1 - weight) * source


def ramps(window: Window, frames: int) -> Float[Tensor, " frame"]:
    """1 inside the window; outside it falling evenly, to 0 at frame number `frames` + 1.

    A window that is empty or full has no border, hence no ramp.
    """
    edges = (window & ~(window.roll(1) & window.roll(-1))).nonzero().flatten()
    if len(edges) == 0:
        return window.float()
    places = torch.arange(len(window), device=window.device)
    distance = (places[:, None] - edges).abs().amin(dim=1)
    outside = (1 - distance / (frames + 1)).clamp(min=0)
    return torch.where(window, 1.0, outside)
