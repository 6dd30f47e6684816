"""Linear layers of a quarter or an eighth of fp32's size: INT8 by rows, NF4 by blocks.

INT8 (the switch "INT8 Quantization"): a row of a weight is whole numbers −127 … 127 times a scale.
NF4 (arXiv:2305.14314, for the planner alone): 64 numbers share a scale, each is one of sixteen
values that fit a normal distribution. What is stored is the same everywhere; the product is the
best that the device has, and `product_name` says which:

cpu, few rows    PyTorch's int8 product, rows in bf16: a step of the planner in 0.6 of fp32's time.
cpu with VNNI    whole numbers times whole numbers: fp32 rows become two bytes a number, the high
                 and the low, which units for 8 bits multiply nearly exactly.
cuda             the same with bitsandbytes' kernel, where it is installed.
elsewhere        a block of the weight at a time becomes numbers again: as fast as fp32.

Rows of one byte a number (LLM.int8, arXiv:2208.07339) would be faster still. They double the error
of a nano song, to 3.4 %; all of the above stay near 1.5 %.
"""

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Literal

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.nn import functional as F

from acestep.errors import Unavailable
from acestep.models.constants import NF4_BLOCKS

Rows = Float[Tensor, "*batch width"]
Products = Float[Tensor, "*batch out"]
WeightForm = Literal["plain", "int8", "nf4"]

INT8_MAX = 127
HIGH = 128  # what the high byte of a row's number counts; the low one is −64 … 64
FEW_ROWS = 16  # both branches of eight takes; beyond, blocks are as fast
PACK_WIDTH = 32  # PyTorch's kernel reads so many at a time, past the end of other widths
BLOCK_ROWS = 512  # of a weight, made numbers again at once: stays in a core's cache
INSTALL = "uv pip install bitsandbytes"


