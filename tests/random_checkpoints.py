"""Tiny ACE-Step checkpoints with random weights in the published file layout.

The sizes catch mistakes that round numbers hide: the queries' width is not the hidden size, the
window is shorter than the sequences, and the XL one has an encoder of another width than its DiT.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from acestep.models.acestep import AceStep
from acestep.models.config import FULL, SLIDING, AceStepConfig

# Published key → diffusers' (docs/model.md, Keys), after the network's own prefix is gone.
DIFFUSERS_NAMES = {
    "proj_in.1.": "proj_in_conv.",
    "proj_out.1.": "proj_out_conv.",
    ".q_proj.": ".to_q.",
    ".k_proj.": ".to_k.",
    ".v_proj.": ".to_v.",
    ".o_proj.": ".to_out.0.",
    ".q_norm.": ".norm_q.",
    ".k_norm.": ".norm_k.",
}

TINY_2B: dict[str, Any] = {
    "model_type": "acestep",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "use_sliding_window": True,
    "sliding_window": 5,
    "layer_types": [SLIDING, FULL] * 2,
    "in_channels": 24,
    "audio_acoustic_hidden_dim": 8,
    "patch_size": 2,
    "text_hidden_dim": 32,
    "num_lyric_encoder_hidden_layers": 3,
    "num_timbre_encoder_hidden_layers": 2,
    "timbre_hidden_dim": 8,
    "timbre_fix_frame": 20,
    "pool_window_size": 5,
    "num_attention_pooler_hidden_layers": 2,
    "fsq_dim": 64,
    "fsq_input_levels": [8, 8, 8, 5, 5, 5],
    "fsq_input_num_quantizers": 1,
    "is_turbo": True,
    "model_version": "turbo",
}
TINY_XL: dict[str, Any] = TINY_2B | {
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_attention_heads": 6,
    "encoder_hidden_size": 64,
    "encoder_intermediate_size": 160,
    "encoder_num_attention_heads": 4,
    "encoder_num_key_value_heads": 2,
}


def write_random_acestep(folder: Path, config_dict: Mapping[str, Any], seed: int) -> Path:
    """Write `config.json`, `model.safetensors` (fp32) and `silence_latent.pt`; returns `folder`.

    Nothing is near zero or one, so every tensor matters to what the networks compute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config_dict)))
    config = AceStepConfig.from_dict(config_dict)
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in AceStep(config).state_dict().items()}
    weights = {key: _random(key, shape, generator) for key, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    silence = torch.randn(1, config.audio_acoustic_hidden_dim, 15_000, generator=generator)
    torch.save(silence, folder / "silence_latent.pt")
    return folder


def diffusers_weights(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The weights of the network under `prefix`, by the names diffusers has for them."""
    weights = load_file(folder / "model.safetensors")
    return {
        diffusers_key(key.removeprefix(prefix)): weight
        for key, weight in weights.items()
        if key.startswith(prefix)
    }


def diffusers_key(key: str) -> str:
    for official, theirs in DIFFUSERS_NAMES.items():
        key = key.replace(official, theirs)
    return key


def _random(key: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if key.endswith(("norm.weight", "layernorm.weight", "norm_out.weight")):
        return 1 + 0.3 * noise
    is_matrix = len(shape) > 1 and key.endswith("weight")
    return (0.15 if is_matrix else 0.3) * noise
