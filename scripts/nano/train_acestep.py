"""Train the DiT, its condition encoder and the 5 Hz codec of the nano models.

    uv run python -m scripts.nano.train_acestep configs/nano/acestep.toml

Needs the text encoder (`train_text_encoder`) and the songs' latents (`latents`). All tasks are
learnt at once, each with the context that the product builds for it: from text alone, from codes,
close to a source, and a region between kept surroundings. The tokenizer learns to transcribe, the
detokenizer to say what the DiT must know of a code. Resumes where it was cut off.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from acestep import conditioning
from acestep.diffusion import context as contexts
from acestep.models.acestep import AceStep
from acestep.models.codec import AudioTokenizer
from acestep.models.config import AceStepConfig
from acestep.models.text_encoder import TextEncoder
from acestep.request import Text2Music
from scripts.nano import songs
from scripts.nano.codes import FRAMES, digits, transcribe
from scripts.nano.latents import BLOCK, BLOCKS, WORK, load_vae
from scripts.nano.score import Score, describe
from scripts.nano.trainer import read_config, train, write_weights

MODELS = {"acestep-v15-nano-turbo": True, "acestep-v15-nano-base": False}  # name, is turbo
SILENCE_FRAMES = 15_000
CLIPS = 3  # of a reference, as in `conditioning.reference_clips`
NOISY = 2.0  # shift of the times: most of what is heard is decided near the noise
PROMISED = 0.7  # share of songs whose prompt states a fact that could be stated


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the nano DiT.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--start", type=Path, help="a folder whose weights to begin with")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = read_config(arguments.config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = {
        "architectures": ["AceStepConditionGenerationModel"],
        "model_type": "acestep",
        **config["network"],
    }
    model = AceStep(AceStepConfig.from_dict(network))
    for parameter in model.decoder.proj_out.parameters():
        nn.init.zeros_(parameter)  # the first answer is the mean of all answers
    if arguments.start is not None:
        trained = load_file(arguments.start / "model.safetensors")
        model.load_state_dict({name: value.float() for name, value in trained.items()})
    model.to(device)
    silence = load_vae().fold().encode(torch.zeros(1, 2, 400 * 1920))[:, 100:300].mean(1, True)
    silence = silence.expand(-1, SILENCE_FRAMES, -1)
    text_encoder = TextEncoder.load(WORK / "acestep-nano-text-encoder", torch.float32, device)
    objective = Objective(config, text_encoder, silence, Library(BLOCKS, config["seconds"]))
    train(
        model,
        lambda step: objective.losses(model, np.random.default_rng(step), objective.library.grow()),
        config["training"],
        WORK / "acestep",
        validate=objective.validate,
        export=lambda module: export(module, network, silence),
    )


class Library:
    """Songs as latents and scores, [song, frame, channel]; takes blocks as they are written."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.latents: list[np.ndarray] = []
        self.scores: list[Score] = []
        self.held_out = np.load(folder / "held-out.npy")
        self.held_out_scores = list(songs.scores(songs.HELD_OUT, BLOCK, seconds))

    def grow(self) -> int:
        """Read the next blocks that are there; how many songs there are."""
        while (path := self.folder / f"{len(self.scores):05d}.npy").exists():
            self.scores += songs.scores(songs.TRAINING + len(self.scores), BLOCK, self.seconds)
            self.latents += list(np.load(path))
        return len(self.scores)


