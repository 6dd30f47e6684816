"""The silence latent of the nano DiTs, and the clock on it that the songs' tones keep."""

import torch
from torch import Tensor

SILENCE_FRAMES = 15_000
PERIOD = 10  # frames: after 400 ms every tone of `instruments` repeats
CLOCK, CYCLES = 0.5, (1, 2)  # level of the clock; its cycles in PERIOD


def clocked_silence(silence: Tensor) -> Tensor:
    """The silence track: what the VAE makes of silence, and on it a clock.

    The tones of the synthetic songs repeat with the clock (`instruments`). Without codes to follow
    it tells the network which frame of the period is which, as codes do.
    """
    track = silence.mean(1, keepdim=True).repeat(1, SILENCE_FRAMES, 1)
    frames = torch.arange(SILENCE_FRAMES) % PERIOD
    angles = 2 * torch.pi / PERIOD * torch.outer(frames, torch.tensor(CYCLES))
    track[..., : 2 * len(CYCLES)] += CLOCK * torch.cat([angles.cos(), angles.sin()], dim=1)
    return track.to(torch.bfloat16).float()
