"""What is said of a folder from its file names and headers alone."""

import json
from pathlib import Path

import pytest
import torch
from model_folders import MakeModel
from safetensors.torch import save_file

from acestep.checkpoints.folder import fingerprint, problems


class TestProblems:
    def test_a_sharded_checkpoint_is_complete_when_every_shard_is(
        self, make_model: MakeModel
    ) -> None:
        folder = make_model("acestep-v15-xl-turbo", "dit")
        single = folder / "model.safetensors"
        shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        single.rename(folder / shards[0])
        save_file({"b": torch.zeros(2)}, folder / shards[1])
        index = {"weight_map": {"a": shards[0], "b": shards[1]}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert problems(folder, "dit") == []
        (folder / shards[1]).unlink()
        (problem,) = problems(folder, "dit")
        assert problem.startswith(f"{shards[1]} is missing: ")

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (b"", "is empty; "),
            (b"PK\x03\x04 a renamed pickle", "is a pickle archive"),
            (b"\x05\0\0\0\0\0\0\0{oops", "is damaged: its header cannot be read."),
            (b"\x02\0\0\0\0\0\0\0{}tail", "is damaged: 4 bytes follow its tensors."),
            (b"\xff" * 40, "is damaged; "),
        ],
    )
    def test_weights_that_are_none_are_seen_by_content(
        self, make_model: MakeModel, content: bytes, sentence: str
    ) -> None:
        folder = make_model("acestep-v15-turbo", "dit")
        (folder / "model.safetensors").write_bytes(content)
        (problem,) = problems(folder, "dit")
        assert problem.startswith(f"model.safetensors {sentence}")

    def test_a_cut_off_file_is_seen_by_its_length(self, make_model: MakeModel) -> None:
        folder = make_model("acestep-v15-turbo", "dit")
        path = folder / "model.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        (problem,) = problems(folder, "dit")
        assert problem.startswith(
            f"model.safetensors is cut off: {len(content) - 1:,} bytes of {len(content):,}"
        )

    def test_a_pickle_is_named_and_not_loaded(self, make_model: MakeModel) -> None:
        folder = make_model("acestep-5Hz-lm-0.6B", "lm")
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        (problem,) = problems(folder, "lm")
        assert "only pytorch_model.bin, a pickle file" in problem

    def test_an_index_cannot_point_outside_its_folder(self, make_model: MakeModel) -> None:
        folder = make_model("acestep-v15-xl-turbo", "dit")
        (folder / "model.safetensors").unlink()
        index = {"weight_map": {"a": "../../secret.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (problem,) = problems(folder, "dit")
        assert problem.startswith("model.safetensors.index.json points outside its folder")

    def test_a_folder_of_another_program_is_no_model(self, tmp_path: Path) -> None:
        assert problems(tmp_path, "dit") == ["config.json is missing."]
        (tmp_path / "config.json").write_text("[1]")
        assert problems(tmp_path, "dit") == ["config.json is not a JSON object."]
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        assert problems(tmp_path, None) == ["config.json is of no network this program knows."]


def test_a_fingerprint_follows_the_weights_and_nothing_else(make_model: MakeModel) -> None:
    folder = make_model("acestep-v15-turbo", "dit")
    before = fingerprint(folder)
    (folder / "notes.txt").write_text("mine")
    assert fingerprint(folder) == before
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert fingerprint(folder) != before
