"""A Qwen3 network to train: its first weights, its batches, its folder in official layout."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from tokenizers import Tokenizer
from torch import Tensor, nn

from acestep.checkpoints.files import CONFIG_FILE, TOKENIZER_FILE
from acestep.models.config import Qwen3Config
from acestep.models.qwen3 import Qwen3
from acestep.seeds import generator
from acestep.types import TokenIds
from scripts.nano.training.trainer import write_weights

FIXED = {
    "architectures": ["Qwen3Model"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "attention_bias": False,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


def build(network: Mapping[str, Any], tokens: int, seed: int, *, deviation: float) -> Qwen3:
    """A fresh network.

    Args:
        network: the sizes, by their names in `config.json`.
        tokens: size of the vocabulary.
        deviation: of the embedding's numbers.
    """
    config = Qwen3Config.from_dict({**FIXED, **network, "vocab_size": tokens})
    model = Qwen3(config)
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            continue  # norms start at 1
        scale = deviation if name == "embed_tokens.weight" else 1 / math.sqrt(weight.shape[1])
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            scale /= math.sqrt(2 * config.num_hidden_layers)  # as many parts make up a state
        with torch.no_grad():
            weight.copy_(scale * torch.randn(weight.shape, generator=generator(seed, name)))
    return model


def write(folder: Path, network: Mapping[str, Any], tokenizer: Tokenizer, model: nn.Module) -> None:
    """Config, tokenizer and bfloat16 weights, as the product and transformers read them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**FIXED, **network, "vocab_size": tokenizer.get_vocab_size()}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save(str(folder / TOKENIZER_FILE))
    write_weights(folder / "model.safetensors", model)


def pad(rows: Sequence[Sequence[int]]) -> tuple[TokenIds, Bool[Tensor, "batch token"]]:
    """Rows of token ids side by side, filled up on the right; True where a token is real."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    real = torch.zeros(len(rows), longest, dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        real[place, : len(row)] = True
    return ids, real
