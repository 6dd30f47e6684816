"""How a fresh network begins: the random numbers that training starts from.

A network that is built on the meta device has no numbers and waits for those of a file, so nothing
is drawn for it. That is more than tidy: computing with meta tensors imports PyTorch's compiler,
which takes five times as long as loading the small models does. (What PyTorch's own linear and
convolution layers do there is done in C++ and costs nothing.)
"""

import torch
from torch import nn


def gaussian(*shape: int, scale: float = 1.0) -> nn.Parameter:
    """A parameter that begins with normal numbers of standard deviation `scale`."""
    numbers = torch.empty(shape)
    if not numbers.is_meta:
        numbers.normal_(std=scale)
    return nn.Parameter(numbers)


class Embedding(nn.Embedding):
    """PyTorch's embedding table."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()
