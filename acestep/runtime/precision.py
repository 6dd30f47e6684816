"""In which precision the networks compute, and why: one rule for plan, store and doctor.

bfloat16 where the device computes in it, which the models were trained in; float32 elsewhere.
float16, the other short type of older GPUs, overflows in XL's residual stream.
"""

from dataclasses import dataclass
from typing import Literal

DeviceKind = Literal["cuda", "mps", "cpu"]
DtypeName = Literal["float32", "bfloat16"]

# Below this width a CPU computes in float32: rounding and converting cost more than they save.
WIDE = 1024


@dataclass(frozen=True)
class Precision:
    """What each network computes in.

    Attributes:
        dtype: of the DiT and the encoders.
        vae: of the VAE.
        planner: of the 5Hz LM, on its own device.
        reason: why it is float32 where bfloat16 was to be expected; empty otherwise.
    """

    dtype: DtypeName
    vae: DtypeName
    planner: DtypeName
    reason: str = ""


def choose_precision(
    kind: DeviceKind,
    *,
    has_bf16: bool,
    width: int,
    planner_kind: DeviceKind | None = None,
    planner_has_bf16: bool | None = None,
) -> Precision:
    """The precision on a device.

    On Apple GPUs several operations that the VAE and the samplers need are slower or inexact in
    bfloat16. On a CPU a wide model gains from it, where the CPU multiplies in it: at the 2B's width
    two layers of the DiT then differ by 0.7 % from float32, which further steps and guidance take
    in their stride. The VAE's 1.3 % would be heard as they are, 38 dB below the music, and on a CPU
    float32 is to be had.

    Args:
        has_bf16: whether the device multiplies in bfloat16.
        width: hidden size of the music model.
        planner_kind, planner_has_bf16: of the planner's device where it has its own.
    """
    planner = planner_dtype(
        planner_kind or kind, has_bf16 if planner_has_bf16 is None else planner_has_bf16
    )
    if kind == "cuda" and not has_bf16:
        return Precision("float32", "float32", planner, "this card has no bfloat16")
    if kind == "mps":
        return Precision("float32", "float32", planner)
    if kind == "cpu" and not (has_bf16 and width >= WIDE):
        return Precision("float32", "float32", planner)
    return Precision("bfloat16", "float32" if kind == "cpu" else "bfloat16", planner)


def planner_dtype(kind: DeviceKind, has_bf16: bool) -> DtypeName:
    """Writing a code reads every weight, so half as many bytes are worth it at any width."""
    return "bfloat16" if has_bf16 and kind != "mps" else "float32"
