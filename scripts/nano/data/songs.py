"""Songs that trainers draw from, composed by seed and rendered once into a file that is read back.

Training, held-out and evaluation songs come from seeds that never meet.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scripts.nano.data.instruments import RATE, Bank, Samples
from scripts.nano.data.render import render
from scripts.nano.data.score import Score, compose

TRAINING, HELD_OUT, EVALUATION = 1_000_000, 2_000_000, 3_000_000
"""First seeds."""

SONG_SECONDS = 20.0  # of a song that is measured


def scores(first_seed: int, count: int, seconds: float) -> Iterator[Score]:
    for index in range(count):
        yield compose(first_seed + index, seconds)


def rendered(path: Path, first_seed: int, count: int, seconds: float) -> Samples:
    """[song, 2, sample] float16, mapped from `path`; rendered first when it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        shape = (count, 2, round(seconds * RATE))
        pool = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
        bank = Bank()
        for index, score in enumerate(scores(first_seed, count, seconds)):
            pool[index] = render(score, bank)
        pool.flush()
        partial.rename(path)
    return np.load(path, mmap_mode="r")
