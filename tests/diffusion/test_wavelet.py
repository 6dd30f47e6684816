import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acestep.diffusion.sampler import Step, euler
from acestep.diffusion.wavelet import FILTERS, dcw, put_together, take_apart
from acestep.request.values import Wavelet, WaveletCorrection

MODES: tuple[WaveletCorrection, ...] = get_args(WaveletCorrection)
WAVELETS: tuple[Wavelet, ...] = get_args(Wavelet)
EVERY_WAVELET = pytest.mark.parametrize("wavelet", WAVELETS)
STRENGTHS = (0.05, 0.02)


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
    np.testing.assert_allclose(
        dcw(s, mode, *STRENGTHS, "haar").numpy(), restated(s, mode), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("mode", set(MODES) - {"off"})
def test_every_mode_but_off_changes_the_latents_in_its_own_way(mode: WaveletCorrection) -> None:
    s = step(32)
    results = {other: dcw(s, other, *STRENGTHS, "haar") for other in MODES}
    assert all(
        (results[mode] - result).abs().max() > 1e-4 for m, result in results.items() if m != mode
    )


@pytest.mark.parametrize("mode", MODES)
def test_zero_scalers_are_the_identity(mode: WaveletCorrection) -> None:
    s = step(31)
    assert torch.equal(dcw(s, mode, 0.0, 0.0, "haar"), s.latents)


def test_off_is_the_identity() -> None:
    s = step(31)
    assert torch.equal(dcw(s, "off", *STRENGTHS, "haar"), s.latents)


@given(frames=st.integers(1, 70), wavelet=st.sampled_from(WAVELETS))
@settings(deadline=None)
def test_the_bands_hold_everything(frames: int, wavelet: Wavelet) -> None:
    x = draw(frames, 3).double()
    bands = take_apart(x, wavelet)
    taps = len(FILTERS[wavelet])
    assert bands.shape == (2 * 5, 2, (frames + frames % 2 + taps - 1) // 2)
    torch.testing.assert_close(put_together(bands, wavelet, x.shape), x, rtol=0.0, atol=1e-10)


@EVERY_WAVELET
def test_a_wavelet_keeps_the_energy_and_tells_slow_from_fast(wavelet: Wavelet) -> None:
    x = draw(32, 4).double()
    bands = take_apart(x, wavelet)
    torch.testing.assert_close(bands.square().sum(), x.square().sum())
    taps = len(FILTERS[wavelet])
    inside = slice(taps, 32 - taps)  # away from the zeros beyond the song
    curve = torch.arange(64, dtype=torch.float64)[None, :, None] ** (taps // 2 - 1)
    slow, none = take_apart(curve, wavelet)[0, :, inside]
    assert slow.norm() > 0 and none.abs().max() < 1e-9 * slow.abs().max()


@pytest.mark.parametrize(
    ("wavelet", "low", "high"),
    [
        ("haar", [3.53553391, 8.48528137, 2.12132034], [-2.12132034, -1.41421356, 0.70710678]),
        (
            "db2",
            [-0.29349422, 4.04388081, 8.58930691, 1.80244213],
            [-1.09533535, -0.22414387, -1.02598499, -0.48296291],
        ),
        (
            "db3",
            [0.05546389, -0.2607889, 4.7788907, 8.09633731, 1.47223262],
            [-0.5237907, -0.26875735, -2.23609376, 0.04432083, 0.15589386],
        ),
        (
            "db4",
            [-0.0095066, 0.02656396, -0.14517007, 5.70505331, 7.38959283, 1.1756022],
            [-0.20666468, -0.58991868, -2.57778827, 0.63447284, -0.03445052, -0.05407782],
        ),
    ],
)
def test_the_bands_are_those_of_pywavelets(
    wavelet: Wavelet, low: list[float], high: list[float]
) -> None:
    """`pywt.dwt([1, 4, 5, 7, 2, 1], wavelet, "zero")`."""
    found = take_apart(
        torch.tensor([1.0, 4, 5, 7, 2, 1], dtype=torch.float64)[None, :, None], wavelet
    )
    torch.testing.assert_close(
        found[0], torch.tensor([low, high], dtype=torch.float64), atol=1e-7, rtol=0.0
    )


@EVERY_WAVELET
def test_each_wavelet_corrects_in_its_own_way(wavelet: Wavelet) -> None:
    s = step(32)
    found = {other: dcw(s, "double", *STRENGTHS, other) for other in WAVELETS}
    assert all((found[wavelet] - x).abs().max() > 1e-4 for w, x in found.items() if w != wavelet)


def test_bfloat16_latents_are_corrected_in_float32() -> None:
    s = step(31)
    half = Step(1, s.t, s.t_next, *(y.bfloat16() for y in (s.before, s.velocity, s.latents)))
    whole = Step(
        1, s.t, s.t_next, *(y.bfloat16().float() for y in (s.before, s.velocity, s.latents))
    )
    assert torch.equal(*(dcw(s, "double", *STRENGTHS, "haar").bfloat16() for s in (half, whole)))


def test_correction_plugs_into_a_sampler() -> None:
    """Constant velocity 1 from 0: x0 is −t at every step, so pix pushes by 5 % of the rest."""
    latents = euler(
        lambda latents, t, step: torch.ones_like(latents),
        torch.zeros(1, 4, 1),
        (1.0, 0.5),
        after_step=lambda s: dcw(s, "pix", *STRENGTHS, "haar"),
    )
    torch.testing.assert_close(latents, torch.full((1, 4, 1), -0.5 + 0.05 * (-0.5 + 1.0)))
