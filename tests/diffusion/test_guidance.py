import math

import numpy as np
import pytest
import torch
from torch import Tensor

from acestep.diffusion.guidance import MOMENTUM, NORM_THRESHOLD, adg, apg, cfg, guided
from acestep.diffusion.sampler import heun
from acestep.request.values import GuidanceRule

RULES: tuple[GuidanceRule, ...] = ("apg", "cfg", "adg")


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Network:
    """Counts what is asked of it; its answers depend on both state and time."""

    def __init__(self) -> None:
        self.alone: list[float] = []
        self.paired: list[float] = []

    def conditional(self, latents: Tensor, t: float, step: int = 0) -> Tensor:
        self.alone.append(t)
        return torch.tanh(latents) + t

    def pair(self, latents: Tensor, t: float, step: int = 0) -> tuple[Tensor, Tensor]:
        self.paired.append(t)
        return torch.tanh(latents) + t, torch.cos(latents) * t


def test_cfg_extrapolates_from_the_unconditional_velocity() -> None:
    torch.testing.assert_close(
        cfg(torch.tensor([[[3.0]]]), torch.tensor([[[1.0]]]), 7.0), torch.tensor([[[15.0]]])
    )


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rule", RULES)
def test_scale_of_one_or_less_is_the_conditional_velocity(rule: GuidanceRule, scale: float) -> None:
    network = Network()
    latents = draw(2, 9, 4)
    velocity = guided(network.conditional, network.pair, rule=rule, scale=scale)
    assert torch.equal(velocity(latents, 0.5, 0), torch.tanh(latents) + 0.5)
    assert network.paired == []


def test_apg_of_equal_velocities_is_that_velocity() -> None:
    v = draw(2, 9, 4)
    velocity, average = apg(v, v.clone(), 7.0)
    assert torch.equal(velocity, v)
    assert not average.any()


def test_apg_adds_nothing_along_the_conditional_velocity() -> None:
    v, v_null = draw(2, 31, 4), draw(2, 31, 4, seed=1)
    velocity, _ = apg(v.double(), v_null.double(), 7.0)
    along = ((velocity - v) * v).sum(dim=1)
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-12, rtol=0.0)
    assert (velocity - v).norm() > 1.0


def test_apg_limits_the_direction_over_time_per_channel() -> None:
    v = torch.zeros(1, 50, 2)
    v[:, 0] = 1.0  # orthogonal to what follows, so the projection changes nothing
    v_null = v.clone()
    v_null[:, 1:, 0] -= 100.0  # channel 0 is far over the threshold
    v_null[:, 1:, 1] -= 0.1  # channel 1 is under it
    velocity, _ = apg(v, v_null, 3.0)
    lengths = (velocity - v).norm(dim=1)[0]
    assert lengths[0].item() == pytest.approx(2.0 * NORM_THRESHOLD, rel=1e-6)
    assert lengths[1].item() == pytest.approx(2.0 * 0.1 * math.sqrt(49), rel=1e-6)


def test_apg_agrees_with_a_plain_restatement_over_three_steps() -> None:
    """Float64 numpy, channel by channel, with the threshold both passed and not."""
    ours, theirs = None, np.zeros((2, 40, 6))
    for step in range(3):
        v = draw(2, 40, 6, seed=step)
        v_null = v - draw(2, 40, 6, seed=step + 9) * torch.tensor([3.0, 1.0, 0.3, 0.1, 0.03, 0.01])
        velocity, ours = apg(v, v_null, 7.0, ours)
        theirs = (v - v_null).numpy() + MOMENTUM * theirs
        expected = v.double().numpy()
        for b, c in np.ndindex(2, 6):
            direction = theirs[b, :, c]
            direction = direction * min(1.0, NORM_THRESHOLD / np.sqrt(np.sum(direction**2)))
            reference = v[b, :, c].double().numpy()
            reference = reference / np.sqrt(np.sum(reference**2))
            expected[b, :, c] += 6.0 * (direction - np.sum(direction * reference) * reference)
        np.testing.assert_allclose(velocity.numpy(), expected, rtol=1e-5, atol=1e-5)


