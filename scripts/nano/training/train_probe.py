"""Train the feature probe, which measures the other networks' songs.

    uv run python -m scripts.nano.training.train_probe

Needs the songs' latents (`latents`). Writes the weights beside `probe`, where tests find them.
"""

import argparse
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.nano.data import songs
from scripts.nano.data.codes import FRAME
from scripts.nano.data.latents import BLOCK_SONGS
from scripts.nano.data.score import Score
from scripts.nano.evaluation.probe import EVENTS, PROBE_WEIGHTS, STYLES, FeatureProbe, SongProbe
from scripts.nano.paths import BLOCK_FOLDER, VAE, WORK
from scripts.nano.training.trainer import Training, train, write_weights

RARE = (3.0, 1.0, 1.0)  # how much more a frame counts in which the event is
MINUTES = 60.0  # at most


def event_labels(score: Score) -> Tensor:
    """What the probe should tell of a score: [event, frame] of 0 and 1."""
    wanted = torch.zeros(len(EVENTS), round(score.duration / FRAME))

    def mark(event: str, start: float, end: float) -> None:
        wanted[EVENTS.index(event), int(start / FRAME) : int(end / FRAME) + 1] = 1

    for note in score.syllables:
        mark("voice", note.start, note.start + note.length)
        mark("syllable", note.start, note.start)
    for hit in score.hits:
        mark("drum", hit.start, hit.start)
    return wanted


class ProbeSongs:
    """The songs of the DiT's training: latents, and the labels of their events."""

    def __init__(self, batch: int = 12) -> None:
        self.batch = batch
        paths = sorted(BLOCK_FOLDER.glob("[0-9]*.npy"))
        scores: list[Score] = []
        for path in paths:
            first = songs.TRAINING + int(path.stem)
            scores += songs.scores(first, BLOCK_SONGS, songs.SONG_SECONDS)
        latents = np.concatenate([np.load(path) for path in paths])
        self.latents = torch.from_numpy(latents.astype(np.float32)).mT
        self.labels = torch.stack([event_labels(score) for score in scores])
        self.styles = torch.tensor([STYLES.index(score.genre) for score in scores])

    def losses(self, probe: nn.Module, step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(self.latents), (self.batch,), generator=generator)
        latents = self.latents[chosen]
        noise = torch.randn(latents.shape, generator=generator)
        events, styles = probe(latents + 0.15 * noise)
        return {
            "events": F.binary_cross_entropy_with_logits(
                events, self.labels[chosen], pos_weight=torch.tensor(RARE)[:, None]
            ),
            "style": 0.1 * F.cross_entropy(styles, self.styles[chosen]),
        }


class ProbeAccuracy(NamedTuple):
    """How often a probe is right of songs that it was not trained on: shares, and a correlation."""

    voice: float
    drums: float
    style: float
    syllables: float


def probe_accuracy(probe: FeatureProbe) -> ProbeAccuracy:
    """On held-out scores; the ceiling of what is said of generated songs."""
    latents = torch.from_numpy(np.load(BLOCK_FOLDER / "held-out.npy").astype(np.float32))
    scores = list(songs.scores(songs.HELD_OUT, len(latents), songs.SONG_SECONDS))
    pairs = [(score, probe.features(song)) for score, song in zip(scores, latents, strict=True)]
    sung = torch.tensor([(len(s.syllables), h.syllables) for s, h in pairs if s.syllables])
    return ProbeAccuracy(
        voice=sum(h.has_voice == bool(s.syllables) for s, h in pairs) / len(pairs),
        drums=sum(h.has_drums == (s.kit is not None) for s, h in pairs) / len(pairs),
        style=sum(h.style == s.genre for s, h in pairs) / len(pairs),
        syllables=torch.corrcoef(sung.T.float())[0, 1].item(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the feature probe.")
    parser.add_argument("--steps", type=int, default=1200)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    probe, probe_songs = FeatureProbe(), ProbeSongs()
    budget = Training(MINUTES, 3e-3, steps=steps, warmup_steps=20, weight_decay=0.01)
    train(probe, lambda step: probe_songs.losses(probe, step), budget, WORK / "training/probe")
    write_weights(PROBE_WEIGHTS, probe)
    print(f"VAE: {VAE}", probe_accuracy(SongProbe.load(VAE).probe))


if __name__ == "__main__":
    main()
