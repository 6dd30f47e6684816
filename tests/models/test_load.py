"""Loading weights, and every reason to refuse them: one clear sentence that names the file."""

import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_checkpoints import TINY_2B, TINY_XL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from acestep.checkpoints.headers import stored_tensors, weight_files
from acestep.errors import CheckpointError
from acestep.models.load import PARTS, load_acestep, load_module, load_silence

KEY = "decoder.proj_in.1.weight"


class Pairwise(nn.Module):
    """A network small enough to write its file by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of `Pairwise`."""
    save_file(weights(), tmp_path / "model.safetensors")
    return tmp_path


def weights() -> dict[str, Tensor]:
    return {"linear.weight": torch.arange(6.0).reshape(2, 3), "linear.bias": torch.ones(2)}


def load(folder: Path, **options: Any) -> Pairwise:
    return load_module(Pairwise, folder, **{"dtype": None, **options})


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def write_header(path: Path, header: object, data: bytes = b"") -> None:
    table = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(table).to_bytes(8, "little") + table + data)


def write_shards(folder: Path) -> None:
    """The same weights in two files and an index."""
    (folder / "model.safetensors").unlink()
    places = {}
    for number, (key, tensor) in enumerate(weights().items(), start=1):
        places[key] = f"model-0000{number}-of-00002.safetensors"
        save_file({key: tensor}, folder / places[key])
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_every_tensor_is_the_stored_one_and_takes_no_gradient(folder: Path) -> None:
    module = load(folder)
    state = module.state_dict()
    assert state.keys() == weights().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in weights().items())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not module.training


def test_shards_are_one_checkpoint(folder: Path) -> None:
    write_shards(folder)
    assert torch.equal(load(folder).linear.weight, weights()["linear.weight"])


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [None, torch.float32, torch.bfloat16])
def test_any_stored_dtype_becomes_the_wanted_one(
    folder: Path, stored: torch.dtype, wanted: torch.dtype | None
) -> None:
    save_file({k: v.to(stored) for k, v in weights().items()}, folder / "model.safetensors")
    module = load(folder, dtype=wanted)
    assert {tensor.dtype for tensor in module.parameters()} == {wanted or stored}
    assert torch.equal(module.linear.weight.float(), weights()["linear.weight"])


def test_another_stem_and_other_names_are_found(tmp_path: Path) -> None:
    stored = {f"model.{key}": tensor for key, tensor in weights().items()}
    save_file(stored | {"head": torch.ones(1)}, tmp_path / "vae.safetensors")

    def rename(key: str) -> str | None:
        return None if key == "head" else key.removeprefix("model.")

    module = load(tmp_path, stem="vae", rename=rename)
    assert torch.equal(module.linear.bias, torch.ones(2))


@pytest.mark.parametrize("values", [TINY_2B, TINY_XL], ids=["2B", "XL"])
def test_a_whole_checkpoint_loads_in_bf16_with_every_published_key(
    values: dict[str, Any], random_acestep: Callable[[Mapping[str, Any]], Path]
) -> None:
    folder = random_acestep(values)
    stored = load_file(folder / "model.safetensors")
    state = load_acestep(folder, torch.bfloat16).state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[key], tensor.bfloat16()) for key, tensor in stored.items())


@pytest.mark.parametrize("part", PARTS)
def test_one_part_is_loaded_and_the_others_cost_nothing(
    part: str, random_acestep: Callable[[Mapping[str, Any]], Path]
) -> None:
    folder = random_acestep(TINY_2B)
    stored = load_file(folder / "model.safetensors")
    for key, tensor in load_acestep(folder, parts=[part]).state_dict().items():
        assert tensor.is_meta == (key.split(".")[0] != part)
        assert tensor.is_meta or torch.equal(tensor, stored[key])


def test_a_file_is_judged_whole_whichever_part_is_wanted(
    random_acestep: Callable[[Mapping[str, Any]], Path], tmp_path: Path
) -> None:
    folder = random_acestep(TINY_2B)
    shutil.copy(folder / "config.json", tmp_path)
    stored = load_file(folder / "model.safetensors")
    del stored["null_condition_emb"]
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="lack 'null_condition_emb'"):
        load_acestep(tmp_path, parts=["decoder"])


def test_a_part_that_does_not_exist_is_refused(
    random_acestep: Callable[[Mapping[str, Any]], Path],
) -> None:
    with pytest.raises(ValueError, match="vae"):
        load_acestep(random_acestep(TINY_2B), parts=["vae"])


