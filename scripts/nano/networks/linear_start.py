"""A closed-form start for the VAE: the best linear code of the music, before any training.

Every strided convolution begins as a modulated lapped transform (MDCT; Princen & Bradley 1986),
which can be inverted exactly, followed by the principal components that its width can hold; the
decoder begins as the transpose. A random start loses ten times in level at every transposed
convolution and stays at silence for hours.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from acestep.models.vae import Conv, ResidualUnit, Snake, Vae

GENTLE = -2.5  # log frequency of the Snakes on the main path: nearly the identity
SPARE = 0.15  # level of the random weights of what the linear code does not use
RESIDUAL = 0.1  # standard deviation that a residual unit adds
POSTERIOR = -3.5  # softplus⁻¹ of the posterior's deviation, nearly certain
TINY = 1e-7


@torch.no_grad()
def initialise(vae: Vae, sample: Tensor) -> None:
    """Set every weight of `vae` from a sample of music, [clip, 2, sample]."""
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = vae.encoder, vae.decoder
    for module in vae.modules():
        if isinstance(module, Conv) and module.bias is not None:
            module.bias.zero_()
    blocks = [*encoder.block, *decoder.block]
    for snake in [*(block.snake1 for block in blocks), encoder.snake1, decoder.snake1]:
        assert isinstance(snake, Snake)
        snake.alpha.fill_(GENTLE)

    half = math.sqrt(0.5)
    mid_side = torch.tensor([[half, half], [half, -half]])
    signal = torch.einsum("oc,bct->bot", mid_side, sample)
    spread = signal.std((0, 2))
    weight = _spare(encoder.conv1, generator, 0.3)
    weight[:2] = 0
    weight[:2, :, 3] = mid_side / spread[:, None]
    _set(encoder.conv1, weight)
    weight = _spare(decoder.conv2, generator, 0.01)
    weight[:, :2] = 0
    weight[:, :2, 3] = mid_side * spread
    _set(decoder.conv2, weight)
    signal = signal / spread[:, None]

    for down, up in zip(encoder.block, reversed(decoder.block), strict=True):
        assert isinstance(down.conv1, Conv) and isinstance(up.conv_t1, Conv)
        signal, spread = _stage(down.conv1, up.conv_t1, signal, spread, generator)

    latents = vae.latent_channels
    basis, variance = _principal((signal * spread[:, None]).transpose(0, 1).flatten(1), latents)
    deviation = variance.clamp_min(TINY).sqrt()
    weight = 1e-3 * torch.randn(encoder.conv2.weight_v.shape, generator=generator)
    weight[:latents] = 0
    weight[:latents, : len(spread), 1] = basis.T / deviation[:, None] * spread
    _set(encoder.conv2, weight)
    assert encoder.conv2.bias is not None
    encoder.conv2.bias[latents:] = POSTERIOR
    weight = _spare(decoder.conv1, generator, 1.0)
    weight[: len(spread)] = 0
    weight[: len(spread), :, 3] = basis * deviation / spread[:, None]
    _set(decoder.conv1, weight)
    _calibrate_residuals(vae, sample)


def _stage(
    down: Conv, up: Conv, signal: Tensor, spread: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One down-sampling and its inverse; returns the signal behind it and its deviations."""
    stride, channels = down.stride, signal.shape[1]
    transform = _lapped(stride)
    analysis = torch.zeros(channels * stride, channels, 2 * stride)
    synthesis = torch.zeros_like(analysis)
    for c in range(channels):
        rows = slice(c * stride, (c + 1) * stride)
        analysis[rows, c] = transform * spread[c]
        synthesis[rows, c] = transform / spread[c]
    bands = F.conv1d(signal, analysis, stride=stride, padding=stride // 2)
    width = min(channels * stride, down.out_channels, up.weight_v.shape[0])
    if width == channels * stride:
        basis = torch.eye(width)
        variance = bands.transpose(0, 1).flatten(1).square().mean(1)
    else:
        basis, variance = _principal(bands.transpose(0, 1).flatten(1), width)
    deviation = variance.clamp_min(TINY).sqrt()

    weight = _spare(down, generator, 1.0)
    weight[:width] = 0
    weight[:width, :channels] = torch.einsum("ko,kcn->ocn", basis / deviation, analysis)
    _set(down, weight)
    weight = _spare(up, generator, 1.0)
    weight[:, :channels] *= 0.05
    weight[:width, :channels] = torch.einsum("ko,kcn->ocn", basis * deviation, synthesis)
    _set(up, weight)
    return torch.einsum("ko,bkt->bot", basis / deviation, bands), deviation


def _lapped(stride: int) -> Tensor:
    """[band, 2 · stride]: the sine-windowed MDCT of `stride` bands."""
    n, k = torch.arange(2 * stride), torch.arange(stride)
    window = torch.sin(math.pi / (2 * stride) * (n + 0.5)) * math.sqrt(2 / stride)
    phase = math.pi / stride * (n + 0.5 + stride / 2) * (k[:, None] + 0.5)
    return window * torch.cos(phase)


def _principal(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` strongest principal axes of [channel, sample], as columns, and their variance."""
    variance, axes = torch.linalg.eigh(x @ x.T / x.shape[1])
    return axes[:, -count:].flip(1), variance[-count:].flip(0)


def _spare(conv: Conv, generator: torch.Generator, level: float) -> Tensor:
    """Small random weights: room to learn what a linear code cannot say."""
    shape = conv.weight_v.shape
    fan_in = shape[0] * 2 if conv.transposed else math.prod(shape[1:])
    return torch.randn(shape, generator=generator) * level * SPARE / math.sqrt(fan_in)


def _set(conv: Conv, weight: Tensor) -> None:
    conv.weight_v.copy_(weight)
    conv.weight_g.copy_(weight.norm(dim=(1, 2), keepdim=True).clamp_min(1e-6))
    conv.weight_v.add_(TINY * (weight.norm(dim=(1, 2), keepdim=True) == 0))


def _calibrate_residuals(vae: Vae, sample: Tensor) -> None:
    """Unit deviation inside every residual unit, a small one behind it, in forward order."""

    def scale_to(deviation: float):
        def hook(conv: Conv, _: object, output: Tensor) -> Tensor:
            factor = deviation / (output.std() + 1e-6)
            conv.weight_g.mul_(factor)
            return output * factor

        return hook

    hooks = []
    for unit in vae.modules():
        if isinstance(unit, ResidualUnit):
            hooks.append(unit.conv1.register_forward_hook(scale_to(1.0)))
            hooks.append(unit.conv2.register_forward_hook(scale_to(RESIDUAL)))
    mean, _ = vae.encoder(sample).chunk(2, dim=1)
    vae.decoder(mean)
    for hook in hooks:
        hook.remove()
