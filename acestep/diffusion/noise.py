"""Seeded noise: every take has its own streams, drawn in fp32 on the CPU.

So a take sounds the same alone or among others, and a CPU and a GPU start from the same noise.
"""

from collections.abc import Sequence
from itertools import count

import torch

from acestep.diffusion.sampler import Renoise
from acestep.seeds import generator
from acestep.types import Latents, Shared


def draw_noise(seeds: Sequence[int], frames: int, channels: int, *, name: str = "noise") -> Latents:
    """Standard normal noise, one row per seed; `name` is the purpose it is drawn for."""
    return torch.stack(
        [torch.randn(frames, channels, generator=generator(seed, name)) for seed in seeds]
    )


def noised(latents: Shared, noise: Latents, t: float) -> Latents:
    """The state at time t on the straight path from `noise` (t = 1) to `latents` (t = 0)."""
    return t * noise + (1 - t) * latents


def renoise(seeds: Sequence[int], frames: int, channels: int) -> Renoise:
    """Fresh noise at every call, for the SDE sampler's steps in order."""
    steps = count()
    return lambda: draw_noise(seeds, frames, channels, name=f"renoise/{next(steps)}")
