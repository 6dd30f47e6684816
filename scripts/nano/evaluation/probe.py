"""An ear for what no formula hears: the voice and its syllables, drums, the style.

    uv run python -m scripts.nano.evaluation.probe

A small convolutional network that listens through the VAE's encoder, so that rendered and generated
songs sound alike to it, and that learns from the same latents of scores as the DiT. It judges; it
never trains what it judges. Its weights are kept beside this file, so that tests hear with the same
ear; they belong to one encoder.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from acestep.models.load import load_vae
from acestep.models.vae import Vae
from scripts.nano.data import songs
from scripts.nano.data.codes import FRAME
from scripts.nano.data.genres import GENRES
from scripts.nano.data.latents import BLOCK, BLOCKS, VAE, WORK
from scripts.nano.data.render import LOUDNESS
from scripts.nano.data.score import Score
from scripts.nano.training.trainer import Training, train, write_weights

WEIGHTS = Path(__file__).with_name("probe.safetensors")
CHANNELS, WIDTH = 64, 64
EVENTS = ("syllable", "voice", "drum")
RARE = (3.0, 1.0, 1.0)  # how much more a frame counts in which the event is
STYLES = tuple(GENRES)
TILE = 125  # frames that are encoded at once
# Chosen on the songs it was trained on.
SURE = {"syllable": 0.7, "voice": 0.7, "drum": 0.8}
APART = {"syllable": 3, "drum": 1}  # frames
SUNG_SECONDS = 1.2  # of voice that make a song with voice
HITS_PER_SECOND = 1.2  # of a song with drums
MINUTES = 60.0  # at most


class Heard(NamedTuple):
    """What the listener makes of a song."""

    syllables: int
    voice_seconds: float
    hits_per_second: float
    style: str

    @property
    def has_voice(self) -> bool:
        return self.voice_seconds >= SUNG_SECONDS

    @property
    def has_drums(self) -> bool:
        return self.hits_per_second >= HITS_PER_SECOND


class Ear(nn.Module):
    """Latents → how likely each event is in each frame, and each style."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(CHANNELS, WIDTH, 3, padding=1)
        self.near = nn.Conv1d(WIDTH, WIDTH, 5, padding=2)
        self.far = nn.Conv1d(WIDTH, WIDTH, 5, padding=4, dilation=2)
        self.events = nn.Conv1d(WIDTH, len(EVENTS), 1)
        self.style = nn.Linear(3 * WIDTH, len(STYLES))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """[song, channel, frame] → logits [song, event, frame] and [song, style]."""
        x = F.gelu(self.first(latents))
        for layer in (self.near, self.far):
            x = x + F.gelu(layer(F.dropout(x, 0.1, self.training)))
        pooled = torch.cat([x.mean(2), x.std(2), x.amax(2)], dim=1)
        return self.events(x), self.style(pooled)

    @torch.no_grad()
    def judge(self, latents: Tensor) -> Heard:
        """[frame, channel]"""
        events, style = self(latents.T[None])
        syllable, voice, drum = events[0].sigmoid()
        hits = _peaks(drum, APART["drum"], SURE["drum"])
        return Heard(
            syllables=_peaks(syllable, APART["syllable"], SURE["syllable"]),
            voice_seconds=(voice > SURE["voice"]).sum().item() * FRAME,
            hits_per_second=hits / (len(latents) * FRAME),
            style=STYLES[style[0].argmax()],
        )


class Listener:
    """The trained ear behind an encoder."""

    def __init__(self, vae: Vae, ear: Ear) -> None:
        self.vae, self.ear = vae, ear

    @classmethod
    def load(cls, vae: Path) -> "Listener":
        """Args:
        vae: the folder of the VAE that the ear was trained behind.
        """
        ear = Ear()
        ear.load_state_dict(load_file(WEIGHTS))
        return cls(load_vae(vae), ear.float().eval())

    def hear(self, song: Tensor) -> Heard:
        """Judge a song, [2, sample], at the loudness of the scores."""
        level = song.square().mean().sqrt().clamp_min(1e-5)
        usual = (song * (LOUDNESS / level))[None]
        return self.ear.judge(self.vae.encode(usual, tile_frames=TILE)[0])


