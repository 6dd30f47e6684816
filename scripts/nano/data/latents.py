"""Freeze the VAE's encoder and keep the songs as latents, which everything else is trained on.

    uv run python -m scripts.nano.data.latents configs/nano/acestep.toml [--freeze]

`--freeze` first gives every latent channel zero mean and unit deviation, folded into the weights on
both sides. The songs are encoded in blocks; a training that runs meanwhile takes each new block.
"""

import argparse
import tomllib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from acestep.models.config import VaeConfig
from acestep.models.vae import Vae
from scripts.nano.data import songs
from scripts.nano.data.instruments import Bank
from scripts.nano.data.render import render
from scripts.nano.paths import BLOCK_FOLDER, VAE, VAE_WEIGHTS
from scripts.nano.training.trainer import write_weights

BLOCK_SONGS = 25


def main() -> None:
    parser = argparse.ArgumentParser(description="Encode the songs.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = tomllib.loads(arguments.config.read_text())
    if arguments.freeze:
        vae = load_trained_vae()
        whiten(vae, encode_songs(load_trained_vae().fold(), songs.HELD_OUT + 500, 24, 10.0))
        write_weights(VAE / VAE_WEIGHTS, vae, torch.float32)
    vae = load_trained_vae().fold()
    BLOCK_FOLDER.mkdir(parents=True, exist_ok=True)
    plan = [(songs.HELD_OUT, "held-out")]
    plan += [(songs.TRAINING + i, f"{i:05d}") for i in range(0, config["songs"], BLOCK_SONGS)]
    for first, name in plan:
        path = BLOCK_FOLDER / f"{name}.npy"
        if not path.exists():
            block = encode_songs(vae, first, BLOCK_SONGS, config["seconds"])
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, block.numpy().astype(np.float16))
            partial.rename(path)
            print(name, f"deviation {block.std():.3f}", flush=True)


def load_trained_vae() -> Vae:
    vae = Vae(VaeConfig.read(VAE))
    vae.load_state_dict(load_file(VAE / VAE_WEIGHTS))
    return vae


def encode_songs(vae: Vae, first_seed: int, count: int, seconds: float) -> Tensor:
    """[song, frame, channel]."""
    bank = Bank()
    mixes = (render(score, bank) for score in songs.scores(first_seed, count, seconds))
    return torch.cat([vae.encode(torch.from_numpy(mix)[None], tile_frames=125) for mix in mixes])


@torch.no_grad()
def whiten(vae: Vae, latents: Tensor) -> None:
    """Zero mean and unit deviation per channel; decoding undoes it."""
    mean, deviation = latents.mean((0, 1)), latents.std((0, 1))
    out, into = vae.encoder.conv2, vae.decoder.conv1
    assert out.bias is not None and into.bias is not None
    channels = len(mean)
    out.weight_g[:channels].div_(deviation[:, None, None])
    out.bias[:channels].sub_(mean).div_(deviation)
    weight = into.weight_v * into.weight_g / into.weight_v.norm(dim=(1, 2), keepdim=True)
    into.bias.add_(torch.einsum("ock,c->o", weight, mean))
    weight = weight * deviation[:, None]
    into.weight_v.copy_(weight)
    into.weight_g.copy_(weight.norm(dim=(1, 2), keepdim=True))


if __name__ == "__main__":
    main()
