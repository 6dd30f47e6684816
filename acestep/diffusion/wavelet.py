"""DCW: corrects what a step does to the slow and to the fast movement of the latents.

Yu et al. 2026 (arXiv:2604.16044): a sampled state holds more noise than training's states at the
same t. So each step is corrected along its difference from the x0 it predicts, the slow bands
near the noise and the fast ones near x0. One level of an orthogonal wavelet, over time, per
channel.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from acestep.diffusion.sampler import Step
from acestep.request.values import Wavelet, WaveletCorrection
from acestep.types import Latents

WaveletBands = Float[Tensor, "line 2 band"]  # low and high; a line is a channel of a take

# Scaling filters with 1, 2, 3 and 4 vanishing moments (Daubechies 1992, Ten Lectures, table 6.1).
FILTERS: Mapping[Wavelet, tuple[float, ...]] = MappingProxyType(
    {
        "haar": (math.sqrt(0.5), math.sqrt(0.5)),
        "db2": tuple(
            (a + b * math.sqrt(3)) / math.sqrt(32) for a, b in ((1, 1), (3, 1), (3, -1), (1, -1))
        ),
        "db3": (
            0.3326705529509569, 0.8068915093133388, 0.4598775021193313,
            -0.13501102001039084, -0.08544127388224149, 0.035226291882100656,
        ),
        "db4": (
            0.23037781330885523, 0.7148465705525415, 0.6308807679295904, -0.02798376941698385,
            -0.18703481171888114, 0.030841381835986965, 0.032883011666982945,
            -0.010597401784997278,
        ),
    }
)  # fmt: skip


def dcw(
    step: Step, mode: WaveletCorrection, scaler: float, high_scaler: float, wavelet: Wavelet
) -> Latents:
    """The step's latents, with each band moved away from the predicted x0's.

    band ← band + strength · (band − band of x0). The transform is linear, so only the
    difference is taken apart and the sum of its scaled bands is added.
    """
    low_strength, high_strength = strengths(mode, step.t, scaler, high_scaler)
    if low_strength == high_strength == 0.0:
        return step.latents
    x0 = step.before.float() - step.t * step.velocity.float()
    bands = take_apart(step.latents.float() - x0, wavelet)
    scaled = bands * bands.new_tensor([[low_strength], [high_strength]])
    correction = put_together(scaled, wavelet, step.latents.shape)
    return (step.latents.float() + correction).to(step.latents.dtype)


def strengths(
    mode: WaveletCorrection, t: float, scaler: float, high_scaler: float
) -> tuple[float, float]:
    """How strongly a step from time t has its low and its high band corrected.

    The low band is settled first, near the noise; the high band last, near x0.
    """
    return {
        "off": (0.0, 0.0),
        "low": (t * scaler, 0.0),
        "high": (0.0, (1 - t) * scaler),
        "double": (t * scaler, (1 - t) * high_scaler),
        "pix": (scaler, scaler),  # both bands alike: no wavelet at all
    }[mode]


def take_apart(latents: Latents, wavelet: Wavelet) -> WaveletBands:
    """Both bands over time, half as many frames each; beyond its ends the song is zero."""
    filters = _filters(wavelet, latents)
    edge = filters.shape[-1] - 2
    lines = latents.transpose(1, 2).flatten(0, 1)[:, None]
    padded = functional.pad(lines, (edge, edge + lines.shape[-1] % 2))
    return functional.conv1d(padded, filters, stride=2)


def put_together(bands: WaveletBands, wavelet: Wavelet, shape: torch.Size) -> Latents:
    """What `take_apart` took apart, of this shape."""
    filters = _filters(wavelet, bands)
    takes, frames, channels = shape
    edge = filters.shape[-1] - 2
    lines = functional.conv_transpose1d(bands, filters, stride=2)[:, 0, edge : edge + frames]
    return lines.unflatten(0, (takes, channels)).transpose(1, 2)


def _filters(wavelet: Wavelet, like: Tensor) -> Float[Tensor, "2 1 tap"]:
    """The scaling filter and, turned round with every second sign changed, the wavelet's."""
    low = like.new_tensor(FILTERS[wavelet])
    high = low.flip(0)
    high[1::2] *= -1
    return torch.stack([low, high])[:, None]
