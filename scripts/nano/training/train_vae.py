"""Train the nano VAE.

    uv run python -m scripts.nano.training.train_vae configs/nano/vae.toml

With `--freeze-encoder --start FOLDER` only the decoder goes on learning, from the latents that
everything else is trained on (`latents`), which so stay true. Resumes where it was cut off.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from acestep.models.config import VaeConfig
from acestep.models.vae import Vae
from scripts.nano.data import songs
from scripts.nano.data.instruments import RATE
from scripts.nano.data.latents import BLOCK_SONGS
from scripts.nano.networks import linear_start
from scripts.nano.paths import BLOCK_FOLDER, VAE, VAE_WEIGHTS, WORK
from scripts.nano.training.spectral_losses import LowLoss, MelLoss, SpectrumLoss
from scripts.nano.training.trainer import read_config, train, write_weights

HALO = 8  # frames around a clip; what lies farther is reached by the decoder, but hardly heard


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the nano VAE.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--freeze-encoder", action="store_true")
    parser.add_argument("--start", type=Path, help="a folder whose weights to begin with")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = read_config(arguments.config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds = config["seconds"]
    pool = songs.rendered(WORK / "training.npy", songs.TRAINING, config["songs"], seconds)
    held_out = songs.rendered(WORK / "held-out.npy", songs.HELD_OUT, config["held_out"], seconds)

    network = {"_class_name": "AutoencoderOobleck", **config["network"]}
    vae = Vae(VaeConfig.from_dict(network))
    if arguments.start is not None:
        vae.load_state_dict(load_file(arguments.start / VAE_WEIGHTS))
    else:
        sample = pool[::20, :, 96_000 : 96_000 + 2 * RATE // vae.hop * vae.hop]
        linear_start.initialise(vae, torch.from_numpy(sample.astype(np.float32)))
    vae.to(device)
    vae.encoder.requires_grad_(not arguments.freeze_encoder)
    if arguments.freeze_encoder:
        config["clip"], config["batch"] = config["decoder_clip"], config["decoder_batch"]
        blocks = [
            np.load(BLOCK_FOLDER / f"{i:05d}.npy") for i in range(0, config["songs"], BLOCK_SONGS)
        ]
        objective = DecoderObjective(vae, pool, config, np.concatenate(blocks))
    else:
        objective = VaeObjective(vae, pool, config)
    objective.to(device)
    train(
        vae,
        objective.losses,
        config["training"],
        WORK / ("vae-decoder" if arguments.freeze_encoder else "vae"),
        validate=lambda module: distance(module, held_out),
        export=lambda module: export_vae(module, network, VAE),
    )
    export_vae(vae, network, VAE)


class VaeObjective(nn.Module):
    def __init__(self, vae: Vae, pool: np.ndarray, config: dict) -> None:
        super().__init__()
        self._vae = [vae]  # not a submodule: it is not this module's to move or to save
        self.pool, self.weights = pool, config["loss"]
        self.batch = config["batch"]
        self.samples = int(config["clip"] * RATE) // vae.hop * vae.hop
        self.spectrum, self.mel, self.low = SpectrumLoss(), MelLoss(), LowLoss()

    def losses(self, step: int) -> Mapping[str, Tensor]:
        (vae,) = self._vae
        noise = torch.Generator().manual_seed(step)
        wanted = self.clips(step).to(self.mel.get_buffer("window").device)
        mean, scale = vae.encoder(wanted).chunk(2, dim=1)
        deviation = F.softplus(scale) + 1e-4
        noise = torch.randn(mean.shape, generator=noise).to(mean)
        parts = self.distances(vae.decoder(mean + deviation * noise), wanted)
        kl = 0.5 * (mean**2 + deviation**2 - 2 * deviation.log() - 1).mean()
        return {**parts, "kl": self.weights["kl"] * kl}

    def distances(self, made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        parts = {
            "spectrum": self.spectrum(made, wanted),
            "mel": self.mel(made, wanted),
            "waveform": (made - wanted).abs().mean(),
            "low": self.low(made, wanted),
        }
        return {name: self.weights[name] * value for name, value in parts.items()}

    def clips(self, step: int) -> Tensor:
        """[clip, 2, sample]: other places, sides and levels at every step."""
        rng = np.random.default_rng(step)
        clips: list[np.ndarray] = []
        for _ in range(self.batch):
            song = self.pool[rng.integers(len(self.pool))]
            start = rng.integers(song.shape[-1] - self.samples)
            clip = song[:, start : start + self.samples].astype(np.float32)
            clip = clip[::-1] if rng.random() < 0.5 else clip
            clips.append(clip * np.float32(rng.uniform(0.6, 1.3)))
        return torch.from_numpy(np.stack(clips))


class DecoderObjective(VaeObjective):
    """What the decoder makes of latents that are kept, at their own places of the songs."""

    def __init__(self, vae: Vae, pool: np.ndarray, config: dict, latents: np.ndarray) -> None:
        super().__init__(vae, pool, config)
        self.latents = latents

    def losses(self, step: int) -> Mapping[str, Tensor]:
        (vae,) = self._vae
        rng = np.random.default_rng(step)
        hop, halo, frames = vae.hop, HALO, self.samples // vae.hop
        kept: list[np.ndarray] = []
        clips: list[np.ndarray] = []
        for song in rng.integers(len(self.pool), size=self.batch):
            start = int(rng.integers(halo, self.latents.shape[1] - frames - halo))
            kept.append(self.latents[song, start - halo : start + frames + halo])
            clips.append(self.pool[song, :, start * hop : (start + frames) * hop])
        latents, wanted = (
            torch.from_numpy(np.stack(x).astype(np.float32)).to(
                self.mel.get_buffer("window").device
            )
            for x in (kept, clips)
        )
        made = vae.decoder(latents.mT.contiguous())[..., halo * hop : (halo + frames) * hop]
        return self.distances(made, wanted)


@torch.no_grad()
def distance(vae: nn.Module, held_out: np.ndarray, seconds: float = 4.0) -> float:
    """Mean log-mel distance in dB over the held-out songs' beginnings."""
    assert isinstance(vae, Vae)
    mel = MelLoss().to(next(vae.parameters()).device)
    samples = int(seconds * RATE) // vae.hop * vae.hop
    total = 0.0
    for song in held_out:
        wanted = torch.from_numpy(song[None, :, :samples].astype(np.float32))
        wanted = wanted.to(mel.get_buffer("window"))
        total += 10 * mel(vae.decode(vae.encode(wanted)), wanted).item()
    return total / len(held_out)


def export_vae(vae: nn.Module, network: dict, folder: Path) -> None:
    """The published layout, fp32 while it is being trained; `ship` rounds it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(network, indent=2) + "\n")
    write_weights(folder / VAE_WEIGHTS, vae, torch.float32)


if __name__ == "__main__":
    main()
