"""Adapters at work: what they add to the outputs of the DiT's linear layers while it runs.

The weights stay as they are, so they may be INT8, elsewhere, or streamed, and taking an adapter off
leaves nothing behind. Each layer's hook adds the sum over adapters of strength · ΔW x, where

LoRA   ΔW = factor · up · down                                   arXiv:2106.09685
LoKr   ΔW = factor · w1 ⊗ w2, never written out                  arXiv:2309.14859
DoRA   ΔW = rows · (W + Δ) − W, rows = m / ‖W + Δ‖ by outputs    arXiv:2402.09353
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from acestep.errors import CheckpointError
from acestep.models.dit import DiT
from acestep.models.quantize import QuantizedLinear, dense_weight
from acestep.runtime.adapter_files import Adapter, LayerChange, refuse_misfit

Inputs = Float[Tensor, "*batch into"]
Outputs = Float[Tensor, "*batch out"]
Matrix = Float[Tensor, "out into"]
Rows = Float[Tensor, " out"]


class Product(Protocol):
    """A matrix that is kept as its factors."""

    def __call__(self, x: Inputs) -> Outputs: ...

    def dense(self) -> Matrix:
        """Written out, in fp32."""
        ...

    def norm(self) -> float:
        """Frobenius norm, without writing it out."""
        ...

    def times(self, factor: float, device: torch.device, dtype: torch.dtype) -> "Product":
        """The same times a number, made ready for a run: multiplied in fp32, rounded once."""
        ...


@dataclass(frozen=True)
class LowRank:
    """up · down."""

    up: Float[Tensor, "out rank"]
    down: Float[Tensor, "rank into"]

    def __call__(self, x: Inputs) -> Outputs:
        return F.linear(F.linear(x, self.down), self.up)

    def dense(self) -> Matrix:
        return self.up.float() @ self.down.float()

    def norm(self) -> float:
        """tr((upᵀ up)(down downᵀ)) is a sum over rank × rank."""
        up, down = self.up.double(), self.down.double()
        return ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt().item()

    def times(self, factor: float, device: torch.device, dtype: torch.dtype) -> "LowRank":
        up = (self.up.float() * factor).to(device, dtype)
        return LowRank(up, self.down.to(device, dtype))


@dataclass(frozen=True)
class Kronecker:
    """w1 ⊗ w2, where w2 is one matrix or the product of two."""

    w1: Float[Tensor, "out1 in1"]
    w2: tuple[Tensor, ...]

    def __call__(self, x: Inputs) -> Outputs:
        """With x and y read as matrices, in1 × in2 and out1 × out2: y = w1 x w2ᵀ."""
        y = x.unflatten(-1, (self.w1.shape[1], -1))
        for matrix in reversed(self.w2):
            y = F.linear(y, matrix)
        return (self.w1 @ y).flatten(-2)

    def dense(self) -> Matrix:
        return torch.kron(self.w1.float(), self._w2().float())

    def norm(self) -> float:
        return (self.w1.double().norm() * self._w2().double().norm()).item()

    def times(self, factor: float, device: torch.device, dtype: torch.dtype) -> "Kronecker":
        w1 = (self.w1.float() * factor).to(device, dtype)
        return Kronecker(w1, tuple(matrix.to(device, dtype) for matrix in self.w2))

    def _w2(self) -> Tensor:
        first, *rest = self.w2
        return first @ rest[0] if rest else first


@dataclass(frozen=True)
class Delta:
    """ΔW of one layer.

    Attributes:
        rows: DoRA's m / ‖W + Δ‖; None where lengths stay as they come.
    """

    product: Product
    factor: float
    rows: Rows | None = None

    def dense(self, weight: Matrix) -> Matrix:
        """Written out in fp32; `weight` is the layer's own."""
        change = self.product.dense() * self.factor
        if self.rows is None:
            return change
        return self.rows[:, None] * (weight + change) - weight


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter with its numbers, in main memory as they are stored."""

    adapter: Adapter
    deltas: Mapping[str, Delta]


Weighted = Sequence[tuple[LoadedAdapter, float]]  # with the strength of each: 1 is as trained


def load_adapter(adapter: Adapter, dit: DiT) -> LoadedAdapter:
    """Read the numbers of an adapter for this DiT.

    Raises:
        CheckpointError: it does not fit, cannot be read, or holds NaN or infinite numbers.
    """
    refuse_misfit(adapter, dit.config)
    deltas = {}
    try:
        with safe_open(adapter.file, framework="pt") as tensors:
            for layer, change in adapter.layers.items():
                parts = {
                    part: _sound(adapter, change, part, tensors.get_tensor(change.keys[part]))
                    for part in change.stored
                }
                deltas[layer] = _delta(change, parts, linear_of(dit, layer))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{adapter.file} cannot be read ({error}).") from error
    return LoadedAdapter(adapter, deltas)


@contextmanager
def attached(dit: DiT, adapters: Weighted, device: torch.device | None = None) -> Iterator[None]:
    """Within the block the DiT computes with its adapters; after it, bit for bit as before.

    Args:
        adapters: each changes the weights by strength · ΔW, and they add up.
        device: where the layers are run; None is where the DiT is.
    """
    device = device or dit.scale_shift_table.device
    by_layer: defaultdict[str, list[tuple[Delta, float]]] = defaultdict(list)
    for loaded, strength in adapters:
        if strength != 0:
            for layer, delta in loaded.deltas.items():
                by_layer[layer].append((delta, strength))
    with ExitStack() as stack:
        for layer, deltas in by_layer.items():
            change = _OutputChange(deltas, device, dit.dtype)
            handle = dit.get_submodule(layer).register_forward_hook(change)
            stack.callback(handle.remove)
        yield


class _OutputChange:
    """A forward hook: what all adapters of one layer add to its output."""

    def __init__(
        self, deltas: Sequence[tuple[Delta, float]], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.plain: list[Product] = []
        self.scaled: list[tuple[Rows, Product]] = []
        own: list[Rows] = []  # of what the layer itself puts out
        low_rank: list[LowRank] = []
        for delta, strength in deltas:
            factor = delta.factor * strength
            product = delta.product.times(factor, device, dtype)
            if delta.rows is not None:
                own.append(strength * (delta.rows - 1))
                self.scaled.append((delta.rows.to(device, dtype), product))
            elif isinstance(product, LowRank):
                low_rank.append(product)
            else:
                self.plain.append(product)
        if low_rank:  # side by side they are one of a higher rank
            up = torch.cat([product.up for product in low_rank], dim=1)
            down = torch.cat([product.down for product in low_rank])
            self.plain.append(LowRank(up, down))
        self.own = torch.stack(own).sum(0).to(device, dtype) if own else None

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        (x,) = inputs
        if self.own is not None:
            bias = getattr(layer, "bias", None)
            output = output + self.own * (output if bias is None else output - bias)
        for product in self.plain:
            output = output + product(x)
        for rows, product in self.scaled:
            output = output + rows * product(x)
        return output


def linear_of(dit: DiT, layer: str) -> nn.Linear | QuantizedLinear:
    """A linear layer by its name, in whatever form its weight is kept."""
    return cast(nn.Linear | QuantizedLinear, dit.get_submodule(layer))


def _sound(adapter: Adapter, change: LayerChange, part: str, tensor: Tensor) -> Tensor:
    key = change.keys[part]
    if tuple(tensor.shape) != change.stored[part].shape:
        raise CheckpointError(f"{adapter.file} was changed while it was read.")
    if not tensor.isfinite().all():
        raise CheckpointError(
            f"{adapter.file.name} is damaged: '{key}' holds numbers that are not finite."
        )
    return tensor


def _delta(
    change: LayerChange, parts: Mapping[str, Tensor], layer: nn.Linear | QuantizedLinear
) -> Delta:
    delta = Delta(_product(change, parts), change.factor)
    if not change.is_dora:
        return delta
    weight = dense_weight(layer).cpu()
    lengths = (weight + delta.dense(weight)).norm(dim=1)
    if "magnitude" in parts:
        magnitude = parts["magnitude"]
    else:  # LyCORIS adds the least number of its dtype, so that nothing is divided by 0
        magnitude = parts["dora_scale"]
        lengths = lengths + torch.finfo(magnitude.dtype).eps
    return Delta(delta.product, delta.factor, magnitude.float().flatten() / lengths)


def _product(change: LayerChange, parts: Mapping[str, Tensor]) -> Product:
    if not change.is_lokr:
        return LowRank(parts["up"], parts["down"])
    w1 = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    w2 = ("lokr_w2",) if "lokr_w2" in parts else ("lokr_w2_a", "lokr_w2_b")
    return Kronecker(w1, tuple(parts[name] for name in w2))
