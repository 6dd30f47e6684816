"""Train the nano text encoder to know what a caption prompt says about a song.

    uv run python -m scripts.nano.training.train_text_encoder configs/nano/text_encoder.toml

It reads the exact prompts of the DiT and answers questions about the score from the mean of its
token states: genre, instruments, drums, tempo, key, metre, and which tokens its caption has. The
heads that answer are thrown away; what they needed stays in the states. Lyrics reach the DiT as
embedding rows alone, so the rows learn what is sung: a line has the syllables of its tokens.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from acestep.models.qwen3 import Qwen3
from acestep.request import MusicRequest
from acestep.request.values import INSTRUMENTAL
from acestep.tasks.conditioning import (
    FILL_MASK,
    FOLLOW_CODES,
    REPAINT,
    caption_prompt,
    lyrics_prompt,
)
from acestep.types import TokenIds, TokenMask
from scripts.make_tiny import with_end
from scripts.nano.data import captions
from scripts.nano.data.genres import GENRES
from scripts.nano.data.lexicon import DRUM_WORDS, INSTRUMENT_WORDS, choose, syllables
from scripts.nano.data.score import Score, compose
from scripts.nano.data.songs import HELD_OUT, TRAINING
from scripts.nano.networks import qwen3, tokenizer
from scripts.nano.training.trainer import Training, read_config, train

INSTRUCTIONS = (FILL_MASK, FOLLOW_CODES, REPAINT)
SLOWEST, FASTEST = 30, 300  # beats per minute
TIME_SIGNATURES = (2, 3, 4, 6)
CONSONANTS, VOWELS = ("s", "sh", "t", "k", "p", "f", "h", "m", ""), "aeiou"
QUESTIONS = {
    "genre": len(GENRES),
    "kit": 1 + len(DRUM_WORDS),
    "bpm": FASTEST - SLOWEST + 1,
    "key": 24,
    "metre": len(TIME_SIGNATURES),
}
# They bring these losses to the size of the others.
LOSS_WEIGHTS = {"instruments": 5.0, "caption_tokens": 20.0, "syllables": 0.2}


@dataclass(frozen=True)
class PromptBatch:
    """Prompts and what they are about.

    Attributes:
        choices: question → the right answer's index.
        instruments: 1 for those that play.
        caption_tokens: 1 for the tokens of the prompt's caption.
        sung: how often each consonant and each vowel is sung.
    """

    prompts: TokenIds
    is_prompt: TokenMask
    lyrics: TokenIds
    is_lyrics: TokenMask
    choices: Mapping[str, Int[Tensor, " batch"]]
    instruments: Float[Tensor, "batch instrument"]
    caption_tokens: Float[Tensor, "batch token"]
    sung: Float[Tensor, "batch sound"]


class Answers(NamedTuple):
    choices: dict[str, Float[Tensor, "batch choice"]]
    instruments: Float[Tensor, "batch instrument"]
    caption_tokens: Float[Tensor, "batch token"]
    sung: Float[Tensor, "batch sound"]


class Reader(nn.Module):
    """The text encoder and the heads that question it."""

    def __init__(self, encoder: Qwen3) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.choices = nn.ModuleDict({q: nn.Linear(width, n) for q, n in QUESTIONS.items()})
        self.instruments = nn.Linear(width, len(INSTRUMENT_WORDS))
        self.caption_tokens = nn.Linear(width, encoder.config.vocab_size)
        self.sounds = nn.Linear(width, len(CONSONANTS) + len(VOWELS), bias=False)

    def forward(self, batch: PromptBatch) -> Answers:
        states = self.encoder(batch.prompts) * batch.is_prompt[..., None]
        mean = states.sum(dim=1) / batch.is_prompt.sum(dim=1, keepdim=True)
        rows = self.encoder.embed(batch.lyrics) * batch.is_lyrics[..., None]
        return Answers(
            {question: head(mean) for question, head in self.choices.items()},
            self.instruments(mean),
            self.caption_tokens(mean),
            self.sounds(rows).sum(dim=1),
        )


class PromptBatches:
    """Endless batches: some new scores, each under several captions."""

    def __init__(self, tokens: Tokenizer, batch: int, captions_per_score: int) -> None:
        self.tokens, self.batch, self.captions_per_score = tokens, batch, captions_per_score

    @classmethod
    def of(cls, tokens: Tokenizer, config: Mapping[str, Any]) -> Self:
        return cls(tokens, config["batch"], config["captions_per_score"])

    def __call__(self, number: int, first: int = TRAINING) -> PromptBatch:
        """The batch of a step, the same whenever it is asked for."""
        scores: list[Score] = []
        requests: list[MusicRequest] = []
        prompts: list[str] = []
        for seed in range(self.batch // self.captions_per_score):
            seed += first + number * (self.batch // self.captions_per_score)
            rng = np.random.default_rng([seed, 1])
            score = compose(seed, float(rng.integers(10, 31)))
            for _ in range(self.captions_per_score):
                scores.append(score)
                requests.append(captions.request_for(score, rng))
                instruction = choose(rng, INSTRUCTIONS)
                prompts.append(caption_prompt(requests[-1], instruction, score.duration))
        read, is_read = qwen3.pad(self._encode(prompts))
        lyrics, is_lyrics = qwen3.pad(self._encode([lyrics_prompt(r) for r in requests]))
        caption_tokens = torch.zeros(len(requests), self.tokens.get_vocab_size())
        for row, request in zip(caption_tokens, requests, strict=True):
            row[self.tokens.encode(" " + request.caption, add_special_tokens=False).ids] = 1
        facts = [_choices(score) for score in scores]
        return PromptBatch(
            read,
            is_read,
            lyrics,
            is_lyrics,
            {question: torch.tensor([f[question] for f in facts]) for question in QUESTIONS},
            torch.tensor([_instruments(score) for score in scores]),
            caption_tokens,
            torch.tensor([_sounds(request.lyrics) for request in requests]),
        )

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokens.encode_batch(texts)]


def reading_losses(reader: Reader, batch: PromptBatch) -> dict[str, Tensor]:
    answers = reader(batch)
    parts = {
        question: F.cross_entropy(answers.choices[question], right)
        for question, right in batch.choices.items()
    }
    parts["instruments"] = F.binary_cross_entropy_with_logits(
        answers.instruments, batch.instruments
    )
    parts["caption_tokens"] = F.binary_cross_entropy_with_logits(
        answers.caption_tokens, batch.caption_tokens
    )
    parts["syllables"] = F.smooth_l1_loss(answers.sung, batch.sung)
    return {name: LOSS_WEIGHTS.get(name, 1.0) * loss for name, loss in parts.items()}


@torch.no_grad()
def answer_shares(reader: Reader, batches: list[PromptBatch]) -> dict[str, float]:
    """Shares of right answers, and the mean error in syllables."""
    right: dict[str, list[Tensor]] = {}
    for batch in batches:
        answers = reader(batch)
        for question, wanted in batch.choices.items():
            found = answers.choices[question].argmax(dim=-1)
            right.setdefault(question, []).append(found == wanted)
        plays = (answers.instruments > 0) == batch.instruments.bool()
        right.setdefault("instruments", []).append(plays.flatten())
        count = answers.sung[:, len(CONSONANTS) :].sum(-1) - batch.sung[:, len(CONSONANTS) :].sum(
            -1
        )
        right.setdefault("syllables off by", []).append(count.abs())
    return {question: torch.cat(found).float().mean().item() for question, found in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the nano text encoder.")
    parser.add_argument("config", type=Path, help="such as configs/nano/text_encoder.toml")
    config = read_config(parser.parse_args().config)
    tokens = with_end(tokenizer.read_or_make(Path(config["tokenizer"])))
    network, seed = config["network"], config["seed"]
    torch.manual_seed(seed)  # the heads' first weights
    reader = Reader(qwen3.build(network, tokens.get_vocab_size(), seed, deviation=0.3))
    songs = PromptBatches.of(tokens, config)
    held_out = [songs(number, first=HELD_OUT) for number in range(config["held_out_batches"])]
    training: Training = config["training"]

    def validate(network: nn.Module) -> float:
        assert isinstance(network, Reader)
        print({name: round(share, 3) for name, share in answer_shares(network, held_out).items()})
        found = [sum(reading_losses(network, batch).values()) for batch in held_out]
        return float(torch.tensor(found).mean())

    def export(trained: nn.Module) -> None:
        assert isinstance(trained, Reader)
        qwen3.write(Path(config["folder"]), network, tokens, trained.encoder)

    train(
        reader,
        lambda step: reading_losses(reader, songs(step)),
        training,
        Path(config["progress"]),
        validate=validate,
        export=export,
    )


def _choices(score: Score) -> dict[str, int]:
    return {
        "genre": list(GENRES).index(score.genre),
        "kit": 0 if score.kit is None else 1 + list(DRUM_WORDS).index(score.kit),
        "bpm": score.bpm - SLOWEST,
        "key": 2 * score.key + score.minor,
        "metre": TIME_SIGNATURES.index(score.time_signature),
    }


def _instruments(score: Score) -> list[float]:
    playing = {track.instrument for track in score.tracks.values()}
    return [float(name in playing) for name in INSTRUMENT_WORDS]


def _sounds(lyrics: str) -> list[float]:
    sung = [] if lyrics == INSTRUMENTAL else syllables(lyrics)
    consonants = [consonant for consonant, _ in sung]
    vowels = [vowel for _, vowel in sung]
    return [
        *(float(consonants.count(sound)) for sound in CONSONANTS),
        *(float(vowels.count(sound)) for sound in VOWELS),
    ]


if __name__ == "__main__":
    main()
