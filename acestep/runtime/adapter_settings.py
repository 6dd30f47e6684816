"""What stands beside an adapter's numbers: PEFT's settings, and its maker's trigger words.

The settings turn a layer's rank into the factor of its product. A setting that would make the same
numbers mean something else, and is not known here, refuses the file.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acestep.errors import CheckpointError

PEFT_CONFIG = "adapter_config.json"
LOKR_CONFIG = "lokr_config.json"
MAX_SETTINGS = 1_000_000  # bytes; PEFT writes one kilobyte
DIFFUSERS_SETTINGS = "lora_adapter_metadata"
TRIGGERS = ("modelspec.trigger_phrase", "hot_step_trigger", "trigger_words", "trigger_word")
PEFT_TYPES = ("LORA", "LOKR", None)  # some trainers leave it out
# Ways to begin that leave the model's own weights as they were; others also changed those.
UNTOUCHING_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "lycoris")
OTHER_MATHS = ("fan_in_fan_out", "layer_replication")
HARMLESS = {"use_rslora", "use_dora", "use_effective_conv2d", "eva_config", "megatron_config"}
# A pattern names layers; without groups it cannot take long to say no.
PATTERN = re.compile(r"[\w.\\^*+$\[\]|-]{1,200}", re.ASCII)
MAX_REPEATS = 3


@dataclass(frozen=True)
class AdapterSettings:
    """From a layer's rank to the factor of its product, as PEFT has it.

    Attributes:
        source: the file's name, for sentences.
        rank: of every layer that `ranks` does not name; None where nothing says it.
        alpha: likewise. Unsaid, and without a layer's own, the factor is 1, as in ComfyUI and
            diffusers.
        ranks: by the end of a layer's name, or a pattern for it.
    """

    source: str
    rank: float | None = None
    alpha: float | None = None
    is_rank_stabilized: bool = False  # arXiv:2312.03732
    is_dora: bool = False
    is_peft_lokr: bool = False  # PEFT's LoKr divides by the asked rank, LyCORIS's by the matrices'
    ranks: Mapping[str, float] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    trigger_words: str = ""

    @classmethod
    def read(
        cls, file: Path, metadata: Mapping[str, str], *, has_folder: bool
    ) -> "AdapterSettings":
        """What is said about the weights in `file`.

        Args:
            metadata: the file's own.
            has_folder: whether the settings beside the file are about it.

        Raises:
            CheckpointError: they cannot be read, or change what the numbers mean in a way that is
                not known here.
        """
        peft = _json(file.parent / PEFT_CONFIG) if has_folder else {}
        lokr = _json(file.parent / LOKR_CONFIG) if has_folder else {}
        words = _trigger_words(metadata, peft, lokr)
        if not (values := peft or _diffusers_settings(file.name, metadata)):
            return cls(file.name, trigger_words=words)
        _refuse_other_kinds(file.name, values)
        is_lokr = values.get("peft_type") == "LOKR"
        return cls(
            file.name,
            rank=_number(file.name, values, "r"),
            alpha=_number(file.name, values, "alpha" if is_lokr else "lora_alpha"),
            is_rank_stabilized=bool(values.get("use_rslora")),
            is_dora=bool(values.get("use_dora")),
            is_peft_lokr=is_lokr,
            ranks=_patterns(file.name, values.get("rank_pattern")),
            alphas=_patterns(file.name, values.get("alpha_pattern")),
            trigger_words=words,
        )

    def rank_of(self, layer: str) -> float | None:
        """The rank that the settings say."""
        return _of(layer, self.ranks, self.rank)

    def factor(self, layer: str, rank: float, alpha: float | None = None) -> float:
        """What the product of a layer's matrices is multiplied by.

        Args:
            alpha: the layer's own; it is divided by the rank, whatever the settings say: LyCORIS
                writes it so that this is right for rank-stabilized ones too.
        """
        if alpha is not None:
            return alpha / rank
        if (alpha := _of(layer, self.alphas, self.alpha)) is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)

    def check_rank(self, layer: str, rank: int) -> None:
        """
        Raises:
            CheckpointError: the settings say another rank than the numbers have.
        """
        if (said := self.rank_of(layer)) not in (None, rank):
            raise CheckpointError(
                f"{self.source}: '{layer}' has rank {rank}, but its settings say {said}."
            )


def _of(layer: str, patterns: Mapping[str, float], usual: float | None) -> float | None:
    """PEFT's rule: the first pattern that is the layer's name or the end of it."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return usual


def _refuse_other_kinds(source: str, values: Mapping[str, Any]) -> None:
    kind = values.get("peft_type")
    if kind not in PEFT_TYPES:
        raise CheckpointError(f"{source} is an adapter of type {kind}, which is not known here.")
    if (start := values.get("init_lora_weights")) not in UNTOUCHING_STARTS:
        raise CheckpointError(
            f"{source} was begun with '{start}', which changed the model's own weights too; "
            "convert it to a plain LoRA with PEFT."
        )
    for key, value in values.items():
        is_variant = key.startswith("use_") or key.endswith("_config") or key in OTHER_MATHS
        if value and is_variant and key not in HARMLESS:
            raise CheckpointError(f"{source} was made with '{key}', which is not known here.")


def _number(source: str, values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    if value is not None and (not _is_number(value) or (key == "r" and value <= 0)):
        raise CheckpointError(f"{source}: its settings say {value!r} for {key}.")
    return value


def _json(path: Path) -> Mapping[str, Any]:
    """A trainer's settings; nothing where there are none.

    Raises:
        CheckpointError: not a JSON object, or far too long.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_SETTINGS:
            raise CheckpointError(f"{path} is far larger than settings are; it is not read.")
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return values


def _diffusers_settings(source: str, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """diffusers keeps PEFT's settings in the file, each under its part's name."""
    if (written := metadata.get(DIFFUSERS_SETTINGS)) is None:
        return {}
    try:
        values = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source}: its '{DIFFUSERS_SETTINGS}' cannot be read.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{source}: its '{DIFFUSERS_SETTINGS}' is no JSON object.")
    return {key.removeprefix("transformer."): value for key, value in values.items()}


def _patterns(source: str, values: object) -> Mapping[str, float]:
    """
    Raises:
        CheckpointError: not numbers by layer names.
    """
    values = values or {}
    if not isinstance(values, dict) or not all(map(_is_number, values.values())):
        raise CheckpointError(f"{source}: the settings' patterns are not numbers by layer names.")
    for pattern in values:
        if not PATTERN.fullmatch(pattern) or sum(map(pattern.count, "*+")) > MAX_REPEATS:
            raise CheckpointError(f"{source}: the pattern '{pattern}' is too intricate to follow.")
        try:
            re.compile(pattern)
        except re.error as error:
            raise CheckpointError(f"{source}: '{pattern}' is no pattern ({error}).") from error
    return values


def _is_number(value: object) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)  # pyright: ignore[reportArgumentType]


def _trigger_words(metadata: Mapping[str, str], *settings: Mapping[str, Any]) -> str:
    for source in (metadata, *settings):
        for key in TRIGGERS:
            words = source.get(key)
            if isinstance(words, list):
                words = ", ".join(str(word) for word in words)
            if isinstance(words, str) and words.strip():
                return words.strip()
    return ""
