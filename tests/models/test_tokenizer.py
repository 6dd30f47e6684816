"""One reader of `tokenizer.json`, and what it says of files that are none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from acestep.errors import CheckpointError
from acestep.models.tokenizer import read_tokenizer
from scripts.make_tiny import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(size=300)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(path)
    sentence = str(caught.value)
    assert sentence.startswith(str(path)) and sentence.endswith(".") and "\n" not in sentence
    return sentence


def test_padding_and_truncation_of_the_file_are_ignored(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    text = "# Lyric\n[Verse]\nrain on the window"
    expected = tokenizer.encode(text).ids
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.enable_truncation(5)
    copy.enable_padding(length=400)
    copy.save(str(path))
    assert read_tokenizer(path).encode(text).ids == expected


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "is missing: the folder is not a complete model" in refusal(tmp_path / "tokenizer.json")


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    assert "is damaged" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{}", b"[]", b"null", b"\xff\xfe{}", b"<html>Not found</html>", b"[" * 100_000],
    ids=["empty", "open", "no model", "list", "null", "not text", "page", "nested"],
)
def test_a_file_that_is_no_tokenizer_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    assert "is damaged" in refusal(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_off_file_is_refused(kept: float, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    whole = tokenizer.to_str()
    path.write_text(whole[: int(kept * len(whole))], encoding="utf-8")
    assert "Download it again." in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.pop("model"),
        lambda file: file.update(model=3),
        lambda file: file["model"].update(type="Unheard"),
        lambda file: file["model"].update(vocab=[1]),
        lambda file: file["model"].update(merges=[["zz", "qq"]]),
        lambda file: file["model"]["vocab"].update(a=-1),
        lambda file: file.update(pre_tokenizer=3),
        lambda file: file.update(added_tokens="<think>"),
        lambda file: file.update(truncation=3),
        lambda file: file.update(version="9.0"),
    ],
    ids=[
        "no model", "no table", "model", "vocab", "merges", "id", "splitting", "added",
        "truncation", "version",
    ],
)  # fmt: skip
def test_what_the_library_refuses_is_a_sentence(
    change: Callable[[dict[str, Any]], Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    file = json.loads(tokenizer.to_str())
    change(file)
    path.write_text(json.dumps(file))
    assert "is damaged, or is no tokenizer (" in refusal(path)
