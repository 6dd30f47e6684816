"""One seed per take; everything random is drawn from it by name."""

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MAX_SEED = 2**32 - 1


def draw_seed() -> int:
    """A seed nobody chose."""
    return random.SystemRandom().randrange(MAX_SEED + 1)


def take_seed(seed: int, take: int) -> int:
    """The seed of take number `take` (from 0): consecutive, so a favourite can be named alone."""
    return (seed + take) % (MAX_SEED + 1)


def generator(seed: int, name: str) -> "torch.Generator":
    """A CPU generator for one purpose of one take.

    The state depends on both the seed and the name, so drawing more of one thing (planner tokens,
    say) never shifts another (the noise). CPU, because its stream is the same on every machine.
    """
    import torch  # requests know seeds too, and need no torch

    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
