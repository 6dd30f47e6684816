"""The one seam between the pipeline and the DiT: a velocity for latents, a time and a conditioning.

Whatever form the network takes (eager, recorded, compiled, offloaded, quantized, adapted) stands
behind this protocol.
"""

from collections.abc import Callable
from typing import Protocol

import torch

from acestep.diffusion.context import Conditioning
from acestep.models.dit import DiT
from acestep.models.layers import KeysValues
from acestep.types import Context, Latents, States


class Denoiser(Protocol):
    """The DiT as the pipeline sees it. `t` is 1 at noise and 0 at clean latents."""

    def velocity(self, latents: Latents, t: float, conditioning: Conditioning) -> Latents:
        """The velocity under the text."""
        ...

    def pair(
        self, latents: Latents, t: float, conditioning: Conditioning
    ) -> tuple[Latents, Latents]:
        """The velocities with and without the text, in one batch."""
        ...


class EagerDenoiser:
    """The network as it is written.

    Neither the text nor its keys and values change from step to step, so they are projected once
    for each conditioning.
    """

    def __init__(
        self, dit: DiT, null_condition: Callable[[States], States], device: torch.device
    ) -> None:
        self._dit = dit
        self._null_condition = null_condition
        self._device = device
        self._conditioning: Conditioning | None = None
        self._context: Context = torch.empty(0, 0, 0)
        self._with_text: list[KeysValues] = []
        self._both: list[KeysValues] = []

    def velocity(self, latents: Latents, t: float, conditioning: Conditioning) -> Latents:
        self._turn_to(conditioning)
        return self._predict(latents, t, self._with_text)

    def pair(
        self, latents: Latents, t: float, conditioning: Conditioning
    ) -> tuple[Latents, Latents]:
        self._turn_to(conditioning)
        if not self._both:
            text = self._states(conditioning)
            self._both = self._dit.keys_values(torch.cat([text, self._null_condition(text)]))
        both = self._predict(latents.repeat(2, 1, 1), t, self._both)
        return both[: len(latents)], both[len(latents) :]

    def _turn_to(self, conditioning: Conditioning) -> None:
        if conditioning is self._conditioning:
            return
        self._conditioning = conditioning
        self._context = conditioning.context.to(self._device, self._dit.dtype)
        self._with_text = self._dit.keys_values(self._states(conditioning))
        self._both = []

    def _states(self, conditioning: Conditioning) -> States:
        """The text's states for every take."""
        return conditioning.states.expand(len(conditioning.context), -1, -1)

    def _predict(self, latents: Latents, t: float, text: list[KeysValues]) -> Latents:
        # r = t: the published checkpoints are sampled without their mean-flow branch.
        times = torch.full((len(latents),), t, device=self._device)
        rows = len(latents) // len(self._context)
        return self._dit(latents, times, times, text, self._context.repeat(rows, 1, 1))
