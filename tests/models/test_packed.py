"""INT8 layers saved beside their checkpoint: the same ones again, and never another's."""

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from random_checkpoints import TINY_2B, write_random_acestep
from torch import Tensor

from acestep.checkpoints.headers import weight_files
from acestep.models import packed
from acestep.models.load import load_acestep
from acestep.models.quantize import relative_error

DECODER = "int8/decoder.safetensors"


@pytest.fixture
def folder(
    random_acestep: Callable[[Mapping[str, Any]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A tiny checkpoint whose DiT counts as worth saving, and whose encoder does not."""
    monkeypatch.setattr(packed, "WORTH_BYTES", 260_000)
    return shutil.copytree(random_acestep(TINY_2B), tmp_path / "model")


def state(folder: Path) -> dict[str, Tensor]:
    return load_acestep(folder, torch.float32, int8=True).state_dict()


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_was_saved_is_read_and_not_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_acestep(folder, torch.float32, int8=True)
    assert [path.name for path in (folder / "int8").iterdir()] == ["decoder.safetensors"]
    made: list[int] = []
    store = packed.Int8Linear.store

    def counted(self: packed.Int8Linear, weight: Tensor) -> None:
        made.append(1)
        store(self, weight)

    monkeypatch.setattr(packed.Int8Linear, "store", counted)
    again = load_acestep(folder, torch.float32, int8=True)
    assert len(made) == (3 + 2) * 7  # the condition encoder's
    assert_equal(again.state_dict(), first.state_dict())
    assert relative_error(again) == relative_error(first) > 0
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_the_checkpoint_itself_stays_what_it_was(folder: Path) -> None:
    before = weight_files(folder)
    state(folder)
    assert weight_files(folder) == before


def test_other_weights_make_other_files(folder: Path) -> None:
    state(folder)
    write_random_acestep(folder, TINY_2B, seed=5)
    changed = state(folder)
    shutil.rmtree(folder / "int8")
    assert_equal(changed, state(folder))


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_damaged_file_is_made_again(size: int, folder: Path) -> None:
    expected = state(folder)
    whole = (folder / DECODER).read_bytes()
    (folder / DECODER).write_bytes(whole[:size])
    assert_equal(state(folder), expected)
    assert len((folder / DECODER).read_bytes()) == len(whole)


def test_a_folder_that_cannot_be_written_to_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "int8").write_text("in the way")
    with caplog.at_level(logging.INFO, logger="acestep"):
        loaded = state(folder)
    assert "decoder.safetensors is not saved" in caplog.text
    (folder / "int8").unlink()
    assert_equal(loaded, state(folder))


def test_a_full_disk_is_left_alone(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "SPARE_DISK_BYTES", 10**18)
    with caplog.at_level(logging.INFO, logger="acestep"):
        state(folder)
    assert "too little space left" in caplog.text
    assert not list((folder / "int8").iterdir())


def test_small_networks_are_not_saved(
    random_acestep: Callable[[Mapping[str, Any]], Path],
) -> None:
    folder = random_acestep(TINY_2B)
    state(folder)
    assert not (folder / "int8").exists()
