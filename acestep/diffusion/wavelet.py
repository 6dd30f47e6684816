"""DCW: corrects what a step does to the slow and to the fast movement of the latents.

Yu et al. 2026 (arXiv:2604.16044): a sampled state holds more noise than training's states at the
same t. So each step is corrected along its difference from the music it predicts, the slow bands
near the noise and the fast ones near the music. Haar wavelet, one level, over time, per channel.
"""

import math

import torch
from torch import Tensor

from acestep.diffusion.sampler import Step
from acestep.request.values import WaveletCorrection
from acestep.types import Latents

SCALER = 0.05
HIGH_SCALER = 0.02  # the high band's own, in mode double


def dcw(
    step: Step,
    mode: WaveletCorrection,
    scaler: float = SCALER,
    high_scaler: float = HIGH_SCALER,
) -> Latents:
    """The step's latents, with each band pushed away from the predicted music's.

    band ← band + strength · (band − band of the music). The transform is linear, so only the
    difference is taken apart and the sum of its scaled bands is added.
    """
    low_strength, high_strength = strengths(mode, step.t, scaler, high_scaler)
    if low_strength == high_strength == 0.0:
        return step.latents
    music = step.before.float() - step.t * step.velocity.float()
    low, high = haar(step.latents.float() - music)
    push = inverse_haar(low_strength * low, high_strength * high, step.latents.shape[1])
    return (step.latents.float() + push).to(step.latents.dtype)


def strengths(
    mode: WaveletCorrection, t: float, scaler: float = SCALER, high_scaler: float = HIGH_SCALER
) -> tuple[float, float]:
    """How strongly a step from time t has its low and its high band corrected.

    The low band is settled first, near the noise; the high band last, near the music.
    """
    return {
        "off": (0.0, 0.0),
        "low": (t * scaler, 0.0),
        "high": (0.0, (1 - t) * scaler),
        "double": (t * scaler, (1 - t) * high_scaler),
        "pix": (scaler, scaler),  # both bands alike: no wavelet at all
    }[mode]


def haar(latents: Latents) -> tuple[Tensor, Tensor]:
    """Low and high band over time, half as many frames each; an odd frame is paired with zero."""
    padded = torch.nn.functional.pad(latents, (0, 0, 0, latents.shape[1] % 2))
    even, odd = padded[:, 0::2], padded[:, 1::2]
    return (even + odd) / math.sqrt(2), (even - odd) / math.sqrt(2)


def inverse_haar(low: Tensor, high: Tensor, frames: int) -> Latents:
    """The first `frames` frames of what `haar` took apart."""
    pairs = torch.stack([low + high, low - high], dim=2) / math.sqrt(2)
    return pairs.flatten(1, 2)[:, :frames]