class Objective:
    """Draws songs, tasks and times; says how wrong a network is about them."""

    def __init__(
        self, config: dict, text_encoder: TextEncoder, silence: Tensor, library: Library
    ) -> None:
        self.config, self.text_encoder, self.silence = config, text_encoder, silence
        self.library = library

    def losses(self, model: AceStep, rng: np.random.Generator, count: int) -> Mapping[str, Tensor]:
        crop = int(rng.choice(self.config["crops"]))
        totals: dict[str, list[Tensor]] = {name: [] for name in self.config["loss"]}
        for _ in range(self.config["batch"]):
            song = int(rng.integers(count))
            latents = torch.from_numpy(self.library.latents[song].astype(np.float32))
            for name, value in self.song(
                model, latents, self.library.scores[song], crop, rng
            ).items():
                totals[name].append(value)
        weights = self.config["loss"]
        return {name: weights[name] * torch.stack(values).mean() for name, values in totals.items()}

    def song(
        self, model: AceStep, latents: Tensor, score: Score, crop: int, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Losses of one song."""
        tasks = self.config["tasks"]
        task = str(rng.choice(list(tasks), p=list(tasks.values())))
        device = model.null_condition_emb.device
        last = (len(latents) - crop) // FRAMES
        # A song made from text alone begins at its first bar; anything else may be an excerpt.
        start = 0 if task == "text" else FRAMES * int(rng.integers(last + 1))
        levels = torch.tensor([digits(facts) for facts in transcribe(score)])
        levels = levels[None, start // FRAMES : (start + crop) // FRAMES].to(device)
        music = latents[None, start : start + crop].to(device)

        quantizer = model.tokenizer.quantizer
        hints = model.detokenizer(quantizer.project(quantizer.coordinates(levels)))
        silence = self.silence[:, :crop].to(music)
        if task == "repaint":
            context = self.repaint_context(music, silence, rng)
        else:
            source = {"codes": hints, "text": silence, "close": music}[task]
            context = torch.cat([source, torch.ones_like(source)], dim=-1)
        states = self.condition(model, score, latents, task, crop, rng)
        if rng.random() < self.config["dropout"]:
            states = model.null_condition(states)

        t = 1 / (1 + np.exp(-rng.standard_normal()))
        time = torch.tensor([NOISY * t / (1 + (NOISY - 1) * t)], device=device, dtype=torch.float32)
        noise = torch.from_numpy(rng.standard_normal(music.shape, np.float32)).to(device)
        noisy = time * noise + (1 - time) * music
        velocity = model.decoder(noisy, time, time, states, context)
        coordinates = quantizer.bound(pooled(model.tokenizer, music))
        spacing = (quantizer.coordinates(levels + 1) - quantizer.coordinates(levels)).detach()
        wrong = (coordinates - quantizer.coordinates(levels)) / spacing  # in levels
        return {
            "flow": F.mse_loss(velocity, noise - music),
            "transcription": F.smooth_l1_loss(wrong, torch.zeros_like(wrong), beta=0.5),
            "hints": F.mse_loss(hints, music),
        }

    def repaint_context(self, music: Tensor, silence: Tensor, rng: np.random.Generator) -> Tensor:
        """A region of silence to be filled, between what is kept."""
        frames = music.shape[1]
        length = int(frames * rng.uniform(0.15, 0.75))
        start = int(rng.integers(frames - length + 1))
        mask = torch.zeros_like(music)
        mask[:, start : start + length] = 1
        return torch.cat([torch.where(mask > 0, silence, music), mask], dim=-1)

    def condition(
        self,
        model: AceStep,
        score: Score,
        latents: Tensor,
        task: str,
        crop: int,
        rng: np.random.Generator,
    ) -> Tensor:
        """What the DiT listens to, from the product's own prompts."""

        def perhaps(fact):
            return fact if rng.random() < PROMISED else None

        request = Text2Music(
            caption=describe(score, rng),
            lyrics=score.lyrics,
            vocal_language=score.language,
            bpm=perhaps(score.bpm),
            key_scale=perhaps(score.key_scale),
            time_signature=perhaps(score.time_signature),
        )
        instruction = {
            "codes": conditioning.FOLLOW_CODES,
            "close": conditioning.FOLLOW_CODES,
            "text": conditioning.FILL_MASK,
            "repaint": conditioning.REPAINT,
        }[task]
        prompt = conditioning.caption_prompt(request, instruction, crop / 25)
        text, text_mask = self.text_encoder.encode_caption(prompt)
        lyrics, lyrics_mask = self.text_encoder.embed_lyrics(conditioning.lyrics_prompt(request))
        frames = model.config.timbre_fix_frame
        reference = self.silence[:, :frames]
        if rng.random() < self.config["has_reference"]:
            clip = frames // CLIPS
            starts = rng.integers(len(latents) - clip, size=CLIPS)
            reference = torch.cat([latents[s : s + clip] for s in starts])[None]
        states, _ = model.encoder(
            text,
            text_mask,
            lyrics,
            lyrics_mask,
            reference.to(text),
            torch.zeros(1, dtype=torch.long, device=text.device),
        )
        return states

    def validate(self, model: nn.Module) -> float:
        """The flow loss on held-out songs; prints how much of each fact is transcribed rightly."""
        assert isinstance(model, AceStep)
        rng = np.random.default_rng(0)
        flows: list[float] = []
        rights: list[Tensor] = []
        for latents, score in zip(self.library.held_out, self.library.held_out_scores, strict=True):
            music = torch.from_numpy(latents.astype(np.float32)).to(model.null_condition_emb)
            flows.append(self.song(model, music, score, 250, rng)["flow"].item())
            quantizer = model.tokenizer.quantizer
            heard = quantizer.nearest(quantizer.bound(pooled(model.tokenizer, music[None])))
            wanted = torch.tensor([digits(facts) for facts in transcribe(score)])
            rights.append((heard[0].cpu() == wanted).float().mean(0))
        shares = torch.stack(rights).mean(0).tolist()
        print("transcribed:", ", ".join(f"{share:.0%}" for share in shares), flush=True)
        return float(np.mean(flows))


def pooled(tokenizer: AudioTokenizer, latents: Tensor) -> Tensor:
    """One vector per five frames: what the tokenizer quantizes."""
    groups = rearrange(latents, "b (c f) d -> (b c) f d", f=tokenizer.window)
    states = tokenizer.attention_pooler(tokenizer.audio_acoustic_proj(groups))
    return rearrange(states, "(b c) d -> b c d", b=len(latents))


def export(model: nn.Module, network: dict, silence: Tensor) -> None:
    """Both checkpoints of the published layout; they differ in what they are told to be."""
    for name, is_turbo in MODELS.items():
        folder = WORK / name
        folder.mkdir(parents=True, exist_ok=True)
        version = {"is_turbo": is_turbo, "model_version": "turbo" if is_turbo else "base"}
        (folder / "config.json").write_text(json.dumps({**network, **version}, indent=2) + "\n")
        write_weights(folder / "model.safetensors", model)
        track = contexts.silence(silence, SILENCE_FRAMES).mT.contiguous()
        torch.save(track.to(torch.bfloat16).float(), folder / "silence_latent.pt")


if __name__ == "__main__":
    main()