def labels(score: Score) -> Tensor:
    """What is to be heard of a score: [event, frame] of 0 and 1."""
    wanted = torch.zeros(len(EVENTS), round(score.duration / FRAME))

    def mark(event: str, start: float, end: float) -> None:
        wanted[EVENTS.index(event), int(start / FRAME) : int(end / FRAME) + 1] = 1

    for note in score.syllables:
        mark("voice", note.start, note.start + note.length)
        mark("syllable", note.start, note.start)
    for hit in score.hits:
        mark("drum", hit.start, hit.start)
    return wanted


class Lessons:
    """The songs of the DiT's training: latents, and what is to be heard in them."""

    def __init__(self, batch: int = 12) -> None:
        self.batch = batch
        paths = sorted(BLOCKS.glob("[0-9]*.npy"))
        scores = [
            score for path in paths
            for score in songs.scores(songs.TRAINING + int(path.stem), BLOCK, 20.0)
        ]  # fmt: skip
        latents = np.concatenate([np.load(path) for path in paths])
        self.latents = torch.from_numpy(latents.astype(np.float32)).mT
        self.labels = torch.stack([labels(score) for score in scores])
        self.styles = torch.tensor([STYLES.index(score.genre) for score in scores])

    def losses(self, ear: nn.Module, step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(self.latents), (self.batch,), generator=generator)
        latents = self.latents[chosen]
        noise = torch.randn(latents.shape, generator=generator)
        events, styles = ear(latents + 0.15 * noise)
        return {
            "events": F.binary_cross_entropy_with_logits(
                events, self.labels[chosen], pos_weight=torch.tensor(RARE)[:, None]
            ),
            "style": 0.1 * F.cross_entropy(styles, self.styles[chosen]),
        }


class Check(NamedTuple):
    """How well an ear hears songs that it was not trained on: shares, and a correlation."""

    voice: float
    drums: float
    style: float
    syllables: float


def check(ear: Ear) -> Check:
    """Against held-out scores; the ceiling of what is said of generated songs."""
    latents = torch.from_numpy(np.load(BLOCKS / "held-out.npy").astype(np.float32))
    scores = list(songs.scores(songs.HELD_OUT, len(latents), 20.0))
    pairs = [(score, ear.judge(song)) for score, song in zip(scores, latents, strict=True)]
    sung = torch.tensor([(len(s.syllables), h.syllables) for s, h in pairs if s.syllables])
    return Check(
        voice=sum(h.has_voice == bool(s.syllables) for s, h in pairs) / len(pairs),
        drums=sum(h.has_drums == (s.kit is not None) for s, h in pairs) / len(pairs),
        style=sum(h.style == s.genre for s, h in pairs) / len(pairs),
        syllables=torch.corrcoef(sung.T.float())[0, 1].item(),
    )


def _peaks(probabilities: Tensor, apart: int, sure: float) -> int:
    """Frames that are likelier than all others `apart` around, and likelier than `sure`."""
    highest = F.max_pool1d(probabilities[None], 2 * apart + 1, 1, apart)[0]
    likely = (probabilities == highest) & (probabilities > sure)
    found: list[int] = []
    for frame in likely.nonzero().flatten().tolist():
        if not found or frame - found[-1] > apart:
            found.append(frame)
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the listener.")
    parser.add_argument("--steps", type=int, default=1200)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ear, lessons = Ear(), Lessons()
    budget = Training(MINUTES, 3e-3, steps=steps, warmup_steps=20, weight_decay=0.01)
    train(ear, lambda step: lessons.losses(ear, step), budget, WORK / "training/listener")
    write_weights(WEIGHTS, ear)
    print(f"VAE: {VAE}", check(Listener.load(VAE).ear))


if __name__ == "__main__":
    main()
