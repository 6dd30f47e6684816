"""How much memory the weights of each network take once they are loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from acestep.models.constants import NF4_BLOCKS
from acestep.runtime.precision import DtypeName, Precision
from acestep.runtime.sizes import Part, PartSize, Sizes

WeightFormat = Literal["plain", "int8", "nf4"]

ITEM_BYTES: Mapping[DtypeName, int] = {"float32": 4, "bfloat16": 2}
FP32_BYTES = 4
STREAMED_LAYERS = 2  # one computes while the next one comes


@dataclass(frozen=True)
class WeightMemory:
    """Bytes of weights, by network.

    Attributes:
        int8, lm_nf4: whether the user wants them smaller; see `ServiceConfig`.
        planner_is_on_cpu: whether the 5Hz LM computes there.
    """

    sizes: Sizes
    precision: Precision
    int8: bool = False
    lm_nf4: bool = False
    planner_is_on_cpu: bool = False

    def of(self, part: Part) -> int:
        """Bytes of a part's own numbers."""
        dtype = self.precision.vae if part == "vae" else self.precision.dtype
        held: WeightFormat = "int8" if self.int8 else "plain"
        if part == "planner":
            dtype = self.precision.planner
            held = "nf4" if self.lm_nf4 else held
        return held_bytes(self.sizes.parts[part], dtype, held)

    def streamed(self) -> tuple[int, int]:
        """Bytes of the two layers that a streamed DiT has on the device, and of the rest of it."""
        held: WeightFormat = "int8" if self.int8 else "plain"
        layer = held_bytes(self.sizes.dit_layer, self.precision.dtype, held)
        layers = held_bytes(self.sizes.dit_layers, self.precision.dtype, held)
        return STREAMED_LAYERS * layer, self.of("dit") - layers

    def planner(self) -> int:
        """On a CPU the rows that write codes are kept a second time, as its kernels read them."""
        total = self.of("planner")
        config = self.sizes.planner
        if config is not None and self.planner_is_on_cpu:
            item = ITEM_BYTES[self.precision.planner]
            total += self.sizes.dit.codebook_size * config.hidden_size * item
        return total


def held_bytes(size: PartSize, dtype: DtypeName, held: WeightFormat) -> int:
    """Bytes of a network's weights: INT8 has a scale in fp32 for every row, NF4 for every block."""
    item = ITEM_BYTES[dtype]
    if held == "plain":
        return size.numbers * item
    exact = (size.numbers - size.quantizable) * item
    if held == "int8":
        return exact + size.quantizable + size.rows * FP32_BYTES
    return exact + size.quantizable // 2 + size.quantizable // NF4_BLOCKS[0] * FP32_BYTES
