"""How the service runs: what a request is to a song, this is to the service.

Panel, command line, `ACESTEP_*` variables, `config.toml` and the recipe's service part are
generated from these fields; no function lists them again.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from acestep.request.schema import Schema, extra, setting

DEFAULT_MODEL = "acestep-v15-nano-turbo"
AUTO = "auto"
NO_LM = "none"
MAX_STRENGTH = 2.0
BackendName = Literal["auto", "pt", "vllm"]


def _no_lm(value: object) -> object:
    """In Python, None says it as well."""
    return NO_LM if value is None else value


def _listed(value: object) -> object:
    """What may be repeated may also stand in one line, with commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return () if value is None else value


def _weighted(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not 0 <= (split_strength(value)[1] or 0.0) <= MAX_STRENGTH:
            raise PydanticCustomError(
                "sentence", "The strength of a LoRA is from 0 to 2 (you gave {value}).",
                {"value": value},
            )  # fmt: skip
    return values


def split_strength(lora: str) -> tuple[str, float | None]:
    """`PATH:0.8` as the path and the strength; None where it has none of its own."""
    path, colon, written = lora.rpartition(":")
    try:
        return (path, float(written)) if colon and path else (lora, None)
    except ValueError:  # the colon is the path's, as in C:\\loras
        return lora, None


class ServiceConfig(Schema):
    """Which models run, on which engine and device."""

    model: str = setting(
        DEFAULT_MODEL, "models", "Main Model Path",
        "The music model (DiT): a name from `acestep models list`, or a folder.",
        metavar="NAME|PATH", widget="model",
    )  # fmt: skip
    lm: Annotated[str, BeforeValidator(_no_lm)] = setting(
        AUTO, "models", "5Hz LM Model Path",
        "Plans the song for Think: a name or a folder; auto is the one that fits the model, if it "
        "is on this computer; none does without.",
        metavar="NAME|PATH|none", widget="lm",
    )  # fmt: skip
    backend: BackendName = setting(
        "auto", "models", "5Hz LM Backend",
        "Engine of the 5Hz LM: pt runs everywhere, vllm is faster on NVIDIA; auto tries vllm first "
        "where it is installed.",
        recorded=True,
    )  # fmt: skip
    device: str = setting(
        AUTO, "models", "Device", "auto, cuda, cuda:N, mps or cpu.",
        metavar="DEVICE", widget="device", recorded=True,
    )  # fmt: skip
    lm_device: str = setting(
        AUTO, "models", "LM Device", "Device of the 5Hz LM; auto is that of the music model.",
        metavar="DEVICE", widget="device", recorded=True,
    )  # fmt: skip
    offload_dit: bool = setting(
        False, "memory", "Offload DiT to CPU",
        "Keeps the music model in main memory and moves it to the GPU layer by layer: it then "
        "takes less than 1 GB there. Without it the memory plan does so only when it must.",
        recorded=True,
    )  # fmt: skip
    int8: bool = setting(
        False, "memory", "INT8 Quantization",
        "Stores the big matrices in 8 bits: about half the memory, a small loss of exactness. "
        "Works with LoRA and offload.",
        recorded=True,
    )  # fmt: skip
    lm_nf4: bool = setting(
        False, "memory", "NF4 for the 5Hz LM",
        "Stores the 5Hz LM's matrices in 4 bits, for the 4B on a small card: plans differ more "
        "than with INT8.",
        recorded=True,
    )  # fmt: skip
    memory_limit: float | None = setting(
        None, "memory", "Memory Limit",
        "The most that a song may take of the device's memory; empty is what is free.",
        unit="GB", ge=0.5, le=1024, placeholder="auto: what is free",
    )  # fmt: skip
    unload_after: float = setting(
        30.0, "memory", "Unload After",
        "Minutes without a song after which the models give their memory back; the next song loads "
        "them again. 0 keeps them.",
        unit="min", ge=0.0, le=1440.0, live=True,
    )  # fmt: skip
    lora: Annotated[
        tuple[str, ...], BeforeValidator(_listed), AfterValidator(_weighted)
    ] = setting(
        (), "adapters", "LoRA",
        "Adapters of the music model: a PEFT folder or a .safetensors file, by path or by its name "
        "in the LoRA folder; :0.5 behind it is its own strength.",
        metavar="PATH[:STRENGTH]", widget="lora", recorded=True, live=True,
    )  # fmt: skip
    lora_strength: float = setting(
        1.0, "adapters", "LoRA Strength",
        "Of the adapters that name none of their own; 0 is off.",
        ge=0.0, le=MAX_STRENGTH, widget="strength", recorded=True, live=True,
    )  # fmt: skip
    checkpoints: Path | None = setting(
        None, "models", "Models Folder",
        "Where model folders are; empty is the program's own `checkpoints`.",
        metavar="DIR", widget="folder", flags=("--models-dir",),
    )  # fmt: skip

    def is_live_change(self, other: "ServiceConfig") -> bool:
        """Whether `other` differs in nothing that the networks would have to be read again for."""
        fields = type(self).model_fields
        return all(
            getattr(self, name) == getattr(other, name)
            for name, field in fields.items()
            if not extra(field)["live"]
        )

    def recorded(self) -> dict[str, Any]:
        """What a recipe keeps: the settings that may change samples."""
        fields = type(self).model_fields
        names = {name for name, field in fields.items() if extra(field)["recorded"]}
        return self.model_dump(mode="json", include=names)