class _QuantizedLayer(nn.Module):
    """What both forms share: a weight in bytes, its fp32 scales, and what the rounding took.

    Nothing but plain tensors, so that it can be moved, streamed and hooked as `nn.Linear` can.

    Attributes:
        squared_error: of the weights against the file's, summed.
        squared_norm: of the file's weights.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.in_features, self.out_features = width, out
        self.squared_error = self.squared_norm = 0.0

    def _take(self, layers: "Sequence[_QuantizedLayer]") -> None:
        """Become several layers side by side."""
        self.weight = _constant(torch.cat([layer.weight for layer in layers]))
        self.scale = _constant(torch.cat([layer.scale for layer in layers]))
        self.squared_error = sum(layer.squared_error for layer in layers)
        self.squared_norm = sum(layer.squared_norm for layer in layers)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_QuantizedLayer":
        """`.to(bfloat16)` moves the scales, but does not round them."""
        values = self.scale.detach()  # the parameter's data is about to be replaced
        super()._apply(fn, recurse)
        if self.scale.dtype != values.dtype:
            self.scale = _constant(values.to(self.scale.device))
        return self


class Int8Linear(_QuantizedLayer):
    """A linear layer that holds a byte per weight.

    Attributes:
        weight: int8 [out, in].
        scale: fp32 [out]; stays fp32 when the module is cast.
        bias: [out], or None.
    """

    def __init__(self, width: int, out: int, *, bias: bool = False) -> None:
        """An empty layer; `store` fills it."""
        super().__init__(width, out)
        self.weight = _constant(torch.empty(out, width, dtype=torch.int8))
        self.scale = _constant(torch.empty(out))
        self.bias = _constant(torch.empty(out)) if bias else None

    def store(self, weight: Float[Tensor, "out width"]) -> None:
        """Take a weight, on its device; it is measured against what will stand for it."""
        whole = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        scale = torch.empty(len(weight), device=weight.device)
        self.squared_error = self.squared_norm = 0.0
        for part in _blocks(weight, BLOCK_ROWS // 2):
            exact = weight[part].float()
            self.squared_norm += exact.norm().item() ** 2
            largest = exact.abs().amax(dim=1)
            scale[part] = torch.where(largest == 0, 1.0, largest) / INT8_MAX
            scaled = exact / scale[part, None]
            rounded = scaled.round()
            whole[part] = rounded
            error = scaled.sub_(rounded).mul_(scale[part, None])
            self.squared_error += error.norm().item() ** 2
        self.weight, self.scale = _constant(whole), _constant(scale)

    @classmethod
    def joined(cls, layers: "Sequence[Int8Linear]") -> "Int8Linear":
        """One layer whose outputs are those of several without bias, side by side."""
        joined = cls(layers[0].in_features, sum(layer.out_features for layer in layers))
        joined._take(layers)
        return joined

    def forward(self, x: Rows) -> Products:
        rows = x.reshape(-1, self.in_features)
        if torch.is_grad_enabled() and x.requires_grad:  # the products below have no gradient
            product = F.linear(rows, dense_weight(self).to(x.dtype))
        else:
            product = int8_product(rows, self.weight, self.scale)
        product = product if self.bias is None else product + self.bias.to(x.dtype)
        return product.reshape(*x.shape[:-1], self.out_features)


class Nf4Linear(_QuantizedLayer):
    """A linear layer without bias that holds half a byte per weight, by bitsandbytes.

    Attributes:
        weight: two numbers per byte, uint8 [out, in / 2].
        scale: fp32 [out, in / block].
    """

    def __init__(self, width: int, out: int) -> None:
        """An empty layer; `store` fills it.

        Raises:
            Unavailable: bitsandbytes is not installed, or cannot hold rows of this width.
        """
        super().__init__(width, out)
        require_nf4()
        blocks = [size for size in NF4_BLOCKS if width % size == 0]
        if not blocks:
            raise Unavailable(
                f"NF4 needs rows of a multiple of {min(NF4_BLOCKS)} numbers, and this network's "
                f"have {width}. Choose INT8, or neither."
            )
        self.block = blocks[0]
        self.weight = _constant(torch.empty(out, width // 2, dtype=torch.uint8))
        self.scale = _constant(torch.empty(out, width // self.block))

    def store(self, weight: Float[Tensor, "out width"]) -> None:
        """Take a weight, on its device; it is measured against what will stand for it."""
        functional = _bitsandbytes().functional
        exact = weight.float()
        packed, state = functional.quantize_4bit(exact, blocksize=self.block, quant_type="nf4")
        self.weight = _constant(packed.reshape(self.weight.shape))
        self.scale = _constant(state.absmax.reshape(self.scale.shape))
        self.squared_norm = exact.square().sum().item()
        self.squared_error = (exact - dense_weight(self)).square().sum().item()

    @classmethod
    def joined(cls, layers: "Sequence[Nf4Linear]") -> "Nf4Linear":
        """One layer whose outputs are those of several without bias, side by side."""
        joined = cls(layers[0].in_features, sum(layer.out_features for layer in layers))
        joined._take(layers)
        return joined

    def forward(self, x: Rows) -> Products:
        state = _nf4_state(self, x.dtype)
        return _bitsandbytes().matmul_4bit(x, self.weight.reshape(-1, 1), quant_state=state)


QuantizedLinear = Int8Linear | Nf4Linear


def quantize_linears(
    network: nn.Module, form: WeightForm, is_chosen: Callable[[str], bool]
) -> dict[str, QuantizedLinear]:
    """Put an empty quantized layer in the place of every chosen linear layer.

    Args:
        is_chosen: whether the layer of this name is to be replaced.

    Returns:
        The new layers by name; each still has to `store` its weight.
    """
    chosen = {
        name: module
        for name, module in network.named_modules()
        if form != "plain" and isinstance(module, nn.Linear) and is_chosen(name)
    }
    made: dict[str, QuantizedLinear] = {}
    for name, linear in chosen.items():
        width, out, has_bias = linear.in_features, linear.out_features, linear.bias is not None
        if form == "nf4" and has_bias:
            raise ValueError(f"'{name}' has a bias, which NF4 layers do not.")
        with linear.weight.device:
            made[name] = (
                Nf4Linear(width, out) if form == "nf4" else Int8Linear(width, out, bias=has_bias)
            )
        network.set_submodule(name, made[name])
    return made


def dense_weight(linear: nn.Linear | QuantizedLinear) -> Float[Tensor, "out width"]:
    """The weight in fp32, as the layer multiplies with it."""
    if isinstance(linear, Int8Linear):
        return linear.weight.float() * linear.scale[:, None]
    if isinstance(linear, Nf4Linear):
        state = _nf4_state(linear, torch.float32)
        return _bitsandbytes().functional.dequantize_4bit(linear.weight.reshape(-1, 1), state)
    return linear.weight.float()


def relative_error(network: nn.Module) -> float:
    """How far all quantized weights in a network are from the file's: relative L2, 0 without any.

    It was measured while they were read, which costs no second reading.
    """
    layers = [m for m in network.modules() if isinstance(m, Int8Linear | Nf4Linear)]
    norm = sum(layer.squared_norm for layer in layers)
    return (sum(layer.squared_error for layer in layers) / norm) ** 0.5 if norm else 0.0


def product_name(device: torch.device, form: WeightForm = "int8") -> str:
    """How this device multiplies with weights of this form, in words for the log."""
    if form == "plain":
        return "PyTorch's products"
    if form == "nf4":
        return "bitsandbytes' 4-bit products"
    if device.type == "cuda":
        return (
            "bitsandbytes' int8 products"
            if _has_bitsandbytes()
            else f"weights made numbers again, block by block ({INSTALL} adds int8 products)"
        )
    if device.type == "cpu" and _has_vnni():
        return "PyTorch's int8 products (VNNI)"
    if device.type == "cpu":
        return "PyTorch's int8 product for few rows, else weights made numbers again"
    return "weights made numbers again, block by block"


def int8_product(
    rows: Float[Tensor, "row width"],
    weight: Int8[Tensor, "out width"],
    scale: Float[Tensor, " out"],
) -> Float[Tensor, "row out"]:
    """rows · (weight · scale)ᵀ, in the rows' dtype, by the device's best product."""
    if rows.device.type == "cuda" and _has_bitsandbytes():
        multiply = _bitsandbytes().functional.int8_linear_matmul
        return integer_product(rows, weight, scale, multiply)
    if rows.device.type == "cpu":
        if len(rows) <= FEW_ROWS and weight.shape[1] % PACK_WIDTH == 0:
            return packed_product(rows, weight, scale)
        # What is in bf16 has units that multiply bf16, which are as fast.
        if _has_vnni() and rows.dtype == torch.float32:
            return integer_product(rows, weight, scale, _cpu_integers)
    return blockwise_product(rows, weight, scale)


def packed_product(
    rows: Float[Tensor, "row width"],
    weight: Int8[Tensor, "out width"],
    scale: Float[Tensor, " out"],
) -> Float[Tensor, "row out"]:
    """By PyTorch's kernel, which is fast in bf16 alone; the weight is rounded once, to 8 bits.

    A row's result does not depend on the other rows.
    """
    ones = scale.new_ones(len(scale), dtype=torch.bfloat16)  # its own scales would be rounded
    product = torch.ops.aten._weight_int8pack_mm(rows.to(torch.bfloat16).contiguous(), weight, ones)
    return (product * scale).to(rows.dtype)


def integer_product(
    rows: Float[Tensor, "row width"],
    weight: Int8[Tensor, "out width"],
    scale: Float[Tensor, " out"],
    multiply: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, "row out"]:
    """Rows of 15 bits, each with its own scale, times the weight in whole numbers.

    bitsandbytes' kernels for the scales are not used: they pass through fp16, whose range the
    networks' activations may leave.

    Args:
        multiply: int8 [row, width] and int8 [out, width] → int32 [row, out].
    """
    exact = rows.float()
    largest = exact.abs().amax(dim=1, keepdim=True)
    row_scale = torch.where(largest == 0, 1.0, largest) / (INT8_MAX * HIGH)
    whole = (exact / row_scale).round_()
    high = (whole / HIGH).round_()
    bytes_ = torch.cat([high, whole.sub_(HIGH * high)]).to(torch.int8)
    upper, lower = multiply(bytes_, weight).float().chunk(2)
    return upper.mul_(HIGH).add_(lower).mul_(row_scale).mul_(scale).to(rows.dtype)


def blockwise_product(
    rows: Float[Tensor, "row width"],
    weight: Int8[Tensor, "out width"],
    scale: Float[Tensor, " out"],
) -> Float[Tensor, "row out"]:
    """As with a plain weight, of which only some rows exist at a time, in the rows' dtype."""
    parts = list(_blocks(weight, BLOCK_ROWS))
    block = rows.new_empty(parts[0].stop if parts else 0, weight.shape[1])
    product = rows.new_empty(len(rows), len(weight))
    for part in parts:
        numbers = block[: part.stop - part.start]
        numbers.copy_(weight[part]).mul_(scale[part, None])
        product[:, part] = F.linear(rows, numbers)
    return product


