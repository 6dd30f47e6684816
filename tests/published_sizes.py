"""Sizes of the published models, as docs/model.md and the catalogue give them: no files needed."""

from typing import Any, Literal

from random_checkpoints import TINY_2B

from acestep.models.config import AceStepConfig, Qwen3Config, VaeConfig
from acestep.runtime.sizes import Part, PartSize, Sizes

Model = Literal["2B turbo", "2B base", "XL turbo", "nano"]
Planner = Literal["0.6B", "1.7B", "4B"]

PUBLISHED_2B: dict[str, Any] = {
    **TINY_2B, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12, "in_channels": 192,
    "audio_acoustic_hidden_dim": 64, "text_hidden_dim": 1024, "timbre_hidden_dim": 64,
    "timbre_fix_frame": 750, "num_lyric_encoder_hidden_layers": 8,
    "num_timbre_encoder_hidden_layers": 4, "fsq_dim": 2048, "is_turbo": True,
}  # fmt: skip
PUBLISHED_XL: dict[str, Any] = {
    **PUBLISHED_2B, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 32,
    "num_attention_heads": 32, "layer_types": ["sliding_attention", "full_attention"] * 16,
    "encoder_hidden_size": 2048, "encoder_intermediate_size": 6144,
    "encoder_num_attention_heads": 16, "encoder_num_key_value_heads": 8,
}  # fmt: skip
NANO: dict[str, Any] = {
    **TINY_2B, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 6,
    "num_attention_heads": 4, "head_dim": 64, "use_sliding_window": False, "in_channels": 192,
    "audio_acoustic_hidden_dim": 64, "layer_types": ["full_attention"] * 6, "fsq_dim": 256,
}  # fmt: skip
QWEN3: dict[str, Any] = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "head_dim": 128}


def qwen3(width: int, mlp: int, layers: int, heads: int, vocabulary: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        **QWEN3,
    )


PLANNERS: dict[Planner, tuple[Qwen3Config, int]] = {
    "0.6B": (qwen3(1024, 3072, 28, 16, 217_204), 662_884_352),
    "1.7B": (qwen3(2048, 6144, 28, 16, 217_204), 1_854_243_840),
    "4B": (qwen3(2560, 9728, 36, 32, 217_204), 4_189_554_176),
}
OOBLECK = VaeConfig(128, (2, 4, 4, 6, 10), (1, 2, 4, 8, 16), 128, 64, 2, 48_000)
NANO_VAE = VaeConfig(8, (10, 6, 4, 4, 2), (4, 16, 22, 26, 26), 8, 64, 2, 48_000)
TEXT_ENCODER = qwen3(1024, 3072, 28, 16, 151_669)


def published(model: Model, planner: Planner | None = None) -> Sizes:
    """The sizes of a published set."""
    values, total = {
        "2B turbo": (PUBLISHED_2B, 1_575_458_880),
        "2B base": (PUBLISHED_2B | {"is_turbo": False}, 1_575_458_880),
        "XL turbo": (PUBLISHED_XL, 4_168_897_088),
        "nano": (NANO, 6_800_000),
    }[model]
    config = AceStepConfig.from_dict(values)
    layer = _layer(config)
    layers = PartSize(*(config.num_hidden_layers * each for each in _fields(layer)))
    is_nano = model == "nano"
    parts: dict[Part, PartSize] = {
        "dit": PartSize(total, layers.quantizable, layers.rows),
        "conditioner": PartSize(
            2_600_000 if is_nano else 818_413_638, 0 if is_nano else 604_000_000
        ),
        "text_encoder": PartSize(600_000) if is_nano else _decoder(TEXT_ENCODER, 595_776_512),
        "vae": PartSize(6_000_000 if is_nano else 168_695_426),
    }
    if planner is not None:
        parts["planner"] = _decoder(*PLANNERS[planner])
    return Sizes(
        model=model,
        lm=None if planner is None else f"{planner} 5Hz LM",
        parts=parts,
        dit_layer=layer,
        dit_layers=layers,
        dit=config,
        text_encoder=TEXT_ENCODER,
        vae=NANO_VAE if is_nano else OOBLECK,
        planner=None if planner is None else PLANNERS[planner][0],
    )


def _layer(config: AceStepConfig) -> PartSize:
    width, mlp = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    attention = 2 * width * (queries + keys)
    matrices = 2 * attention + 3 * width * mlp
    rows = 2 * (queries + 2 * keys + width) + 2 * mlp + width
    return PartSize(matrices + 9 * width + 4 * config.head_dim, matrices, rows)


def _decoder(config: Qwen3Config, numbers: int) -> PartSize:
    matrices = numbers - config.vocab_size * config.hidden_size
    return PartSize(numbers, matrices, matrices // config.hidden_size)


def _fields(size: PartSize) -> tuple[int, int, int]:
    return size.numbers, size.quantizable, size.rows
