"""Peaks of resident memory at published widths, two layers deep, each network alone. Run by
test_measured_memory.py in a process of its own; prints JSON: stage → bytes."""

import json
from collections.abc import Callable

import torch
from published_sizes import PUBLISHED_2B, PUBLISHED_VAE, qwen3
from torch import nn

from acestep.diffusion.context import Conditioning
from acestep.models.config import AceStepConfig
from acestep.models.dit import DiT
from acestep.models.qwen3 import Qwen3
from acestep.models.vae import Vae
from acestep.planner.backends.decoder import PackedQwen3, SequenceBatch
from acestep.runtime.denoiser import EagerDenoiser
from scripts.resident import peak_resident

LAYERS = 2
RENDERED, DECODED, WRITTEN = 60.0, 1.64, 240.0  # seconds of a song
TEXT, PROMPT, TAKES = 512, 300, 4


def filled(build: Callable[[], nn.Module]) -> nn.Module:
    """A network whose weights are all written, and so resident."""
    with torch.device("meta"):
        network = build()
    weights = {key: torch.full(tensor.shape, 0.01) for key, tensor in network.state_dict().items()}
    network.load_state_dict(weights, assign=True)
    return network.requires_grad_(False).eval()


def render() -> None:
    config = AceStepConfig.from_dict(PUBLISHED_2B | {"num_hidden_layers": LAYERS})
    dit = filled(lambda: DiT(config))
    assert isinstance(dit, DiT)
    frames = int(RENDERED * 25)
    conditioning = Conditioning(torch.randn(1, TEXT, 2048), torch.randn(1, frames, 128))
    denoiser = EagerDenoiser(dit, torch.zeros_like, torch.device("cpu"))
    denoiser.velocity(torch.randn(1, frames, 64), 0.5, conditioning)


def decode() -> None:
    vae = filled(lambda: Vae(PUBLISHED_VAE))
    assert isinstance(vae, Vae)
    vae.fold().decode(torch.randn(1, int(DECODED * 25), 64))


def plan() -> None:
    network = filled(lambda: Qwen3(qwen3("0.6B", num_hidden_layers=LAYERS)))
    assert isinstance(network, Qwen3)
    decoder = PackedQwen3(network)
    head = decoder.head(slice(150_000, 214_000), pack=True)
    sequences = SequenceBatch(decoder, 2, PROMPT)
    sequences.prefill([[1] * PROMPT] * 2)
    sequences = sequences.repeat(TAKES, PROMPT + int(5 * WRITTEN) + 1)
    head(sequences.states)
    sequences.decode_step(torch.ones(2 * TAKES, dtype=torch.long), PROMPT + 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        print(json.dumps({work.__name__: peak_resident(work) for work in (plan, render, decode)}))
