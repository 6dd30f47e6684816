"""The one seam between the pipeline and the DiT: a velocity for latents, a time and a conditioning.

Whatever form the network takes (eager, recorded, compiled, offloaded, quantized, adapted) stands
behind this protocol.
"""

from collections.abc import Callable, Sequence
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

    Neither the text nor its keys and values change from step to step, and every take has the same:
    they are projected once for each conditioning.
    """

    def __init__(
        self,
        dit: DiT,
        null_condition: Callable[[States], States],
        device: torch.device,
        takes_at_once: int | None = None,
    ) -> None:
        """
        Args:
            takes_at_once: how many takes the network sees together; None is all of them. Memory
                grows with it.
        """
        self._dit = dit
        self._null_condition = null_condition
        self._device = device
        self._takes_at_once = takes_at_once
        self._conditioning: Conditioning | None = None
        self._context: Context = torch.empty(0, 0, 0)
        self._with_text: list[KeysValues] = []
        self._both: list[KeysValues] = []

    def velocity(self, latents: Latents, t: float, conditioning: Conditioning) -> Latents:
        self._turn_to(conditioning)
        velocities = [
            self._predict(latents[group], t, self._context[group], self._with_text)
            for group in self._groups(len(latents))
        ]
        return _joined(velocities)

    def pair(
        self, latents: Latents, t: float, conditioning: Conditioning
    ) -> tuple[Latents, Latents]:
        self._turn_to(conditioning)
        if not self._both:
            text = conditioning.states
            self._both = self._dit.keys_values(torch.cat([text, self._null_condition(text)]))
        pairs = [
            self._predict(
                latents[group].repeat(2, 1, 1), t, self._context[group].repeat(2, 1, 1), self._both
            ).chunk(2)
            for group in self._groups(len(latents))
        ]
        with_text, without = zip(*pairs, strict=True)
        return _joined(with_text), _joined(without)

    def _groups(self, takes: int) -> list[slice]:
        size = self._takes_at_once or takes
        return [slice(first, first + size) for first in range(0, takes, size)]

    def _turn_to(self, conditioning: Conditioning) -> None:
        if conditioning is self._conditioning:
            return
        self._conditioning = conditioning
        self._context = conditioning.context.to(self._device, self._dit.dtype)
        self._with_text = self._dit.keys_values(conditioning.states)
        self._both = []

    def _predict(
        self, latents: Latents, t: float, context: Context, text: list[KeysValues]
    ) -> Latents:
        """
        Args:
            text: of one row that all of the latents share, or of two that half of them have each.
        """
        # r = t: the published checkpoints are sampled without their mean-flow branch.
        times = torch.full((len(latents),), t, device=self._device)
        shared = len(latents) // len(text[0].keys)
        return self._dit(latents, times, times, [_repeated(kv, shared) for kv in text], context)


def _joined(groups: Sequence[Latents]) -> Latents:
    return groups[0] if len(groups) == 1 else torch.cat(list(groups))


def _repeated(text: KeysValues, times: int) -> KeysValues:
    """Every row `times` times, one after the other; a single row is only looked at so often."""
    if times == 1:
        return text
    if len(text.keys) == 1:
        return KeysValues(*(part.expand(times, -1, -1, -1) for part in text))
    return KeysValues(*(part.repeat_interleave(times, dim=0) for part in text))
