"""A network and where it is: on the device, in main memory, or only in its file.

resident   on the device, once it is there: fastest, needs room for all of them.
swapped    on the device while its stage runs. On a GPU its master copy waits in main memory; where
           main memory is the device, it is read from its file again.
streamed   the DiT: layer by layer, from main memory or from the mapped file.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from acestep.runtime import devices
from acestep.runtime.memory_plan import Placement
from acestep.runtime.offload import StreamedLayers, Visitor, tensors_of

CPU = torch.device("cpu")

N = TypeVar("N")


class PlacedNetwork(Generic[N]):
    """A network and where it is: on the device, in main memory, or only in its file.

    Attributes:
        network: wherever it is; None while it is only in its file.
    """

    def __init__(
        self,
        load: Callable[[torch.device, torch.dtype | None], N],
        module_of: Callable[[N], nn.Module],
        placement: Placement,
        device: torch.device,
        dtype: torch.dtype,
        *,
        maps_file: bool = False,
    ) -> None:
        """
        Args:
            maps_file: where main memory is the device, streamed layers are cast on their way from
                the file, which is mapped and takes no memory. Not so if they are quantized.
        """
        self._load = load
        self._module_of = module_of
        self._placement = placement
        self._device = device
        self._dtype = dtype
        self._maps_file = maps_file
        self.network: N | None = None
        self._visitor: Visitor | None = None

    @property
    def _is_shared(self) -> bool:
        """Whether main memory is the device's memory, so that waiting there frees nothing."""
        return self._device.type != "cuda"

    def prepare(self) -> None:
        """Read the network, if it has a place to wait at."""
        if self.network is None and (self._placement == "resident" or not self._is_shared):
            self._read()

    def bring(self) -> N:
        """The network, on the device."""
        if self.network is None:
            self._read()
        if self._visitor is not None:
            self._visitor.bring()
        assert self.network is not None
        return self.network

    def send_back(self) -> None:
        """Free what the network takes on the device, unless it is resident."""
        if self._placement == "resident":
            return
        if self._visitor is not None:
            self._visitor.send_back()
        elif self.network is not None:
            self.drop()
            devices.give_back(self._device)

    def place(self, placement: Placement) -> None:
        """Let it be somewhere else from now on; it is read again when it is needed."""
        if placement == self._placement:
            return
        stays = self._is_shared and {placement, self._placement} == {"resident", "swapped"}
        self._placement = placement
        if not stays:
            self.drop()

    def drop(self) -> None:
        self.network = self._visitor = None

    @property
    def held_bytes(self) -> dict[str, int]:
        held: defaultdict[str, int] = defaultdict(int)
        if self.network is not None:
            for tensor in tensors_of(self._module_of(self.network)):
                held[str(tensor.device)] += tensor.nbytes
        return dict(held)

    @torch.inference_mode(False)
    def _read(self) -> None:
        """The network as its place wants it; tensors made in inference could not be moved later."""
        if self._placement == "streamed":
            self._read_streamed()
        elif self._placement == "swapped" and not self._is_shared:
            self.network = self._load(CPU, self._dtype)
            self._visitor = Visitor(self._module_of(self.network), self._device)
        else:
            self.network = self._load(self._device, self._dtype)

    def _read_streamed(self) -> None:
        casts = self._is_shared and self._maps_file
        self.network = self._load(CPU, None if casts else self._dtype)
        module: Any = self._module_of(self.network)
        layers = StreamedLayers(module.layers, self._device, self._dtype if casts else None)
        module.layers = layers
        if self._is_shared:
            module.to(self._device, self._dtype)
        else:
            self._visitor = Visitor(module, self._device)
