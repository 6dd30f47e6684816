"""The times at which the network is asked, from 1 (noise) down to 0 (clean latents).

Python floats: upstream rounds its grid to bf16, which moves base's times by up to 0.007 and makes
some steps of a 50-step grid zero long.
"""

from collections.abc import Sequence
from fractions import Fraction

# Every time that the turbo checkpoints were distilled at: eight even steps under shift 1, 2 and 3.
TURBO_TIMES = tuple(
    float(time)
    for time in sorted(
        {Fraction(s * k, 8 + (s - 1) * k) for s in (1, 2, 3) for k in range(1, 9)}, reverse=True
    )
)


def shifted(t: float, shift: float) -> float:
    """Move a time towards the noise; shift 1 leaves it where it is, 0 and 1 never move.

    Esser et al. 2024 (arXiv:2403.03206), section 5.3.2.
    """
    return shift * t / (1 + (shift - 1) * t)


def timesteps(
    *, is_turbo: bool, steps: int, shift: float, custom: Sequence[float] | None = None
) -> tuple[float, ...]:
    """The times of a run: one per step, then the terminal 0.

    Args:
        is_turbo: turbo networks know 20 times only, so custom times go to the nearest of them.
        steps: solver steps, evenly spaced before the shift.
        shift: see `shifted`; any value, also between the turbo checkpoints' 1, 2 and 3.
        custom: falling times that replace steps and shift, with or without the terminal 0.
    """
    if custom is None:
        return (*(shifted((steps - i) / steps, shift) for i in range(steps)), 0.0)
    times = [t for t in custom if t > 0.0]
    if is_turbo:
        # Neighbours may meet at one value: once is enough, for a step of length 0 goes nowhere.
        times = list(dict.fromkeys(nearest_turbo_time(t) for t in times))
    return (*times, 0.0)


def from_level(times: Sequence[float], level: float) -> tuple[float, ...]:
    """The part of a run that begins at the time nearest to `level`; at least one step is left."""
    start = min(range(len(times) - 1), key=lambda i: abs(times[i] - level))
    return tuple(times[start:])


def nearest_turbo_time(t: float) -> float:
    """The time closest to t among those the turbo checkpoints were distilled at."""
    return min(TURBO_TIMES, key=lambda time: abs(time - t))
