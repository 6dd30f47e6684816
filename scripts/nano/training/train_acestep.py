"""Train the DiT, its condition encoder and the 5 Hz codec of the nano models.

    uv run python -m scripts.nano.training.train_acestep configs/nano/acestep.toml

Needs the text encoder (`train_text_encoder`) and the songs' latents (`latents`). All tasks are
learnt at once, each with the context that the product builds for it: from text alone, from codes,
close to a source, and a region between preserved surroundings. The tokenizer learns to transcribe;
the detokenizer has learnt before (`detokenizer`) and goes on making the source latents that the DiT
must know of a code. Every song is seen in several views, at other places, times and noises, for one
encoding of its prompt. Resumes where it was cut off.

With `model_guidance` the velocity of a text is taught with a share of guidance in it
(arXiv:2502.12154), of which a model that samples without guidance is in need.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from acestep.diffusion import context as contexts
from acestep.models.acestep import AceStep
from acestep.models.codec import AudioTokenizer
from acestep.models.config import AceStepConfig
from acestep.models.layers import KeysValues
from acestep.models.text_encoder import TextEncoder
from acestep.request import Text2Music
from acestep.tasks import conditioning
from scripts.nano.data.codes import FRAMES, digits, transcribe
from scripts.nano.data.latents import load_trained_vae
from scripts.nano.data.library import LatentLibrary
from scripts.nano.data.score import Score, describe
from scripts.nano.data.silence import PERIOD, clocked_silence
from scripts.nano.paths import BLOCK_FOLDER, WORK
from scripts.nano.training.detokenizer import CodeMeans, DetokenizerObjective, source_latents
from scripts.nano.training.mean_target import mean_target
from scripts.nano.training.trainer import Training, read_config, train, write_weights

MODELS = {"acestep-v15-nano-turbo": True, "acestep-v15-nano-base": False}  # name, is turbo
NORMAL = NormalDist()
CLIPS = 3  # of a reference, as in `conditioning.reference_clips`
NOISY, NOISIER = 2.0, 4.0  # shift of the times: what is heard is decided near the noise, and from
# text alone everything is
MEAN_TARGET_FRAMES = 100
TRANSCRIBED = 0.4  # share of songs that the tokenizer learns from too
WHOLE = {"text": 0.7, "repaint": 0.5}  # share of songs that are trained at full length
PROMISED = 0.8  # share of songs whose prompt states a fact that could be stated


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
    vae = load_trained_vae().fold()
    silence = clocked_silence(vae.encode(torch.zeros(1, 2, 400 * 1920))[:, 100:300])
    text_encoder = TextEncoder.load(WORK / "acestep-nano-text-encoder", torch.float32, device)
    library = LatentLibrary(BLOCK_FOLDER, config["seconds"])
    library.grow()
    if arguments.start is None:
        means = CodeMeans.of(zip(library.scores, library.latents, strict=True), silence.shape[-1])
        detokenizer = DetokenizerObjective(model, means)
        train(
            detokenizer, detokenizer.losses, Training(**config["detokenizer"]), WORK / "detokenizer"
        )

    objective = SongObjective(config, text_encoder, silence, library)
    train(
        model,
        lambda step: objective.losses(model, np.random.default_rng(step), objective.library.grow()),
        config["training"],
        WORK / config["progress"],
        validate=objective.validate,
        export=lambda module: export_acestep(module, network, silence),
    )


class SongObjective:
    """Draws songs, tasks and times; says how wrong a network is about them."""

    def __init__(
        self, config: dict, text_encoder: TextEncoder, silence: Tensor, library: LatentLibrary
    ) -> None:
        self.config, self.text_encoder, self.silence = config, text_encoder, silence
        self.library = library

    def losses(self, model: AceStep, rng: np.random.Generator, count: int) -> Mapping[str, Tensor]:
        crop = int(rng.choice(self.config["crops"]))
        totals: dict[str, list[Tensor]] = {name: [] for name in self.config["loss"]}
        for _ in range(self.config["batch"]):
            latents, score = self.draw(rng, count)
            for name, value in self.song(model, latents, score, crop, rng).items():
                totals[name].append(value)
        for task, further in self.config["mean_target_songs"].items():
            for _ in range(further):
                latents, score = self.draw(rng, count)
                totals["mean_target"].append(
                    self.mean_target_loss(model, latents, score, task, rng)
                )
        weights = self.config["loss"]
        return {
            n: weights[n] * torch.stack(values).mean() for n, values in totals.items() if values
        }

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Score]:
        """One of the first `count` songs; hard ones more often than there are."""
        scores = self.library.scores[:count]
        wants_hard = rng.random() < self.config["hard"]
        kind = [i for i, score in enumerate(scores) if is_hard(score) == wants_hard]
        song = int(rng.choice(kind or range(count)))
        return torch.from_numpy(self.library.latents[song]).float(), scores[song]

    def song(
        self, model: AceStep, latents: Tensor, score: Score, crop: int, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Losses of one song."""
        tasks, views = self.config["tasks"], self.config["views"]
        task = str(rng.choice(list(tasks), p=list(tasks.values())))
        device = model.null_condition_emb.device
        if task in WHOLE and rng.random() < WHOLE[task]:
            views, crop = 1, len(latents)
        last = 0 if task == "text" else (len(latents) - crop) // FRAMES  # a text begins at a start
        starts = FRAMES * rng.integers(last + 1, size=views)
        music = torch.stack([latents[start : start + crop] for start in starts]).to(device)
        facts = levels_of(score).to(device)
        levels = torch.stack([facts[s // FRAMES : (s + crop) // FRAMES] for s in starts.tolist()])
        losses: dict[str, Tensor] = {}

        if task == "repaint":
            context = torch.cat(
                [
                    self.repaint_context(x[None], s, rng)
                    for x, s in zip(music, starts.tolist(), strict=True)
                ]
            )
        else:
            source = music if task == "close" else None
            if task == "codes":
                source = source_latents(model, levels)
                losses["source_latents"] = F.mse_loss(source, music)
            context = contexts.to_be_made(self.silence.to(music), crop, views, source)
        states = self.build_conditioning(model, score, latents, task, crop, rng)
        if rng.random() < self.config["dropout"]:
            states = model.null_condition(states)

        # Times evenly apart, so that every song is seen nearly clean and nearly as noise.
        even = (rng.permutation(views) + rng.random(views)) / views
        t = 1 / (1 + np.exp(-np.array([NORMAL.inv_cdf(min(max(x, 1e-4), 1 - 1e-4)) for x in even])))
        shift = NOISIER if task == "text" else NOISY
        times = torch.tensor(shift * t / (1 + (shift - 1) * t), device=device, dtype=torch.float32)
        noise = torch.from_numpy(rng.standard_normal(music.shape, np.float32)).to(device)
        noisy = times[:, None, None] * noise + (1 - times[:, None, None]) * music
        conditions = [
            KeysValues(*(heads.expand(views, -1, -1, -1) for heads in layer))
            for layer in model.decoder.keys_values(states)
        ]
        velocity = model.decoder(noisy, times, times, conditions, context)
        wanted_velocity = noise - music
        if task == "text" and (share := self.config["model_guidance"]):
            with torch.no_grad():
                away = model.null_condition(states).expand(views, -1, -1)
                unconditional = model.decoder(noisy, times, times, away, context)
                wanted_velocity = wanted_velocity + share * (velocity - unconditional)
        losses["flow"] = F.mse_loss(velocity, wanted_velocity)
        if rng.random() < TRANSCRIBED:
            losses["transcription"] = transcription(model, music[:1], levels[:1])
        return losses

    def mean_target_loss(
        self, model: AceStep, latents: Tensor, score: Score, task: str, rng: np.random.Generator
    ) -> Tensor:
        """How far the first velocity's clean latents, from noise alone, are from the mean target.

        Nothing can be said then but what a song sounds like on average: its key, its instruments
        and, where codes or surroundings tell, its beats. The mean target shows them far more
        clearly than the song itself does.
        """
        device = model.null_condition_emb.device
        last = 0 if task == "text" else (len(latents) - MEAN_TARGET_FRAMES) // PERIOD
        start = PERIOD * int(rng.integers(last + 1))
        here = slice(start, start + MEAN_TARGET_FRAMES)
        facts = levels_of(score).to(device)
        latents = latents.to(device)
        wanted = mean_target(latents, None if task == "text" else facts)[None, here]
        if task == "repaint":
            mask = inpaint_mask(MEAN_TARGET_FRAMES, rng).to(device)
            context = contexts.inpainted(self.silence.to(wanted), latents[None, here], mask, 1)
        else:
            source = None
            if task == "codes":
                with torch.no_grad():
                    source = source_latents(
                        model, facts[None, start // FRAMES : here.stop // FRAMES]
                    )
            context = contexts.to_be_made(self.silence.to(wanted), MEAN_TARGET_FRAMES, 1, source)
        states = self.build_conditioning(model, score, latents, task, len(latents), rng)
        noise = torch.from_numpy(rng.standard_normal(wanted.shape, np.float32)).to(device)
        one = torch.ones(1, device=device)
        velocity = model.decoder(noise, one, one, states, context)
        is_made = context[0, :, -1].bool()
        return (noise - velocity - wanted)[:, is_made].square().mean()

    def repaint_context(self, music: Tensor, start: int, rng: np.random.Generator) -> Tensor:
        """An edited span of silence between what is preserved.

        Its clock is the song's, unless something was put before the song.
        """
        shift = start if rng.random() < 0.8 else int(rng.integers(PERIOD))
        silence = self.silence[:, shift % PERIOD :].to(music)
        mask = inpaint_mask(music.shape[1], rng).to(music.device)
        return contexts.inpainted(silence, music, mask, 1)

    def build_conditioning(
        self,
        model: AceStep,
        score: Score,
        latents: Tensor,
        task: str,
        crop: int,
        rng: np.random.Generator,
    ) -> Tensor:
        """The DiT's conditioning, from the product's own prompts."""

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
            transcribed = quantizer.nearest(quantizer.bound(pooled(model.tokenizer, music[None])))
            rights.append((transcribed[0].cpu() == levels_of(score)).float().mean(0))
        shares = torch.stack(rights).mean(0).tolist()
        print("transcribed:", ", ".join(f"{share:.0%}" for share in shares), flush=True)
        return float(np.mean(flows))


def is_hard(score: Score) -> bool:
    """Whether little of the sound decides much: the beats where no drum plays, and the voice."""
    return score.kit is None or bool(score.syllables)


def levels_of(score: Score) -> Tensor:
    """What the codes of a score say: [code, dimension]"""
    return torch.tensor([digits(facts) for facts in transcribe(score)])


def transcription(model: AceStep, music: Tensor, levels: Tensor) -> Tensor:
    """How far the tokenizer's coordinates are from the right levels."""
    quantizer = model.tokenizer.quantizer
    coordinates = quantizer.bound(pooled(model.tokenizer, music))
    right = quantizer.coordinates(levels)
    spacing = quantizer.coordinates(levels + 1) - right
    wrong = (coordinates - right) / spacing  # in levels
    return F.smooth_l1_loss(wrong, torch.zeros_like(wrong), beta=0.5)


def inpaint_mask(frames: int, rng: np.random.Generator) -> Tensor:
    """True at the frames of an edited span, 15 to 75 % of the whole."""
    length = int(frames * rng.uniform(0.15, 0.75))
    start = int(rng.integers(frames - length + 1))
    mask = torch.zeros(frames, dtype=torch.bool)
    mask[start : start + length] = True
    return mask


def pooled(tokenizer: AudioTokenizer, latents: Tensor) -> Tensor:
    """One vector per five frames: what the tokenizer quantizes."""
    groups = rearrange(latents, "b (c f) d -> (b c) f d", f=tokenizer.window)
    states = tokenizer.attention_pooler(tokenizer.audio_acoustic_proj(groups))
    return rearrange(states, "(b c) d -> b c d", b=len(latents))


def export_acestep(model: nn.Module, network: dict, silence: Tensor) -> None:
    """Both checkpoints of the published layout; they differ in what they are told to be."""
    for name, is_turbo in MODELS.items():
        folder = WORK / name
        folder.mkdir(parents=True, exist_ok=True)
        version = {"is_turbo": is_turbo, "model_version": "turbo" if is_turbo else "base"}
        (folder / "config.json").write_text(json.dumps({**network, **version}, indent=2) + "\n")
        write_weights(folder / "model.safetensors", model)
        torch.save(silence.mT.contiguous(), folder / "silence_latent.pt")


if __name__ == "__main__":
    main()