def restated_adg(x: np.ndarray, v: np.ndarray, v_null: np.ndarray, w: float, t: float):
    """docs/model.md, frame by frame in float64."""
    out = np.empty_like(x)
    kappa = max(w - 1, 0) + 1e-3
    for b, f in np.ndindex(x.shape[:2]):
        a, n = x[b, f] - t * v[b, f], x[b, f] - t * v_null[b, f]
        cosine = a @ n / (np.linalg.norm(a) * np.linalg.norm(n))
        theta = np.arccos(np.clip(cosine, -(1 - 1e-6), 1 - 1e-6))
        turned = np.clip(kappa * theta, -3.14 / 6, 3.14 / 6)
        p = (a - n) - ((a - n) @ n) / (n @ n + 1e-8) * n
        away = np.sin(turned) / np.sin(theta) if np.sin(theta) > 1e-3 else kappa
        out[b, f] = (x[b, f] - (np.cos(turned) * a + away * p)) / t
    return out


@pytest.mark.parametrize("apart", [1.0, 1e-2, 1e-4, 0.0])
@pytest.mark.parametrize("t", [1.0, 0.3])
def test_adg_agrees_with_a_plain_restatement(t: float, apart: float) -> None:
    x, v = draw(2, 11, 8), draw(2, 11, 8, seed=1)
    v_null = v + apart * draw(2, 11, 8, seed=2)
    expected = restated_adg(*(y.double().numpy() for y in (x, v, v_null)), w=7.0, t=t)
    ours = adg(x, v, v_null, 7.0, t)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_adg_agrees_with_the_restatement_for_opposite_predictions() -> None:
    x, v = torch.zeros(1, 3, 8), draw(1, 3, 8)
    v_null = -v + 0.01 * draw(1, 3, 8, seed=1)
    expected = restated_adg(*(y.double().numpy() for y in (x, v, v_null)), w=3.0, t=0.5)
    np.testing.assert_allclose(adg(x, v, v_null, 3.0, 0.5).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_outside_the_interval_only_the_conditional_velocity_is_computed(rule: GuidanceRule) -> None:
    network = Network()
    velocity = guided(network.conditional, network.pair, rule=rule, scale=7.0, start=0.25, end=0.75)
    latents = draw(1, 9, 4)
    for t in (1.0, 0.75, 0.5, 0.25, 0.2):
        result = velocity(latents, t, 0)
        is_guided = not torch.equal(result, torch.tanh(latents) + t)
        assert is_guided == (0.25 <= t <= 0.75)
    assert network.paired == [0.75, 0.5, 0.25]  # both borders belong to it
    assert network.alone == [1.0, 0.2]


def test_momentum_remembers_the_steps_inside_the_interval_only() -> None:
    network, latents = Network(), draw(1, 9, 4, scale=0.1)
    velocity = guided(network.conditional, network.pair, rule="apg", scale=7.0, end=0.75)
    results = [velocity(latents, t, 0) for t in (1.0, 0.9, 0.7, 0.6)]
    third, average = apg(*network.pair(latents, 0.7), 7.0)
    fourth, _ = apg(*network.pair(latents, 0.6), 7.0, average)
    assert torch.equal(results[2], third)
    assert torch.equal(results[3], fourth)
    assert not torch.equal(fourth, apg(*network.pair(latents, 0.6), 7.0)[0])


def test_momentum_counts_both_looks_of_heun_at_one_time_once() -> None:
    """The corrector of step 1 and the predictor of step 2 both look at t = 0.5."""
    network, latents = Network(), draw(1, 9, 4, scale=0.1)
    velocity = guided(network.conditional, network.pair, rule="apg", scale=7.0)
    result = heun(velocity, latents, (1.0, 0.5, 0.0))
    first, average = apg(*network.pair(latents, 1.0), 7.0)
    corrector, _ = apg(*network.pair(latents - 0.5 * first, 0.5), 7.0, average)
    middle = latents - 0.25 * (first + corrector)
    last, _ = apg(*network.pair(middle, 0.5), 7.0, average)
    torch.testing.assert_close(result, middle - 0.5 * last)


def test_each_run_starts_without_momentum() -> None:
    network, latents = Network(), draw(1, 9, 4)
    runs = [guided(network.conditional, network.pair, rule="apg", scale=7.0) for _ in range(2)]
    assert torch.equal(runs[0](latents, 1.0, 0), runs[1](latents, 1.0, 0))