def require_nf4() -> None:
    """Refuse NF4 where it cannot be computed.

    Raises:
        Unavailable: bitsandbytes is not installed.
    """
    if not _has_bitsandbytes():
        raise Unavailable(f"NF4 needs bitsandbytes, which is not installed: {INSTALL}")


def _blocks(weight: Tensor, rows: int) -> Iterator[slice]:
    """The rows of a weight, so many at a time that a CPU core's cache holds them.

    On other devices all at once: a block would cost the start of a kernel.
    """
    size = rows if weight.device.type == "cpu" else max(1, len(weight))
    for start in range(0, len(weight), size):
        yield slice(start, min(start + size, len(weight)))


def _nf4_state(linear: Nf4Linear, dtype: torch.dtype) -> object:
    """What bitsandbytes wants to know beside the bytes."""
    functional = _bitsandbytes().functional
    return functional.QuantState(
        absmax=linear.scale.reshape(-1),
        shape=torch.Size((linear.out_features, linear.in_features)),
        code=_nf4_values(linear.weight.device),
        blocksize=linear.block,
        quant_type="nf4",
        dtype=dtype,
    )


@cache
def _nf4_values(device: torch.device) -> Tensor:
    return _bitsandbytes().functional.get_4bit_type("nf4", device=device)


def _cpu_integers(rows: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.aten._int_mm(rows, weight.t())


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


@cache
def _has_vnni() -> bool:
    """Whether this CPU multiplies 8-bit integers faster than it multiplies floats."""
    return bool(torch.cpu.get_capabilities().get("avx512_vnni"))


@cache
def _has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


@cache
def _bitsandbytes() -> ModuleType:
    """Imported when it is needed: it takes ten seconds of a core."""
    with warnings.catch_warnings():
        # It scripts functions on import in a way that PyTorch has announced the end of.
        warnings.simplefilter("ignore", DeprecationWarning)
        import bitsandbytes
    return bitsandbytes