@pytest.mark.parametrize(
    ("values", "prepends"),
    [(TINY_2B, False), (TINY_2B | {"encoder_hidden_size": 64}, False), (TINY_XL, True)],
    ids=["2B", "2B that names its width", "XL"],
)
def test_the_timbre_token_is_read_by_xl_alone(
    values: dict[str, Any], prepends: bool, random_acestep: Callable[[Mapping[str, Any]], Path]
) -> None:
    acestep = load_acestep(random_acestep(values))
    assert acestep.encoder.timbre_encoder.prepends_token == prepends


def test_a_folder_without_config_is_refused(
    random_acestep: Callable[[Mapping[str, Any]], Path], tmp_path: Path
) -> None:
    shutil.copy(random_acestep(TINY_2B) / "model.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_acestep(tmp_path, torch.float32)


def test_weights_of_another_size_are_refused_with_key_and_both_shapes(
    random_acestep: Callable[[Mapping[str, Any]], Path], tmp_path: Path
) -> None:
    shutil.copy(random_acestep(TINY_2B) / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(TINY_2B | {"in_channels": 26}))
    with pytest.raises(CheckpointError) as caught:
        load_acestep(tmp_path, torch.float32)
    assert f"model.safetensors: '{KEY}' is [64, 24, 2], but config.json makes it [64, 26, 2]." in (
        str(caught.value)
    )


def test_a_missing_tensor_is_named(folder: Path) -> None:
    save_file({"linear.bias": torch.ones(2)}, folder / "model.safetensors")
    assert refusal(folder).startswith(f"{folder}: the weights lack 'linear.weight';")


def test_an_unknown_tensor_is_named(folder: Path) -> None:
    extra = {"a": torch.ones(1), "b": torch.ones(1)}
    save_file(weights() | extra, folder / "model.safetensors")
    assert f"{folder / 'model.safetensors'} holds 'a' and 1 more, which" in refusal(folder)


def test_numbers_that_are_not_floats_are_refused(folder: Path) -> None:
    whole = {key: tensor.to(torch.int8) for key, tensor in weights().items()}
    save_file(whole, folder / "model.safetensors")
    assert "is stored as I8; only F32, F16, BF16 are read." in refusal(folder)


def test_no_weights_at_all_are_refused_with_the_expected_name(tmp_path: Path) -> None:
    assert f"{tmp_path / 'model.safetensors'} is missing" in refusal(tmp_path)


def test_only_a_pickle_is_refused_by_its_name(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(weights(), folder / "pytorch_model.bin")
    assert "has no model.safetensors, only pytorch_model.bin, a pickle file" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "is empty"),
        (b"\x07", "is empty"),
        (pickle.dumps(["weights"] * 9, protocol=4), "is a pickle file, which could run code"),
        (b"<!DOCTYPE html><html>Not found</html>", "is a web page, so the download went wrong"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (b"GGUF" + bytes(60), "is a GGUF file"),
        (bytes(range(64)), "is damaged"),
        (b"\xff" * 8 + b"{" + bytes(60), "is damaged"),
    ],
    ids=["empty", "byte", "pickle", "html", "lfs", "gguf", "noise", "endless"],
)
def test_another_kind_of_file_is_refused_by_what_it_is(
    folder: Path, content: bytes, kind: str
) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert f"{folder / 'model.safetensors'} {kind}" in refusal(folder)


def test_a_torch_archive_under_the_right_name_is_not_opened(folder: Path) -> None:
    torch.save(weights(), folder / "model.safetensors")
    assert "is a pickle archive, which could run code and is never opened" in refusal(folder)


def test_a_folder_in_place_of_the_file_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    assert "model.safetensors cannot be read" in refusal(folder)


@given(kept=st.floats(0, 1, exclude_max=True))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
def test_a_cut_off_file_is_refused_wherever_it_ends(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    save_file(weights(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    sentence = refusal(folder)
    assert str(path) in sentence
    if kept * len(whole) >= 9:
        assert f"bytes of {len(whole):,} are there. Download it again." in sentence or (
            "bytes of" in sentence and kept * len(whole) < 8 + int.from_bytes(whole[:8], "little")
        )


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": ["0", "8"]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0]},
        {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]},
    ],
)
def test_a_header_that_misdescribes_a_tensor_is_refused(folder: Path, entry: object) -> None:
    write_header(folder / "model.safetensors", {"linear.bias": entry}, bytes(8))
    assert "is damaged: its header misdescribes 'linear.bias'" in refusal(folder)


@pytest.mark.parametrize("table", [b"{}}", b"{" + b'"a":[' * 5000, b"{\xff}"])
def test_a_header_that_is_no_table_is_refused(folder: Path, table: bytes) -> None:
    write_header(folder / "model.safetensors", table)
    assert "is damaged: its header cannot be read" in refusal(folder)


