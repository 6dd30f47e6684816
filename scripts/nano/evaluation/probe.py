"""The feature probe tells what no formula does: the voice and its syllables, drums, the style.

A small convolutional network behind the VAE's encoder, so that rendered and generated songs are
alike to it; `train_probe` trains it on the same latents of scores as the DiT. It judges; it never
trains what it judges. Its weights are kept beside this file, so that tests measure with the same
probe; they belong to one encoder.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from acestep.models.load import load_vae
from acestep.models.vae import Vae
from scripts.nano.data.codes import FRAME
from scripts.nano.data.genres import GENRES
from scripts.nano.data.render import LOUDNESS

PROBE_WEIGHTS = Path(__file__).with_name("probe.safetensors")
CHANNELS, WIDTH = 64, 64
EVENTS = ("syllable", "voice", "drum")
STYLES = tuple(GENRES)
ENCODED_FRAMES = 125  # frames that are encoded at once
# Chosen on the songs it was trained on.
SURE = {"syllable": 0.7, "voice": 0.7, "drum": 0.8}
APART = {"syllable": 3, "drum": 1}  # frames
SUNG_SECONDS = 1.2  # of voice that make a song with voice
HITS_PER_SECOND = 1.2  # of a song with drums


class Features(NamedTuple):
    """What the feature probe tells of a song."""

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


class FeatureProbe(nn.Module):
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
    def features(self, latents: Tensor) -> Features:
        """What [frame, channel] tell."""
        events, style = self(latents.T[None])
        syllable, voice, drum = events[0].sigmoid()
        hits = _peaks(drum, APART["drum"], SURE["drum"])
        return Features(
            syllables=_peaks(syllable, APART["syllable"], SURE["syllable"]),
            voice_seconds=(voice > SURE["voice"]).sum().item() * FRAME,
            hits_per_second=hits / (len(latents) * FRAME),
            style=STYLES[style[0].argmax()],
        )


class SongProbe:
    """The trained feature probe behind an encoder."""

    def __init__(self, vae: Vae, probe: FeatureProbe) -> None:
        self.vae, self.probe = vae, probe

    @classmethod
    def load(cls, vae: Path) -> "SongProbe":
        """Args:
        vae: the folder of the VAE that the probe was trained behind.
        """
        probe = FeatureProbe()
        probe.load_state_dict(load_file(PROBE_WEIGHTS))
        return cls(load_vae(vae), probe.float().eval())

    def features(self, song: Tensor) -> Features:
        """What a song, [2, sample], tells at the loudness of the scores."""
        level = song.square().mean().sqrt().clamp_min(1e-5)
        usual = (song * (LOUDNESS / level))[None]
        return self.probe.features(self.vae.encode(usual, tile_frames=ENCODED_FRAMES)[0])


def _peaks(probabilities: Tensor, apart: int, sure: float) -> int:
    """Frames that are likelier than all others `apart` around, and likelier than `sure`."""
    highest = F.max_pool1d(probabilities[None], 2 * apart + 1, 1, apart)[0]
    likely = (probabilities == highest) & (probabilities > sure)
    found: list[int] = []
    for frame in likely.nonzero().flatten().tolist():
        if not found or frame - found[-1] > apart:
            found.append(frame)
    return len(found)
