"""The vocabulary of a checkpoint folder, and what is said of a folder that is not one."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from acestep.checkpoints.files import FIRST_CODE
from acestep.checkpoints.locate import shipped_folder
from acestep.errors import CheckpointError
from acestep.planner.vocabulary import Vocabulary


def test_codes_come_after_the_text_and_only_the_codebook_is_legal(vocabulary: Vocabulary):
    assert vocabulary.size == vocabulary.first_code + 100
    assert vocabulary.codebook_size == 90
    assert vocabulary.decode([vocabulary.first_code + 3]) == "<|audio_code_3|>"
    assert vocabulary.code(vocabulary.first_code + 3) == 3


def test_a_smaller_codebook_is_taken_from_the_tokenizer(tokenizer: Tokenizer):
    assert Vocabulary(tokenizer).codebook_size == 100


def test_a_vocabulary_is_read_from_its_folder(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocabulary = Vocabulary.read(tmp_path)
    text = "<|im_start|>user\nRain: 70 bpm<|im_end|>"
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.encode(text)[-1] == vocabulary.end


def test_text_tokens_are_known_as_bytes(vocabulary: Vocabulary):
    text = "".join(map(chr, range(0x250))) + "♯ <think>\n🎹</think>"
    assert b"".join(map(vocabulary.token_bytes, vocabulary.encode(text))).decode() == text


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        Vocabulary.read(tmp_path)


def test_truncation_written_in_the_file_is_ignored(tokenizer: Tokenizer, tmp_path: Path):
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.enable_truncation(8)
    copy.save(str(tmp_path / "tokenizer.json"))
    text = "rain on the window " * 20
    assert Vocabulary.read(tmp_path).encode(text) == Vocabulary(tokenizer).encode(text)


def test_a_planners_folder_is_known_by_a_token_that_text_encoders_do_not_have():
    kinds = {"acestep-5Hz-lm-nano": True, "acestep-nano-text-encoder": False}
    for name, is_planner in kinds.items():
        written = (shipped_folder() / name / "tokenizer.json").read_bytes()
        assert (FIRST_CODE.encode() in written) == is_planner


def test_another_models_tokenizer_is_refused():
    with pytest.raises(CheckpointError, match=r"has no <\|im_start\|>"):
        Vocabulary(Tokenizer(models.BPE()))
