"""The songs that `latents` encoded, as trainings read them: latents beside their scores."""

from pathlib import Path

import numpy as np

from scripts.nano.data import songs
from scripts.nano.data.latents import BLOCK_SONGS
from scripts.nano.data.score import Score


class LatentLibrary:
    """Songs as latents and scores, [song, frame, channel]; takes blocks as they are written."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.latents: list[np.ndarray] = []
        self.scores: list[Score] = []
        self.held_out = np.load(folder / "held-out.npy")
        self.held_out_scores = list(songs.scores(songs.HELD_OUT, BLOCK_SONGS, seconds))

    def grow(self) -> int:
        """Read the next blocks that are there; how many songs there are."""
        while (path := self.folder / f"{len(self.scores):05d}.npy").exists():
            self.scores += songs.scores(
                songs.TRAINING + len(self.scores), BLOCK_SONGS, self.seconds
            )
            self.latents += list(np.load(path))
        return len(self.scores)
