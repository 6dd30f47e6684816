"""Checkpoint folders that are complete as far as headers tell."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from acestep.checkpoints.files import FIRST_CODE, REQUIRED, STEMS, Kind
from acestep.checkpoints.locate import shipped_folder
from acestep.config import DEFAULT_MODEL
from acestep.models.config import AceStepConfig

MakeModel = Callable[..., Path]

CONFIGS: Mapping[Kind, dict[str, Any]] = {
    "dit": {"model_type": "acestep", "text_hidden_dim": 1024, "is_turbo": True},
    "lm": {"model_type": "qwen3", "hidden_size": 1024},
    "text_encoder": {"model_type": "qwen3", "hidden_size": 1024},
    "vae": {"_class_name": "AutoencoderOobleck", "downsampling_ratios": [2, 4, 4, 6, 10]},
}


def write_model(folder: Path, kind: Kind, **config: Any) -> Path:
    """Make `folder`; `config` outweighs what stands above."""
    folder.mkdir(parents=True)
    for name in REQUIRED[kind]:
        (folder / name).write_text("{}")
    if kind == "lm":  # what tells it from a text encoder
        (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [FIRST_CODE]}))
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind] | config))
    save_file({"a": torch.arange(9000.0)}, folder / f"{STEMS[kind]}.safetensors")
    return folder


def write_lora(path: Path, rank: int = 2) -> Path:
    """An adapter of the nano model's first layer, which changes nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    network = AceStepConfig.read(shipped_folder() / DEFAULT_MODEL)
    down, up = torch.zeros(rank, network.intermediate_size), torch.zeros(network.hidden_size, rank)
    layer = "base_model.model.layers.0.mlp.down_proj"
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, path)
    return path
