"""Captions and lyrics as the condition encoder gets them, tokenised as transformers would."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from acestep.errors import CheckpointError
from acestep.models.config import Qwen3Config
from acestep.models.qwen3 import Qwen3
from acestep.models.text_encoder import TextEncoder

END = "<|endoftext|>"
CAPTION = f"# Instruction\nFill the mask:\n\n# Caption\nwarm lo-fi beat\n\n{END}\n"
SIZES = {
    "vocab_size": 400,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE that appends the end token by its post-processor, like the published one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([CAPTION, "la la la, rain on the window"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text_encoder")
    (folder / "config.json").write_text(json.dumps(SIZES))
    torch.manual_seed(0)
    save_file(Qwen3(Qwen3Config.from_dict(SIZES)).state_dict(), folder / "model.safetensors")
    train_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def text_encoder(folder: Path) -> TextEncoder:
    return TextEncoder.load(folder, torch.float32, "cpu")


@pytest.fixture(scope="module")
def reference(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token=END)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40) | st.just(CAPTION), max_tokens=st.integers(1, 30))
def test_ids_and_truncation_equal_those_of_transformers(text_encoder, reference, text, max_tokens):
    expected = reference(text, max_length=max_tokens, truncation=True)["input_ids"]
    ids = text_encoder.tokenize(text, max_tokens)[0].tolist()
    assert ids == expected
    assert ids[-1] == reference.eos_token_id and len(ids) <= max_tokens


def test_a_caption_ends_with_its_own_end_token_and_the_tokenizers(text_encoder):
    end, newline = (text_encoder.tokenizer.token_to_id(token) for token in (END, "Ċ"))
    assert text_encoder.tokenize(CAPTION, 256)[0, -3:].tolist() == [end, newline, end]


def test_a_caption_becomes_the_last_hidden_states_of_all_its_tokens(text_encoder):
    states, mask = text_encoder.encode_caption(CAPTION)
    ids = text_encoder.tokenize(CAPTION, 256)
    torch.testing.assert_close(states, text_encoder.model(ids))
    assert states.shape == (1, ids.shape[1], 16)
    assert mask.dtype == torch.bool and mask.shape == ids.shape and mask.all()


def test_lyrics_become_embedding_rows_without_context(text_encoder):
    rows, mask = text_encoder.embed_lyrics("la la la")
    ids = text_encoder.tokenize("la la la", 2048)
    assert torch.equal(rows, text_encoder.model.embed_tokens.weight[ids])
    assert mask.shape == ids.shape and mask.all()


def test_captions_are_cut_at_256_and_lyrics_at_2048_tokens(text_encoder):
    text = "rain " * 3000
    assert text_encoder.encode_caption(text)[0].shape[1] == 256
    assert text_encoder.embed_lyrics(text)[0].shape[1] == 2048
    assert text_encoder.embed_lyrics("rain", max_tokens=1)[0].shape[1] == 1


def test_an_empty_text_is_its_end_token(text_encoder):
    assert text_encoder.tokenize("", 8).tolist() == [[text_encoder.tokenizer.token_to_id(END)]]


def test_padding_and_truncation_written_in_the_file_are_ignored(folder, tmp_path, text_encoder):
    (tmp_path / "config.json").symlink_to(folder / "config.json")
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    tokenizer = train_tokenizer()
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(5, direction="left")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ids = TextEncoder.load(tmp_path).tokenize(CAPTION, 20)
    assert torch.equal(ids, text_encoder.tokenize(CAPTION, 20))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        TextEncoder.load(tmp_path)


def test_a_tokenizer_larger_than_the_embedding_is_refused(folder, tmp_path):
    small = SIZES | {"vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(small))
    save_file(Qwen3(Qwen3Config.from_dict(small)).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    with pytest.raises(CheckpointError, match="the network embeds only 300"):
        TextEncoder.load(tmp_path)
