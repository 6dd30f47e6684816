"""A LoRA that was taught one thing does that thing, and half of it does about half.

The task is loudness: songs of the nano model at a quarter of their amplitude. PEFT trains the LoRA
on the model's own objective; the songs that are then made with it through our hooks are measured in
decibels.
"""

from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import peft
import pytest
import torch
from torch import Tensor

from acestep.diffusion.context import to_be_made
from acestep.models.dit import DiT
from acestep.models.load import load_acestep, load_silence, load_vae
from acestep.models.vae import Vae
from acestep.runtime.adapter_effect import adapter_effect
from acestep.runtime.adapter_files import read_adapter
from acestep.runtime.adapters import attached, load_adapter

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
NANO = CHECKPOINTS / "acestep-v15-nano-turbo"
TIMES = (1, 0.9545455, 0.9, 0.8333333, 0.75, 0.6428571, 0.5, 0.3, 0)  # turbo's at shift 3
FRAMES = 24  # about a second
SONGS = 6
STEPS = 150
BATCH = 2
VALUES = r".*layers\.[345]\..*\.(v|o)_proj"  # nothing is asked of the lower layers' gradients
QUIETER = 0.25  # −12 dB
LEARNING_RATE = 4e-3


class Studio(NamedTuple):
    dit: DiT
    vae: Vae
    states: Tensor
    context: Tensor

    def songs(self, seed: int) -> Tensor:
        """Latents from noise, under no text."""
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn(SONGS, FRAMES, 64, generator=generator)
        with torch.inference_mode():
            keys = self.dit.keys_values(self.states)
            for t, t_next in pairwise(TIMES):
                times = torch.full((SONGS,), float(t))
                velocity = self.dit(latents, times, times, keys, self.context)
                latents = latents + (t_next - t) * velocity
        return latents

    @torch.inference_mode()
    def quieter(self, songs: Tensor) -> Tensor:
        return self.vae.encode(self.vae.decode(songs) * QUIETER)

    @torch.inference_mode()
    def level(self, songs: Tensor) -> float:
        """RMS in dB."""
        return 20 * self.vae.decode(songs).square().mean().sqrt().log10().item()


@pytest.fixture(scope="module")
def studio() -> Studio:
    networks = load_acestep(NANO, torch.float32, parts=("decoder",))
    width = networks.config.encoder.hidden_size
    return Studio(
        networks.decoder,
        load_vae(CHECKPOINTS / "acestep-nano-vae"),
        torch.zeros(SONGS, 1, width),
        to_be_made(load_silence(NANO), FRAMES, SONGS),
    )


def train(studio: Studio, songs: Tensor, path: Path) -> None:
    """Flow matching on the songs, as the checkpoint was trained (arXiv:2209.03003)."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=VALUES)
    model = peft.get_peft_model(deepcopy(studio.dit), config)  # pyright: ignore[reportArgumentType]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 10) * (1 - step / STEPS)
    )
    states, context = studio.states[:BATCH], studio.context[:BATCH]
    for _ in range(STEPS):
        data = songs[torch.randperm(SONGS)[:BATCH]]
        noise = torch.randn_like(data)
        t = torch.sigmoid(torch.randn(2, BATCH) - 0.4).amax(0)
        mixed = t[:, None, None] * noise + (1 - t)[:, None, None] * data
        loss = (model(mixed, t, t, states, context) - (noise - data)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.save_pretrained(str(path))


def test_a_trained_lora_moves_what_it_was_taught_and_half_of_it_half_as_far(
    studio: Studio, tmp_path: Path
) -> None:
    train(studio, studio.quieter(studio.songs(seed=0)).clone(), tmp_path / "quiet")
    adapter = load_adapter(read_adapter(tmp_path / "quiet"), studio.dit)
    effect = adapter_effect(studio.dit, adapter)
    assert 0.01 < effect.output_change < 1, effect.sentence

    def level(strength: float) -> float:
        with attached(studio.dit, [(adapter, strength)]):
            return studio.level(studio.songs(seed=1))

    plain, full = level(0), level(1)
    assert full - plain < -7
    assert 0.3 < (level(0.5) - plain) / (full - plain) < 0.7
