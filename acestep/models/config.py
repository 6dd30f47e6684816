"""Network sizes, read from the `config.json` that lies beside every checkpoint's weights.

Fields are named as in the file, so nano, 2B and XL are the same code with other numbers. Keys that
no network here needs are ignored; a key that is needed and missing, of the wrong kind, or set to
something these networks would compute differently is a `CheckpointError`.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, get_args

from acestep.checkpoints.files import CONFIG_FILE
from acestep.errors import CheckpointError

SLIDING = "sliding_attention"
FULL = "full_attention"
RESIDUAL_REACH = 3 * (1 + 3 + 9)  # positions that a VAE block's residual units look to each side
OUTER_REACH = 3  # the same of the VAE's first and last convolution of seven


@dataclass(frozen=True)
class AceStepConfig:
    """Sizes of the diffusion transformer, its condition encoder and its 5 Hz codec."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    sliding_window: int
    in_channels: int  # context and noisy latents side by side
    audio_acoustic_hidden_dim: int  # VAE latent channels
    patch_size: int  # latent frames per DiT position
    text_hidden_dim: int
    num_lyric_encoder_hidden_layers: int
    num_timbre_encoder_hidden_layers: int
    timbre_hidden_dim: int
    timbre_fix_frame: int  # latent frames of one timbre reference
    pool_window_size: int  # latent frames per code
    num_attention_pooler_hidden_layers: int  # of the tokenizer and of the detokenizer
    fsq_dim: int
    fsq_input_levels: tuple[int, ...]
    # XL writes the condition encoder's own sizes; in 2B files they are absent, the DiT's serve.
    encoder_hidden_size: int | None = None
    encoder_intermediate_size: int | None = None
    encoder_num_attention_heads: int | None = None
    encoder_num_key_value_heads: int | None = None
    use_sliding_window: bool = True
    layer_types: tuple[str, ...] = ()
    fsq_input_num_quantizers: int = 1
    is_turbo: bool = False
    model_version: str = ""

    def __post_init__(self) -> None:
        if not self.layer_types:
            alternating = tuple((SLIDING, FULL)[i % 2] for i in range(self._deepest))
            object.__setattr__(self, "layer_types", alternating)

    @classmethod
    def read(cls, folder: Path) -> "AceStepConfig":
        """The sizes of the checkpoint in `folder`.

        Raises:
            CheckpointError: no usable `config.json`.
        """
        return cls.from_dict(_read_json(folder / CONFIG_FILE), source=str(folder / CONFIG_FILE))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = CONFIG_FILE) -> "AceStepConfig":
        config = cls(**_fields(cls, _with_rope_theta(values), source))
        _refuse_other_maths(values, source)
        if config.fsq_input_num_quantizers != 1:
            raise CheckpointError(
                f"{source}: fsq_input_num_quantizers is {config.fsq_input_num_quantizers}; "
                "only one quantizer is supported."
            )
        if len(config.layer_types) < config._deepest:
            raise CheckpointError(
                f"{source}: layer_types names {len(config.layer_types)} layers, "
                f"but the deepest network has {config._deepest}."
            )
        if unknown := sorted(set(config.layer_types) - {SLIDING, FULL}):
            raise CheckpointError(f"{source}: layer_types holds '{unknown[0]}', which is unknown.")
        for part in (config, config.encoder):
            _check_heads(part.num_attention_heads, part.num_key_value_heads, part.head_dim, source)
        return config

    @property
    def _deepest(self) -> int:
        return max(
            self.num_hidden_layers,
            self.num_lyric_encoder_hidden_layers,
            self.num_timbre_encoder_hidden_layers,
            self.num_attention_pooler_hidden_layers,
        )

    @property
    def encoder(self) -> "AceStepConfig":
        """The sizes seen by condition encoder, tokenizer and detokenizer, as if they were all."""
        return dataclasses.replace(
            self,
            encoder_hidden_size=None,
            encoder_intermediate_size=None,
            encoder_num_attention_heads=None,
            encoder_num_key_value_heads=None,
            hidden_size=self.encoder_hidden_size or self.hidden_size,
            intermediate_size=self.encoder_intermediate_size or self.intermediate_size,
            num_attention_heads=self.encoder_num_attention_heads or self.num_attention_heads,
            num_key_value_heads=self.encoder_num_key_value_heads or self.num_key_value_heads,
        )

    @property
    def prepends_timbre_token(self) -> bool:
        """XL reads a learned token where 2B reads the reference's first frame.

        See docs/model.md, Timbre.

        Nothing in the file says so directly: an encoder of another width than the DiT's is what
        sets XL apart. The key alone is not: a 2B fine-tune may have been saved with it.
        """
        return self.encoder_hidden_size not in (None, self.hidden_size)

    @property
    def is_xl(self) -> bool:
        return self.prepends_timbre_token

    @property
    def context_channels(self) -> int:
        """Source latents and chunk mask: what the DiT sees beside the noisy latents."""
        return self.in_channels - self.audio_acoustic_hidden_dim

    @property
    def codebook_size(self) -> int:
        return math.prod(self.fsq_input_levels)

    def window(self, layer: int) -> int | None:
        """How far layer number `layer` looks to each side; None is everywhere."""
        slides = self.use_sliding_window and self.layer_types[layer] == SLIDING
        return self.sliding_window if slides else None


