import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from acestep.diffusion.sampler import Step, euler
from acestep.diffusion.wavelet import dcw, haar, inverse_haar
from acestep.request.values import WaveletCorrection

MODES: tuple[WaveletCorrection, ...] = get_args(WaveletCorrection)


def draw(frames: int, seed: int) -> Tensor:
    return torch.randn(2, frames, 5, generator=torch.Generator().manual_seed(seed))


def step(frames: int, t: float = 0.6) -> Step:
    return Step(
        1, t, 0.4, before=draw(frames, 0), velocity=draw(frames, 1), latents=draw(frames, 2)
    )


def bands(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Haar bands by definition; an odd last frame meets a zero."""
    frames = x.shape[1]
    low, high = np.zeros((2, 2, -(-frames // 2), 5))
    for k in range(low.shape[1]):
        first = x[:, 2 * k]
        second = x[:, 2 * k + 1] if 2 * k + 1 < frames else np.zeros_like(first)
        low[:, k], high[:, k] = (first + second) / math.sqrt(2), (first - second) / math.sqrt(2)
    return low, high


def restated(s: Step, mode: str) -> np.ndarray:
    """docs/model.md as written: take both apart, correct each band, put together."""
    x = s.latents.double().numpy()
    y = (s.before.double() - s.t * s.velocity.double()).numpy()
    if mode == "pix":
        return x + 0.05 * (x - y)
    low_strength = {"low": s.t * 0.05, "double": s.t * 0.05}.get(mode, 0.0)
    high_strength = {"high": (1 - s.t) * 0.05, "double": (1 - s.t) * 0.02}.get(mode, 0.0)
    (low_x, high_x), (low_y, high_y) = bands(x), bands(y)
    low = low_x + low_strength * (low_x - low_y)
    high = high_x + high_strength * (high_x - high_y)
    whole = np.stack([low + high, low - high], axis=2) / math.sqrt(2)
    return whole.reshape(2, -1, 5)[:, : x.shape[1]]


@pytest.mark.parametrize("frames", [1, 2, 31, 32])
@pytest.mark.parametrize("mode", MODES)
def test_each_mode_agrees_with_a_plain_restatement(mode: WaveletCorrection, frames: int) -> None:
    s = step(frames)
    np.testing.assert_allclose(dcw(s, mode).numpy(), restated(s, mode), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", set(MODES) - {"off"})
def test_every_mode_but_off_changes_the_latents_in_its_own_way(mode: WaveletCorrection) -> None:
    s = step(32)
    results = {other: dcw(s, other) for other in MODES}
    assert all(
        (results[mode] - result).abs().max() > 1e-4 for m, result in results.items() if m != mode
    )


@pytest.mark.parametrize("mode", MODES)
def test_zero_scalers_are_the_identity(mode: WaveletCorrection) -> None:
    s = step(31)
    assert torch.equal(dcw(s, mode, scaler=0.0, high_scaler=0.0), s.latents)


def test_off_is_the_identity() -> None:
    s = step(31)
    assert torch.equal(dcw(s, "off"), s.latents)


@given(frames=st.integers(1, 70))
def test_haar_bands_hold_everything(frames: int) -> None:
    x = draw(frames, 3).double()
    low, high = haar(x)
    assert low.shape[1] == high.shape[1] == -(-frames // 2)
    torch.testing.assert_close(inverse_haar(low, high, frames), x, rtol=0.0, atol=1e-12)


def test_haar_keeps_the_energy_and_tells_slow_from_fast() -> None:
    x = draw(32, 4).double()
    low, high = haar(x)
    torch.testing.assert_close(low.square().sum() + high.square().sum(), x.square().sum())
    slow, none = haar(torch.ones(1, 8, 1))
    assert slow.norm() > 0 and not none.any()


def test_bfloat16_latents_are_corrected_in_float32() -> None:
    s = step(31)
    half = Step(1, s.t, s.t_next, *(y.bfloat16() for y in (s.before, s.velocity, s.latents)))
    whole = Step(
        1, s.t, s.t_next, *(y.bfloat16().float() for y in (s.before, s.velocity, s.latents))
    )
    assert torch.equal(dcw(half, "double"), dcw(whole, "double").bfloat16())


def test_correction_plugs_into_a_sampler() -> None:
    """Constant velocity 1 from 0: music is −t at every step, so pix pushes by 5 % of the rest."""
    latents = euler(
        lambda latents, t, step: torch.ones_like(latents),
        torch.zeros(1, 4, 1),
        (1.0, 0.5),
        after_step=lambda s: dcw(s, "pix"),
    )
    torch.testing.assert_close(latents, torch.full((1, 4, 1), -0.5 + 0.05 * (-0.5 + 1.0)))
