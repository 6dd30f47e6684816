"""Sizes of the published networks, for benchmarks and tests: both work without their weights."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

DIT_2B: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 12,
        "in_channels": 192, "audio_acoustic_hidden_dim": 64, "text_hidden_dim": 1024,
        "timbre_hidden_dim": 64, "timbre_fix_frame": 750, "num_lyric_encoder_hidden_layers": 8,
        "num_timbre_encoder_hidden_layers": 4, "num_attention_pooler_hidden_layers": 2,
        "fsq_dim": 2048, "fsq_input_levels": [8, 8, 8, 5, 5, 5], "is_turbo": True,
    }
)  # fmt: skip
DIT_XL: Mapping[str, Any] = MappingProxyType(
    {
        **DIT_2B, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 32,
        "num_attention_heads": 32, "layer_types": ["sliding_attention", "full_attention"] * 16,
        "encoder_hidden_size": 2048, "encoder_intermediate_size": 6144,
        "encoder_num_attention_heads": 16, "encoder_num_key_value_heads": 8,
    }
)  # fmt: skip
OOBLECK: Mapping[str, Any] = MappingProxyType(
    {
        "encoder_hidden_size": 128, "downsampling_ratios": (2, 4, 4, 6, 10),
        "channel_multiples": (1, 2, 4, 8, 16), "decoder_channels": 128,
        "decoder_input_channels": 64, "audio_channels": 2, "sampling_rate": 48_000,
    }
)  # fmt: skip
TEXT_TOKENS, CODE_TOKENS = 151_669, 65_535
PLANNER_TOKENS = TEXT_TOKENS + CODE_TOKENS
# By parameters; the text encoder is a 0.6B without the codes.
_QWEN3 = {  # hidden, MLP, layers, query heads
    "0.6B": (1024, 3072, 28, 16),
    "1.7B": (2048, 6144, 28, 16),
    "4B": (2560, 9728, 36, 32),
}
QWEN3: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        size: {
            "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128,
        }
        for size, (hidden, mlp, layers, heads) in _QWEN3.items()
    }
)  # fmt: skip
