"""Sizes told from headers are those of the networks themselves."""

from pathlib import Path

import pytest
import torch
from random_checkpoints import TINY_2B, write_random_acestep

from acestep.config import ServiceConfig
from acestep.models.acestep import AceStep
from acestep.models.config import AceStepConfig
from acestep.models.load import load_qwen3, load_vae
from acestep.runtime.folders import Folders, find_folders
from acestep.runtime.sizes import PartSize, Sizes

# docs/model.md: what the published 2B has.
PUBLISHED = {
    **TINY_2B, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12, "in_channels": 192,
    "audio_acoustic_hidden_dim": 64, "text_hidden_dim": 1024, "timbre_hidden_dim": 64,
    "num_lyric_encoder_hidden_layers": 8, "num_timbre_encoder_hidden_layers": 4, "fsq_dim": 2048,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tiny_models: Path) -> Folders:
    return find_folders(ServiceConfig(checkpoints=tiny_models))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_headers_count_every_number_of_every_part(folders: Folders) -> None:
    sizes = Sizes.read(folders)
    with torch.device("meta"):
        networks = AceStep(AceStepConfig.read(folders.dit))
    assert sizes.parts["dit"].numbers == count(networks.decoder)
    assert sizes.parts["conditioner"].numbers == count(networks) - count(networks.decoder)
    assert sizes.dit_layer.numbers == count(networks.decoder.layers[0])
    assert sizes.dit_layers.numbers == count(networks.decoder.layers)
    assert folders.lm is not None
    assert sizes.parts["text_encoder"].numbers == count(load_qwen3(folders.text_encoder))
    assert sizes.parts["planner"].numbers == count(load_qwen3(folders.lm))
    folded = count(load_vae(folders.vae))
    assert folded <= sizes.parts["vae"].numbers < 1.05 * folded  # weight norm is still counted
    assert sizes.model == folders.dit.name and sizes.lm == folders.lm.name


def test_only_matrices_of_attention_and_mlp_count_as_quantizable(tmp_path: Path) -> None:
    folder = write_random_acestep(tmp_path / "model", TINY_2B, seed=0)
    other = Path(__file__).parent.parent.parent / "checkpoints"
    sizes = Sizes.read(
        Folders(folder, other / "acestep-nano-vae", other / "acestep-nano-text-encoder")
    )
    width, mlp, queries, keys = 64, 160, 96, 48
    attention = 2 * width * (queries + keys)
    layer = PartSize(
        numbers=sizes.dit_layer.numbers,
        quantizable=2 * attention + 3 * width * mlp,
        rows=2 * (queries + 2 * keys + width) + 2 * mlp + width,
    )
    assert sizes.dit_layer == layer
    assert sizes.parts["dit"].quantizable == 4 * layer.quantizable
    encoder_layers = 3 + 2  # lyrics, timbre; not the codec's
    assert sizes.parts["conditioner"].quantizable == encoder_layers * (attention + 3 * width * mlp)
    assert sizes.parts["vae"].quantizable == 0 and "planner" not in sizes.parts
    assert sizes.planner is None and sizes.lm is None


def test_the_published_model_has_the_published_numbers() -> None:
    with torch.device("meta"):
        networks = AceStep(AceStepConfig.from_dict(PUBLISHED))
    assert count(networks) == 2_393_872_518 and count(networks.decoder) == 1_575_458_880
