"""Networks that wait in main memory and visit the device.

`Visitor` moves a whole network there and back; `StreamedLayers` moves one DiT layer at a time, the
next while the current one computes, so that the device holds two of them. In both main memory keeps
the master copy: leaving the device copies nothing, it only points the tensors back.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from acestep.models.dit import DiTLayer
from acestep.runtime.weight_memory import STREAMED_LAYERS


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Every parameter and buffer but those of streamed layers, each once, always in one order."""
    found = {id(tensor): tensor for tensor in _own_tensors(module)}
    return list(found.values())


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    for child in module.children():
        if not isinstance(child, StreamedLayers):
            yield from _own_tensors(child)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor where a GPU can read it by itself, while it computes something else."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


class Visitor:
    """A network whose master copy is in main memory.

    Attributes:
        network: computes on the device between `bring` and `send_back`, and nowhere else.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network = network
        self._device = device
        self._tensors = tensors_of(network)
        self._masters = [pinned(tensor.data, device) for tensor in self._tensors]
        self._is_there = True  # until the tensors point to the masters
        self.send_back()

    def bring(self) -> None:
        """Copy the network to the device, unless it is there."""
        if not self._is_there:
            for tensor, master in zip(self._tensors, self._masters, strict=True):
                tensor.data = master.to(self._device, non_blocking=True)
            self._is_there = True

    def send_back(self) -> None:
        """Free what it took on the device."""
        if self._is_there:
            for tensor, master in zip(self._tensors, self._masters, strict=True):
                tensor.data = master
            self._is_there = False


class StreamedLayers(nn.ModuleList):
    """DiT layers that are on the device only while they are iterated over.

    Takes the place of the network's own list: who goes through the layers in order finds each with
    its weights on the device, in the dtype that is computed in. Moving the network moves everything
    but them.
    """

    def __init__(
        self, layers: Iterable[nn.Module], device: torch.device, dtype: torch.dtype | None = None
    ) -> None:
        """
        Args:
            layers: all alike, in main memory. They may be mapped from a file.
            dtype: what floating-point weights are cast to on their way; None casts nothing.
        """
        super().__init__(layers)
        self._tensors = [tensors_of(layer) for layer in self._modules.values() if layer]
        self._masters = [
            [pinned(tensor.data, device) for tensor in tensors] for tensors in self._tensors
        ]
        with torch.inference_mode(False):
            self._slots = [
                [
                    torch.empty_like(t, device=device, dtype=_cast(t, dtype))
                    for t in self._masters[0]
                ]
                for _ in range(STREAMED_LAYERS)
            ]
        # The layer whose weights each slot has.
        self._held: list[int | None] = [None] * STREAMED_LAYERS
        self._copies = _Copies(device)

    def __iter__(self) -> Iterator[DiTLayer]:
        """Every layer in turn, on the device until the next one is asked for."""
        count = len(self._tensors)
        for index in range(count):
            slot = self._fetch(index, free=0)
            self._fetch((index + 1) % count, free=1 - slot)  # the last is followed by the first
            self._copies.wait_for(slot)
            self._point(index, self._slots[slot])
            try:
                yield cast(DiTLayer, self[index])
            finally:
                self._copies.has_used(slot)
                self._point(index, self._masters[index])

    def _fetch(self, index: int, free: int) -> int:
        """The slot of a layer; if it has none, it is being copied to the one that is free."""
        if index in self._held:
            return self._held.index(index)
        self._held[free] = index
        with self._copies.into(free):
            for there, master in zip(self._slots[free], self._masters[index], strict=True):
                there.copy_(master, non_blocking=True)
        return free

    def _point(self, index: int, where: list[Tensor]) -> None:
        for tensor, place in zip(self._tensors[index], where, strict=True):
            tensor.data = place

    def _apply(self, fn: object, recurse: bool = True) -> "StreamedLayers":
        """The layers stay where they are when the network around them moves."""
        return self


class _Copies:
    """Copies into slots on a stream of their own, in step with what computes. A CPU has no streams:
    there everything happens in order."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copied = [torch.cuda.Event() for _ in range(STREAMED_LAYERS)] if self._stream else []
        self._used = [torch.cuda.Event() for _ in range(STREAMED_LAYERS)] if self._stream else []
        for slot in range(STREAMED_LAYERS):
            self.has_used(slot)  # its memory may have been something else's

    @contextmanager
    def into(self, slot: int) -> Iterator[None]:
        """Copies begin when what was computed with the slot is over."""
        if self._stream is None:
            yield
            return
        self._stream.wait_event(self._used[slot])
        with torch.cuda.stream(self._stream):
            yield
            self._copied[slot].record()

    def wait_for(self, slot: int) -> None:
        """What computes from now on finds the copy complete."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied[slot])

    def has_used(self, slot: int) -> None:
        """Everything that computes with the slot has been told to."""
        if self._stream is not None:
            self._used[slot].record(torch.cuda.current_stream(self._device))


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