@dataclass(frozen=True)
class VaeConfig:
    """Sizes of the Oobleck autoencoder (diffusers' `AutoencoderOobleck` file layout)."""

    encoder_hidden_size: int
    downsampling_ratios: tuple[int, ...]
    channel_multiples: tuple[int, ...]
    decoder_channels: int
    decoder_input_channels: int
    audio_channels: int
    sampling_rate: int

    @classmethod
    def read(cls, folder: Path) -> "VaeConfig":
        """The sizes of the checkpoint in `folder`.

        Raises:
            CheckpointError: no usable `config.json`.
        """
        return cls.from_dict(_read_json(folder / CONFIG_FILE), source=str(folder / CONFIG_FILE))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = CONFIG_FILE) -> "VaeConfig":
        config = cls(**_fields(cls, values, source))
        if len(config.downsampling_ratios) != len(config.channel_multiples):
            raise CheckpointError(
                f"{source}: downsampling_ratios has {len(config.downsampling_ratios)} numbers, "
                f"channel_multiples {len(config.channel_multiples)}; they must be as many."
            )
        return config

    @property
    def hop(self) -> int:
        """Samples per latent frame."""
        return math.prod(self.downsampling_ratios)

    @property
    def decoder_halo(self) -> int:
        """Latent frames on each side that reach into one frame's samples: 9 for published strides.

        Walks from one frame's samples back to the latents, keeping the range of positions needed.
        """
        first, last = -OUTER_REACH, self.hop - 1 + OUTER_REACH
        for stride in self.downsampling_ratios:
            first, last = first - RESIDUAL_REACH, last + RESIDUAL_REACH
            # A kernel of 2·stride with padding stride / 2: input i writes to the outputs
            # i·stride - stride / 2 … i·stride + 3·stride / 2 - 1.
            first, last = -((stride * 3 // 2 - 1 - first) // stride), (last + stride // 2) // stride
        return max(OUTER_REACH - first, last + OUTER_REACH)

    @property
    def encoder_halo(self) -> int:
        """Frames of audio on each side that reach into one latent frame: 7 for published strides.

        Walks from one latent frame back to the samples, keeping the range of positions needed.
        """
        first, last = -1, 1
        for stride in reversed(self.downsampling_ratios):
            # A kernel of 2·stride with padding stride / 2.
            first, last = first * stride - stride // 2, last * stride + stride * 3 // 2 - 1
            first, last = first - RESIDUAL_REACH, last + RESIDUAL_REACH
        first, last = first - OUTER_REACH, last + OUTER_REACH
        return math.ceil(max(-first, last - (self.hop - 1)) / self.hop)


@dataclass(frozen=True)
class Qwen3Config:
    """Sizes of a Qwen3 decoder: the text encoder and the 5 Hz planner."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool = True

    @classmethod
    def read(cls, folder: Path) -> "Qwen3Config":
        """The sizes of the checkpoint in `folder`.

        Raises:
            CheckpointError: no usable `config.json`.
        """
        return cls.from_dict(_read_json(folder / CONFIG_FILE), source=str(folder / CONFIG_FILE))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = CONFIG_FILE) -> "Qwen3Config":
        config = cls(**_fields(cls, _with_rope_theta(values), source))
        _refuse_other_maths(values, source)
        _check_heads(
            config.num_attention_heads, config.num_key_value_heads, config.head_dim, source
        )
        return config


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: the folder is not a complete model.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return values


def _with_rope_theta(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """transformers 5 moves `rope_theta` into `rope_parameters`; both spellings are in use."""
    if values.get("rope_theta") is not None:
        return values
    for name in ("rope_parameters", "rope_scaling"):
        nested = values.get(name)
        if isinstance(nested, dict) and "rope_theta" in nested:
            return {**values, "rope_theta": nested["rope_theta"]}
    return values


def _refuse_other_maths(values: Mapping[str, Any], source: str) -> None:
    """Settings that would change what the networks compute; every published file has these."""
    expected = {"hidden_act": "silu", "attention_bias": False}
    for key, wanted in expected.items():
        if values.get(key, wanted) != wanted:
            raise CheckpointError(
                f"{source}: {key} is {values[key]!r}; only {wanted!r} is supported."
            )
    for name in ("rope_parameters", "rope_scaling"):
        nested = values.get(name)
        kind = nested.get("rope_type", nested.get("type")) if isinstance(nested, dict) else None
        if kind not in (None, "default"):
            raise CheckpointError(f"{source}: {name} asks for '{kind}', which is not supported.")


def _check_heads(queries: int, keys: int, head_dim: int, source: str) -> None:
    if queries % keys:
        raise CheckpointError(
            f"{source}: {queries} attention heads cannot share {keys} key-value heads evenly."
        )
    if head_dim % 2:
        raise CheckpointError(
            f"{source}: head_dim is {head_dim}; rotary positions need an even one."
        )


def _fields(cls: Any, values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The dataclass's own keys, each of the kind it must be; a null counts as absent."""
    found = {}
    for field in dataclasses.fields(cls):
        value = values.get(field.name)
        if value is not None:
            found[field.name] = _checked(field.name, value, field.type, source)
        elif field.default is MISSING:
            raise CheckpointError(f"{source} has no '{field.name}'.")
    return found


def _checked(key: str, value: Any, kind: Any, source: str) -> Any:
    number = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if kind in (int, int | None) and number:
        return value
    if kind is float and (number or (isinstance(value, float) and 0 < value < math.inf)):
        return float(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return value
    if kind in (tuple[int, ...], tuple[str, ...]) and isinstance(value, list | tuple) and value:
        item_kind = get_args(kind)[0]
        return tuple(_checked(key, item, item_kind, source) for item in value)
    raise CheckpointError(f"{source}: {key} is {value!r}, but must be {_wanted(kind)}.")


def _wanted(kind: Any) -> str:
    return {
        int: "a whole number above 0",
        int | None: "a whole number above 0",
        float: "a number above 0",
        bool: "true or false",
        str: "text",
        tuple[int, ...]: "a list of whole numbers above 0",
        tuple[str, ...]: "a list of words",
    }[kind]
