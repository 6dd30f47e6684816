"""The proof that an adapter acts: how far it moves the weights, and what the DiT puts out."""

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import nn

from acestep.models.dit import DiT
from acestep.models.quantize import QuantizedLinear, dense_weight
from acestep.runtime.adapter_files import Adapter
from acestep.runtime.adapters import (
    Delta,
    LoadedAdapter,
    LowRank,
    Weighted,
    attached,
    linear_of,
)
from acestep.types import Latents

PROBE_FRAMES = 16
PROBE_TOKENS = 8
PROBE_TIME = 0.5


@dataclass(frozen=True)
class AdapterEffect:
    """What one adapter does at one strength.

    Attributes:
        weight_change: ‖ΔW‖ / ‖W‖ over all layers that it changes.
        output_change: relative L2 change of one test forward.
    """

    adapter: Adapter
    strength: float
    weight_change: float
    output_change: float

    @property
    def sentence(self) -> str:
        adapter = self.adapter
        rank = "" if adapter.rank is None else f" rank {adapter.rank}"
        layers = len(adapter.layers)
        at = "" if self.strength == 1 else f" at strength {self.strength:g}"
        if self.strength == 0:
            does = "off at strength 0."
        elif self.weight_change == 0:
            does = "changes nothing: every number that it would add is 0."
        else:
            does = (
                f"changes the weights by {_percent(self.weight_change)} "
                f"and the output by {_percent(self.output_change)}{at}."
            )
        words = f" Trigger words: {adapter.trigger_words}." if adapter.trigger_words else ""
        kind = f"{adapter.name}: {adapter.kind}{rank}, {layers} of {layers} layers, "
        return kind + does + words


def adapter_effect(
    dit: DiT, loaded: LoadedAdapter, strength: float = 1.0, device: torch.device | None = None
) -> AdapterEffect:
    """Measure one adapter alone; the cost is two short forwards."""
    weighted = [(loaded, strength)]
    return AdapterEffect(
        loaded.adapter,
        strength,
        weight_change(dit, weighted),
        forward_change(dit, weighted, device),
    )


def weight_change(dit: DiT, adapters: Weighted) -> float:
    """‖ΔW‖ / ‖W‖ of all adapters together, over every layer that one of them changes."""
    by_layer: defaultdict[str, list[tuple[Delta, float]]] = defaultdict(list)
    for loaded, strength in adapters:
        for layer, delta in loaded.deltas.items():
            by_layer[layer].append((delta, strength))
    changed = whole = 0.0
    for layer, deltas in by_layer.items():
        linear = linear_of(dit, layer)
        changed += _change_norm(deltas, linear) ** 2
        whole += _weight_norm(linear) ** 2
    return math.sqrt(changed / whole) if whole else 0.0


@torch.inference_mode()
def forward_change(dit: DiT, adapters: Weighted, device: torch.device | None = None) -> float:
    """How far the adapters move the velocity of one fixed, short input: relative L2.

    Args:
        device: where the layers are run; None is where the DiT is.
    """
    place = device or dit.scale_shift_table.device
    before = _probe(dit, place)
    with attached(dit, adapters, place):
        after = _probe(dit, place)
    return ((after - before).norm() / before.norm()).item()


def _probe(dit: DiT, device: torch.device) -> Latents:
    """The velocity of noise under random conditions, the same at every call."""
    config = dit.config
    generator = torch.Generator().manual_seed(0)

    def drawn(rows: int, width: int) -> torch.Tensor:
        return torch.randn(1, rows, width, generator=generator).to(device)

    latents = drawn(PROBE_FRAMES, config.audio_acoustic_hidden_dim)
    states = drawn(PROBE_TOKENS, config.encoder.hidden_size)
    context = drawn(PROBE_FRAMES, config.context_channels)
    times = torch.full((1,), PROBE_TIME, device=device)
    return dit(latents, times, times, states, context).float()


def _weight_norm(linear: nn.Linear | QuantizedLinear) -> float:
    if isinstance(linear, nn.Linear):  # summed in fp32 without an fp32 copy of it
        return torch.linalg.vector_norm(linear.weight, dtype=torch.float32).item()
    return dense_weight(linear).norm().item()


def _change_norm(deltas: list[tuple[Delta, float]], linear: nn.Linear | QuantizedLinear) -> float:
    """‖Σ strength · ΔW‖; written out only where the factors do not tell."""
    products = [(delta.product, delta.factor * strength) for delta, strength in deltas]
    is_dora = any(delta.rows is not None for delta, _ in deltas)
    if len(products) == 1 and not is_dora:
        product, factor = products[0]
        return product.norm() * abs(factor)
    low_rank = [(product, factor) for product, factor in products if isinstance(product, LowRank)]
    if len(low_rank) == len(products) and not is_dora:
        up = torch.cat([product.up.double() * factor for product, factor in low_rank], dim=1)
        return LowRank(up, torch.cat([product.down.double() for product, _ in low_rank])).norm()
    weight = dense_weight(linear).cpu()
    change = torch.zeros_like(weight)
    for delta, strength in deltas:
        change += delta.dense(weight) * strength
    return change.norm().item()


def _percent(share: float) -> str:
    percent = 100 * share
    if 0 < percent < 0.1:
        return "less than 0.1 %"
    return f"{percent:.1f} %".replace(".0 %", " %") if percent < 10 else f"{percent:.0f} %"
