"""Sizes of the published models, as docs/model.md and the catalogue give them: no files needed."""

from typing import Any, Literal

from random_checkpoints import TINY_2B

from acestep.models.config import AceStepConfig, Qwen3Config, VaeConfig
from acestep.runtime.sizes import Part, PartSize, Sizes
from scripts.published import DIT_2B, DIT_XL, OOBLECK, PLANNER_TOKENS, QWEN3, TEXT_TOKENS

Model = Literal["2B turbo", "2B base", "XL turbo", "nano"]
Planner = Literal["0.6B", "1.7B", "4B"]

PUBLISHED_2B: dict[str, Any] = {**TINY_2B, **DIT_2B}
PUBLISHED_XL: dict[str, Any] = {**TINY_2B, **DIT_XL}
NANO: dict[str, Any] = {
    **TINY_2B, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 6,
    "num_attention_heads": 4, "head_dim": 64, "use_sliding_window": False, "in_channels": 192,
    "audio_acoustic_hidden_dim": 64, "layer_types": ["full_attention"] * 6, "fsq_dim": 256,
}  # fmt: skip


def qwen3(size: Planner, vocabulary: int = PLANNER_TOKENS, **changes: int) -> Qwen3Config:
    fixed = {"vocab_size": vocabulary, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
    return Qwen3Config.from_dict({**QWEN3[size], **fixed, **changes})


PLANNERS: dict[Planner, tuple[Qwen3Config, int]] = {
    "0.6B": (qwen3("0.6B"), 662_884_352),
    "1.7B": (qwen3("1.7B"), 1_854_243_840),
    "4B": (qwen3("4B"), 4_189_554_176),
}
PUBLISHED_VAE = VaeConfig.from_dict(OOBLECK)
NANO_VAE = VaeConfig(8, (10, 6, 4, 4, 2), (4, 16, 22, 26, 26), 8, 64, 2, 48_000)
TEXT_ENCODER = qwen3("0.6B", TEXT_TOKENS)


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
        vae=NANO_VAE if is_nano else PUBLISHED_VAE,
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
