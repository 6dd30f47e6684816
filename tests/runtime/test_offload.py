"""Networks that wait in main memory compute what they would compute on the device."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from random_checkpoints import TINY_2B
from torch import nn

from acestep.models.config import AceStepConfig
from acestep.models.dit import DiT
from acestep.runtime.offload import StreamedLayers, Visitor

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
GPU = pytest.param(CUDA, marks=pytest.mark.gpu)


def dit(layers: int = 4) -> DiT:
    config = replace(AceStepConfig.from_dict(TINY_2B), num_hidden_layers=layers)
    torch.manual_seed(1)
    return DiT(config).requires_grad_(False).eval()


def velocity(network: DiT, device: torch.device = CPU) -> torch.Tensor:
    """Of fixed latents, with the conditions' keys and values made once, as a song does."""
    generator = torch.Generator().manual_seed(2)
    latents, context, states = (
        torch.randn(1, length, width, generator=generator).to(device)
        for length, width in ((30, 8), (30, 16), (7, 64))
    )
    t = torch.full((1,), 0.5, device=device)
    with torch.inference_mode():
        return network(latents, t, t, network.keys_values(states), context).cpu()


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_streamed_layers_change_nothing(layers: int, device: torch.device) -> None:
    resident = velocity(dit(layers).to(device), device)
    network = dit(layers)
    network.layers = StreamedLayers(network.layers, device)
    network.to(device)
    for _ in range(3):  # steps follow each other in the same slots
        assert torch.equal(velocity(network, device), resident)


def test_layers_in_half_precision_are_cast_on_their_way() -> None:
    """As a CPU without bf16 units reads them from the file."""
    loaded = dit().to(torch.bfloat16)
    expected = velocity(dit().to(torch.bfloat16).float())
    loaded.layers = StreamedLayers(loaded.layers, CPU, torch.float32)
    loaded.float()
    assert {p.dtype for p in loaded.layers.parameters()} == {torch.bfloat16}
    assert torch.equal(velocity(loaded), expected)


def test_a_step_that_is_broken_off_spoils_nothing() -> None:
    network, expected = dit(3), velocity(dit(3))
    network.layers = StreamedLayers(network.layers, CPU)
    for steps in range(1, 4):
        turns = iter(network.layers)
        for _ in range(steps):
            next(turns)
        cast_close(turns)
        assert torch.equal(velocity(network), expected)


def cast_close(turns: Iterator[nn.Module]) -> None:
    """What an exception in a step does to the loop over the layers."""
    getattr(turns, "close")()  # noqa: B009 (only generators have it)


def test_only_two_layers_are_outside_main_memory() -> None:
    """The masters stay where they were, so nothing has to be copied back."""
    network = dit(4)
    before = [p.data_ptr() for p in network.layers.parameters()]
    network.layers = StreamedLayers(network.layers, CPU)
    seen = []
    for layer in network.layers:
        seen.append({p.data_ptr() for p in layer.parameters()})
        assert not seen[-1] & set(before)
    assert seen[0] == seen[2] and seen[1] == seen[3] and not seen[0] & seen[1]
    assert [p.data_ptr() for p in network.layers.parameters()] == before


@pytest.mark.parametrize("device", [CPU, GPU])
def test_a_visitor_computes_the_same_and_leaves_its_master_alone(device: torch.device) -> None:
    network = dit()
    expected = velocity(dit().to(device), device)
    visitor = Visitor(network, device)
    masters = [p.data_ptr() for p in network.parameters()]
    for _ in range(2):
        visitor.bring()
        assert torch.equal(velocity(network, device), expected)
        visitor.send_back()
        assert [p.data_ptr() for p in network.parameters()] == masters


def test_a_visitor_leaves_streamed_layers_to_themselves() -> None:
    network = dit()
    network.layers = StreamedLayers(network.layers, CPU)
    layers = [p.data_ptr() for p in network.layers.parameters()]
    visitor = Visitor(network, CPU)
    visitor.bring()
    assert [p.data_ptr() for p in network.layers.parameters()] == layers
    assert torch.equal(velocity(network), velocity(dit()))
