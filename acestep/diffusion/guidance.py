"""How the velocities with and without the text become one: CFG, APG and ADG.

Latents are [batch, frame, channel]. The unconditional half is the network's answer to its learned
null condition, not to an empty caption.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from acestep.diffusion.sampler import Velocity
from acestep.request.values import GuidanceRule
from acestep.types import Latents

Pair = Callable[[Latents, float, int], tuple[Latents, Latents]]  # conditional, unconditional

TIME, CHANNEL = 1, 2
MOMENTUM = -0.75  # APG: the negative sign damps what the last steps already did
NORM_THRESHOLD = 2.5  # APG: longest guidance per channel, over the whole song
MAX_ANGLE = 3.14 / 6  # ADG: upstream's pi
MAX_COSINE = 1 - 1e-6  # ADG: keeps the angle, by which it divides, above 0.0014


def guided(
    conditional: Velocity,
    pair: Pair,
    *,
    rule: GuidanceRule,
    scale: float,
    start: float = 0.0,
    end: float = 1.0,
) -> Velocity:
    """The velocity of a run under guidance. Make one per run: it carries APG's momentum.

    Guidance acts while start ≤ t ≤ end; elsewhere, and at scale 1 or less, only the conditional
    velocity is computed.

    Interval: Kynkäänniemi et al. 2024 (arXiv:2404.07724).

    Args:
        conditional: one forward of the network with the text.
        pair: one forward of a doubled batch, with and without the text.
    """
    if scale <= 1.0:
        return conditional
    previous: Latents | None = None  # APG's average before time `newest` …
    average: Latents | None = None  # … and after it
    newest = math.inf

    def velocity(latents: Latents, t: float, step: int) -> Latents:
        nonlocal previous, average, newest
        if not start <= t <= end:
            return conditional(latents, t, step)
        with_text, without_text = pair(latents, t, step)
        if rule == "cfg":
            return cfg(with_text, without_text, scale)
        if rule == "adg":
            return adg(latents, with_text, without_text, scale, t)
        # Heun looks at most times twice. Momentum is a memory of other times, so the second look
        # replaces the first. (Upstream avoids the question: its second look is plain CFG.)
        if t != newest:
            previous, newest = average, t
        result, average = apg(with_text, without_text, scale, previous)
        return result

    return velocity


def cfg(conditional: Latents, unconditional: Latents, scale: float) -> Latents:
    """Classifier-free guidance, Ho & Salimans 2022 (arXiv:2207.12598)."""
    return unconditional + scale * (conditional - unconditional)


def apg(
    conditional: Latents, unconditional: Latents, scale: float, average: Latents | None = None
) -> tuple[Latents, Latents]:
    """Adaptive projected guidance, Sadat et al. 2024 (arXiv:2410.02416), with eta 0.

    Of the guidance direction, smoothed over steps and limited in length, only the part orthogonal
    to the conditional velocity is kept: the parallel part is what oversaturates. Lengths and
    products run over time, per channel.

    Returns:
        The guided velocity, and the running average to pass at the next step (None at the first).
    """
    difference = conditional - unconditional
    average = difference if average is None else difference + MOMENTUM * average
    length = average.norm(dim=TIME, keepdim=True)
    direction = average * (NORM_THRESHOLD / length).clamp(max=1.0)
    orthogonal = _orthogonal(_double(direction), _double(conditional)).to(conditional)
    return conditional + (scale - 1) * orthogonal, average


def adg(
    latents: Latents, conditional: Latents, unconditional: Latents, scale: float, t: float
) -> Latents:
    """Angle-domain guidance, Jin et al. 2025 (arXiv:2506.11039), with the angle limited to 30°.

    Turns the predicted x0 of each frame away from its unconditional counterpart instead of
    adding to it, so its length cannot grow. Needs t > 0. In float64 throughout: the arc cosine of
    two nearly equal frames has no digits to spare.
    """
    x, v, v_null = _double(latents), _double(conditional), _double(unconditional)
    x0, x0_null = x - t * v, x - t * v_null
    cosine = torch.cosine_similarity(x0, x0_null, dim=CHANNEL, eps=1e-8).unsqueeze(CHANNEL)
    angle = cosine.clamp(-MAX_COSINE, MAX_COSINE).acos()
    rotation = ((scale - 1 + 1e-3) * angle).clamp(-MAX_ANGLE, MAX_ANGLE)
    away = x0 - x0_null
    squared = x0_null.square().sum(CHANNEL, keepdim=True) + 1e-8
    away = away - (away * x0_null).sum(CHANNEL, keepdim=True) / squared * x0_null
    guided_x0 = rotation.cos() * x0 + rotation.sin() / angle.sin() * away
    return ((x - guided_x0) / t).to(conditional)


def _orthogonal(direction: Tensor, reference: Tensor) -> Tensor:
    """The part of each channel's direction that is orthogonal, over time, to the reference."""
    unit = torch.nn.functional.normalize(reference, dim=TIME)
    return direction - (direction * unit).sum(TIME, keepdim=True) * unit


def _double(tensor: Tensor) -> Tensor:
    """In float64, where the device has it; Apple's GPUs do not, so from there to the CPU."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