def test_tensors_that_overlap_are_refused(folder: Path) -> None:
    header = {
        "linear.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "linear.bias": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]},
    }
    write_header(folder / "model.safetensors", header, bytes(24))
    assert f"{folder / 'model.safetensors'} cannot be read" in refusal(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    write_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    sentence = refusal(folder)
    assert f"{folder / 'model-00002-of-00002.safetensors'} is missing" in sentence


def test_an_index_may_name_the_model_next_door(folder: Path) -> None:
    other = folder.parent / "other-model"
    shutil.copytree(folder, other)
    (folder / "model.safetensors").unlink()
    places = dict.fromkeys(("linear.weight", "linear.bias"), "../other-model/model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert {t.file for t in stored_tensors(folder, "model").values()} == {
        other / "model.safetensors"
    }
    assert weight_files(folder) == weight_files(other) == [other / "model.safetensors"]
    shutil.rmtree(other)
    sentence = refusal(folder)
    assert f"{other / 'model.safetensors'} is missing: it is the file that holds" in sentence


def test_a_shard_without_what_the_index_promises_is_named(folder: Path) -> None:
    write_shards(folder)
    save_file({"linear.x": torch.ones(2)}, folder / "model-00002-of-00002.safetensors")
    assert "model-00002-of-00002.safetensors does not hold 'linear.bias'" in refusal(folder)


@pytest.mark.parametrize(
    "shard",
    [
        "../model.safetensors", "/etc/hosts", "a/b.safetensors", "../../a/b.safetensors",
        "../.cache/b.safetensors", "../a/hosts",
    ],
)  # fmt: skip
def test_an_index_that_points_elsewhere_is_refused(folder: Path, shard: str) -> None:
    write_shards(folder)
    index = {"weight_map": {"linear.bias": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "points outside its folder" in refusal(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": []}}', '{"weight_map": {"a": 7}}']
)
def test_an_index_that_is_none_is_refused(folder: Path, text: str) -> None:
    write_shards(folder)
    (folder / "model.safetensors.index.json").write_text(text)
    assert "is not an index of safetensors files" in refusal(folder)


def test_silence_is_read_with_frames_before_channels(
    random_acestep: Callable[[Mapping[str, Any]], Path],
) -> None:
    folder = random_acestep(TINY_2B)
    silence = load_silence(folder)
    assert silence.shape == (1, 15_000, 8)
    assert silence.dtype == torch.float32
    stored = torch.load(folder / "silence_latent.pt", weights_only=True)
    assert torch.equal(silence[0, :, 3], stored[0, 3])


@pytest.mark.parametrize("frames", [1, 6000, 7500, 20_000])
def test_silence_of_another_length_is_repeated_or_cut_to_ten_minutes(
    tmp_path: Path, frames: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY_2B))
    stored = torch.randn(1, 8, frames)
    torch.save(stored, tmp_path / "silence_latent.pt")
    silence = load_silence(tmp_path)
    assert silence.shape == (1, 15_000, 8)
    assert torch.equal(silence[0], stored[0].T[torch.arange(15_000) % frames])


class Mischief:
    """Runs code when it is unpickled by anything that lets it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_silence_that_would_run_code_is_refused_and_does_not(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY_2B))
    torch.save(Mischief(tmp_path / "ran"), tmp_path / "silence_latent.pt")
    with pytest.raises(CheckpointError, match=r"silence_latent\.pt is damaged"):
        load_silence(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("silence", "complaint"),
    [
        (None, "is missing"),
        (torch.zeros(1, 15_000, 8), r"holds \[1, 15000, 8\], but \[1, 8, 15000\] is needed"),
        (torch.zeros(8, 15_000), r"holds \[8, 15000\], but \[1, 8, 15000\] is needed"),
        (torch.zeros(1, 8, 0), r"holds \[1, 8, 0\], but"),
        (torch.tensor(0.0), r"holds \[\], but"),
        (torch.zeros(1, 8, 15_000, dtype=torch.int32), "does not hold one tensor of numbers"),
        ({"silence": torch.zeros(2)}, "does not hold one tensor of numbers"),
        (torch.zeros(17_000_000), "far larger than a silence latent"),
    ],
    ids=["missing", "transposed", "flat", "empty", "number", "integers", "table", "huge"],
)
def test_silence_of_another_kind_is_refused(
    tmp_path: Path, silence: object, complaint: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY_2B))
    if silence is not None:
        torch.save(silence, tmp_path / "silence_latent.pt")
    with pytest.raises(CheckpointError, match=complaint):
        load_silence(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x80\x04.", b"PK\x03\x04 cut off"])
def test_silence_that_is_no_tensor_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY_2B))
    (tmp_path / "silence_latent.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"silence_latent\.pt is damaged"):
        load_silence(tmp_path)
