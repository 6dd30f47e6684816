"""The text encoder's trainer: questions with true answers, and an encoder the product reads."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from acestep.models.text_encoder import TextEncoder
from scripts.make_tiny import with_end
from scripts.nano.data.genres import GENRES
from scripts.nano.data.score import compose
from scripts.nano.data.songs import TRAINING
from scripts.nano.networks import qwen3
from scripts.nano.training.train_text_encoder import (
    CONSONANTS,
    PromptBatches,
    Reader,
    reading_losses,
)
from scripts.nano.training.trainer import Training, train

NETWORK = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "rope_theta": 1000,
}


@pytest.fixture(scope="module")
def tokens(shared_tokenizer: Tokenizer) -> Tokenizer:
    return with_end(shared_tokenizer)


@pytest.fixture(scope="module")
def songs(tokens: Tokenizer) -> PromptBatches:
    return PromptBatches(tokens, batch=8, captions_per_score=2)


def reader(tokens: Tokenizer) -> Reader:
    torch.manual_seed(1)
    return Reader(qwen3.build(NETWORK, tokens.get_vocab_size(), seed=1, deviation=0.3))


def test_the_answers_are_the_scores(songs: PromptBatches) -> None:
    batch = songs(3)
    for place in range(4):
        score = compose(TRAINING + 3 * 4 + place, 20.0)
        row = 2 * place
        assert list(GENRES)[batch.choices["genre"][row]] == score.genre
        assert batch.choices["bpm"][row] + 30 == score.bpm
        assert batch.choices["key"][row] == 2 * score.key + score.minor
        assert (batch.choices["kit"][row] == 0) == (score.kit is None)
        assert (batch.sung[row, len(CONSONANTS) :].sum() > 0) == bool(score.syllables)


def test_the_prompt_is_the_one_the_dit_is_given(songs: PromptBatches, tokens: Tokenizer) -> None:
    batch = songs(0)
    text = tokens.decode(batch.prompts[0][batch.is_prompt[0]].tolist(), skip_special_tokens=False)
    assert text.startswith("# Instruction\n")
    assert text.endswith(" seconds\n<|endoftext|>\n<|endoftext|>")


def test_padding_changes_no_answer(songs: PromptBatches, tokens: Tokenizer) -> None:
    batch = songs(0)
    network = reader(tokens)
    length = int(batch.is_prompt[0].sum())
    alone = network.encoder(batch.prompts[:1, :length]).mean(dim=1)
    genre = network(batch).choices["genre"][0]
    torch.testing.assert_close(network.choices["genre"](alone)[0], genre)


def test_it_learns_and_the_product_reads_it(
    songs: PromptBatches, tokens: Tokenizer, tmp_path: Path
) -> None:
    network = reader(tokens)
    before = sum(reading_losses(network, songs(100)).values())
    training = Training(minutes=10, learning_rate=0.01, steps=25, warmup_steps=5)
    train(
        network, lambda step: reading_losses(network, songs(step)), training, tmp_path / "training"
    )
    assert sum(reading_losses(network, songs(100)).values()) < 0.7 * before

    qwen3.write(tmp_path / "encoder", NETWORK, tokens, network.encoder)
    encoder = TextEncoder.load(tmp_path / "encoder")
    states, mask = encoder.encode_caption("# Caption\ntechno, 126 bpm")
    assert states.dtype == torch.bfloat16
    assert states.shape == (1, mask.shape[1], 32)
    assert encoder.tokenizer.token_to_id("<|endoftext|>") == encoder.tokenize("x", 10)[0, -1]
