"""Solvers: from noise at t = 1 to latents at t = 0 along a velocity field.

All are called alike, so that `SAMPLERS` can be indexed by the request's solver:

    velocity     (latents, t, step) -> dx/dt; step counts from 0
    noise        the state at the first timestep
    timesteps    falling; the last one, usually 0, is where the run ends
    renoise      fresh noise at every call; only `sde` adds any
    after_step   may replace the latents after each step (wavelet correction, repaint)
    on_step      (steps done, steps in all) after each step; may raise to cancel
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from acestep.request.values import Solver
from acestep.types import Latents

Velocity = Callable[[Latents, float, int], Latents]
Renoise = Callable[[], Latents]
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Step:
    """One finished step from t to t_next, as `after_step` sees it.

    `velocity` is the one at (before, t), also where a solver looked again further on.
    """

    index: int
    t: float
    t_next: float
    before: Latents
    velocity: Latents
    latents: Latents


AfterStep = Callable[[Step], Latents]


class Sampler(Protocol):
    """What the solvers have in common."""

    def __call__(
        self,
        velocity: Velocity,
        noise: Latents,
        timesteps: Sequence[float],
        *,
        renoise: Renoise,
        after_step: AfterStep | None = None,
        on_step: OnStep | None = None,
    ) -> Latents: ...


def euler(
    velocity: Velocity,
    noise: Latents,
    timesteps: Sequence[float],
    *,
    renoise: Renoise | None = None,
    after_step: AfterStep | None = None,
    on_step: OnStep | None = None,
) -> Latents:
    """Integrate dx/dt = velocity, first order: one look per step.

    Rectified flow, Liu et al. 2022 (arXiv:2209.03003).
    """

    def advance(latents: Latents, v: Latents, t: float, t_next: float, step: int) -> Latents:
        return latents + (t_next - t) * v

    return _integrate(advance, velocity, noise, timesteps, after_step, on_step)


def heun(
    velocity: Velocity,
    noise: Latents,
    timesteps: Sequence[float],
    *,
    renoise: Renoise | None = None,
    after_step: AfterStep | None = None,
    on_step: OnStep | None = None,
) -> Latents:
    """Integrate dx/dt = velocity, second order: Euler, then the mean velocity of both ends.

    Karras et al. 2022 (arXiv:2206.00364), algorithm 1; like there, the step to t = 0 is Euler's,
    for the networks are not trained to answer at t = 0.
    """

    def advance(latents: Latents, v: Latents, t: float, t_next: float, step: int) -> Latents:
        predicted = latents + (t_next - t) * v
        if t_next == 0.0:
            return predicted
        return latents + (t_next - t) / 2 * (v + velocity(predicted, t_next, step))

    return _integrate(advance, velocity, noise, timesteps, after_step, on_step)


def sde(
    velocity: Velocity,
    noise: Latents,
    timesteps: Sequence[float],
    *,
    renoise: Renoise,
    after_step: AfterStep | None = None,
    on_step: OnStep | None = None,
) -> Latents:
    """Predict x0 at every step, then noise it again down to the next time.

    Multistep sampling of Song et al. 2023 (arXiv:2303.01469), algorithm 1. Follows the grid it is
    given, on base models too, where upstream's renoising forgets the shift.
    """

    def advance(latents: Latents, v: Latents, t: float, t_next: float, step: int) -> Latents:
        x0 = latents - t * v
        if t_next == 0.0:
            return x0
        return t_next * renoise().to(x0) + (1 - t_next) * x0

    return _integrate(advance, velocity, noise, timesteps, after_step, on_step)


def _integrate(
    advance: Callable[[Latents, Latents, float, float, int], Latents],
    velocity: Velocity,
    noise: Latents,
    timesteps: Sequence[float],
    after_step: AfterStep | None,
    on_step: OnStep | None,
) -> Latents:
    latents = noise
    for index, (t, t_next) in enumerate(pairwise(timesteps)):
        v = velocity(latents, t, index)
        step = Step(index, t, t_next, latents, v, advance(latents, v, t, t_next, index))
        latents = step.latents if after_step is None else after_step(step)
        if on_step is not None:
            on_step(index + 1, len(timesteps) - 1)
    return latents


SAMPLERS: Mapping[Solver, Sampler] = {"euler": euler, "heun": heun, "sde": sde}
