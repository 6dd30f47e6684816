import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from acestep.diffusion.noise import draw_noise, renoise
from acestep.diffusion.sampler import SAMPLERS, Step, euler, heun, sde
from acestep.diffusion.schedule import timesteps
from acestep.errors import Cancelled
from acestep.request.values import Solver

NOISE = draw_noise([3], frames=20, channels=4)
MUSIC = torch.linspace(-2.0, 2.0, 80).reshape(1, 20, 4)


def no_renoise() -> Tensor:
    raise AssertionError("an ODE solver asked for noise")


def straight(latents: Tensor, t: float, step: int = 0) -> Tensor:
    """The velocity of a perfect network that knows one song: all paths are straight lines to it."""
    return (latents - MUSIC) / t


def test_every_solver_of_the_request_has_a_sampler() -> None:
    assert set(SAMPLERS) == set(get_args(Solver))


@given(steps=st.integers(1, 60), shift=st.floats(1.0, 5.0))
def test_euler_is_exact_for_a_constant_velocity(steps: int, shift: float) -> None:
    noise, constant = NOISE.double(), NOISE.double() - MUSIC
    grid = timesteps(is_turbo=False, steps=steps, shift=shift)
    latents = euler(lambda latents, t, step: constant, noise, grid)
    torch.testing.assert_close(latents, MUSIC.double(), rtol=0.0, atol=1e-12)


@given(steps=st.integers(1, 30), end=st.floats(0.05, 0.9))
def test_heun_is_exact_for_a_velocity_linear_in_time(steps: int, end: float) -> None:
    grid = tuple(1.0 - (1.0 - end) * i / steps for i in range(steps + 1))
    latents = heun(lambda x, t, step: 3.0 * torch.ones_like(x) * t, NOISE.double(), grid)
    expected = NOISE.double() - 1.5 * (1.0 - grid[-1] ** 2)
    torch.testing.assert_close(latents, expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_halving_the_steps_length_divides_the_error_by_two_to_the_order(
    solver: Solver, order: int
) -> None:
    """dx/dt = x, so x(t) = x(1)·e^(t − 1); compared at t = 1/2."""
    errors = []
    for steps in (32, 64):
        grid = tuple(1.0 - 0.5 * i / steps for i in range(steps + 1))
        latents = SAMPLERS[solver](lambda x, t, step: x, NOISE.double(), grid, renoise=no_renoise)
        errors.append((latents - NOISE * math.exp(-0.5)).norm().item())
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.05)


def test_heun_looks_twice_per_step_but_never_at_t_0() -> None:
    times: list[float] = []

    def velocity(latents: Tensor, t: float, step: int = 0) -> Tensor:
        times.append(t)
        return latents

    heun(velocity, NOISE, (1.0, 0.6, 0.3, 0.0))
    assert times == [1.0, 0.6, 0.6, 0.3, 0.3]


@pytest.mark.parametrize("solver", SAMPLERS)
def test_every_sampler_reaches_x0_along_straight_paths(solver: Solver) -> None:
    grid = timesteps(is_turbo=True, steps=8, shift=3.0)
    latents = SAMPLERS[solver](straight, NOISE, grid, renoise=renoise([3], 20, 4))
    torch.testing.assert_close(latents, MUSIC, rtol=0.0, atol=1e-5)


def test_sde_noises_the_predicted_x0_down_to_the_next_time_of_the_grid() -> None:
    fresh = draw_noise([3], 20, 4, name="renoise/0")
    latents = sde(straight, NOISE, (1.0, 0.3), renoise=renoise([3], 20, 4))
    torch.testing.assert_close(latents, 0.3 * fresh + 0.7 * MUSIC)


def test_sde_keeps_the_statistics_of_every_noise_level() -> None:
    """Between steps the state of a perfect network has mean (1 − t)·x0 and deviation t."""
    noise = draw_noise([5], frames=4000, channels=8)
    x0 = torch.full_like(noise, 2.0)
    steps: list[Step] = []

    def record(step: Step) -> Tensor:
        steps.append(step)
        return step.latents

    sde(
        lambda x, t, step: (x - x0) / t,
        noise,
        timesteps(is_turbo=True, steps=8, shift=3.0),
        renoise=renoise([5], 4000, 8),
        after_step=record,
    )
    assert len(steps) == 8
    for step in steps:  # 32,000 draws: the mean's own deviation is 0.0056·t
        assert step.latents.mean().item() == pytest.approx(2 * (1 - step.t_next), abs=0.03)
        assert step.latents.std().item() == pytest.approx(step.t_next, abs=0.02)


def test_sde_is_reproduced_by_its_seed_and_by_no_other() -> None:
    def run(seed: int) -> Tensor:
        return sde(
            lambda latents, t, step: torch.tanh(latents) * t,
            NOISE,
            timesteps(is_turbo=True, steps=4, shift=3.0),
            renoise=renoise([seed], 20, 4),
        )

    assert torch.equal(run(7), run(7))
    assert not torch.equal(run(7), run(8))


def test_sde_draws_no_noise_for_the_last_step() -> None:
    draws: list[Tensor] = []

    def count() -> Tensor:
        draws.append(NOISE)
        return NOISE

    sde(straight, NOISE, (1.0, 0.5, 0.0), renoise=count)
    assert len(draws) == 1


@pytest.mark.parametrize("solver", SAMPLERS)
def test_what_after_step_returns_is_where_the_next_step_starts(solver: Solver) -> None:
    steps: list[Step] = []

    def reset(step: Step) -> Tensor:
        steps.append(step)
        return torch.full_like(step.latents, step.index)

    latents = SAMPLERS[solver](
        lambda latents, t, step: latents + t,
        NOISE,
        (1.0, 0.75, 0.25, 0.0),
        renoise=renoise([3], 20, 4),
        after_step=reset,
    )
    assert [(s.index, s.t, s.t_next) for s in steps] == [
        (0, 1.0, 0.75),
        (1, 0.75, 0.25),
        (2, 0.25, 0.0),
    ]
    assert torch.equal(steps[0].before, NOISE)
    assert torch.equal(steps[2].before, torch.ones_like(NOISE))
    for step in steps:
        assert torch.equal(step.velocity, step.before + step.t)
    torch.testing.assert_close(steps[2].latents, torch.full_like(NOISE, 1.0 - 0.25 * 1.25))
    assert torch.equal(latents, torch.full_like(NOISE, 2.0))


@pytest.mark.parametrize("solver", SAMPLERS)
def test_on_step_counts_to_the_number_of_steps_and_may_cancel(solver: Solver) -> None:
    calls: list[tuple[int, int]] = []

    def on_step(done: int, total: int) -> None:
        calls.append((done, total))
        if done == 3:
            raise Cancelled

    grid = timesteps(is_turbo=True, steps=8, shift=3.0)
    with pytest.raises(Cancelled):
        SAMPLERS[solver](straight, NOISE, grid, renoise=renoise([3], 20, 4), on_step=on_step)
    assert calls == [(1, 8), (2, 8), (3, 8)]
