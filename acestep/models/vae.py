"""The Oobleck audio VAE: 48 kHz stereo waveform ↔ 64-channel latents at 25 frames per second.

A convolutional autoencoder with Snake activations, introduced with Stable Audio (Evans et al. 2024,
arXiv:2402.04825). Parameter names are those of the published `vae/` folder (diffusers' layout).
Channels come before time inside this file only: `Vae.encode` and `Vae.decode` speak
[batch, frame, channel] like everything else. There is no scale or shift between these latents
and the diffusion transformer.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from acestep.errors import AudioError, CheckpointError
from acestep.models.config import VaeConfig
from acestep.models.constants import TILE_FRAMES
from acestep.types import Latents, Waveform

WHOLE = 100
SNAKE_WORK = 500
"""Multiplications of a convolution that take as long as one number's way through Snake and the
memory around it, measured on a CPU: progress then runs within a tenth of a tile's time."""

Features = Float[Tensor, "batch channel position"]
Convolved = Float[Tensor, "batch out_channel out_position"]
OnWork = Callable[[int, int], None]  # hundredths of the work done, and 100; may raise
OnShare = Callable[[float], None]  # share of one pass that is done


class Vae(nn.Module):
    """Encoder and decoder, tiled along time and one song after the other, so that memory grows
    neither with the song nor with the batch.

    A fresh or newly loaded network holds the published tensors; `fold` turns them into what the
    forward pass needs. Both states compute the same function.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        ratios = tuple(config.downsampling_ratios)
        if any(ratio % 2 for ratio in ratios):
            raise CheckpointError(
                f"downsampling_ratios {list(ratios)} must all be even: a transposed convolution of "
                "an odd stride returns one sample too few."
            )
        multiples = (1, *config.channel_multiples)
        self.encoder = Encoder(
            config.audio_channels,
            [config.encoder_hidden_size * m for m in multiples],
            ratios,
            config.decoder_input_channels,
        )
        self.decoder = Decoder(
            config.decoder_input_channels,
            [config.decoder_channels * m for m in reversed(multiples)],
            ratios[::-1],
            config.audio_channels,
        )
        self.latent_channels = config.decoder_input_channels
        self.hop = config.hop  # samples per latent frame, 1920 when published
        self.encoder_halo = config.encoder_halo
        self.decoder_halo = config.decoder_halo

    def fold(self) -> "Vae":
        """Replace every stored parametrisation by the plain tensor it stands for, in place.

        Weight norm becomes the weight itself, Snake's logarithms become its two factors; otherwise
        both would be computed again for every tile. Fold in fp32 and cast afterwards: g, v and the
        logarithms rounded to bf16 give a less exact weight than the rounded weight.
        """
        for module in self.modules():
            if isinstance(module, Conv | Snake):
                module.fold()
        return self

    @torch.no_grad()
    def encode(
        self,
        waveform: Waveform,
        *,
        tile_frames: int = TILE_FRAMES,
        on_progress: OnWork = lambda done, total: None,
    ) -> Latents:
        """The posterior mean of each whole latent frame; equal to encoding in one piece.

        The mean instead of a sample keeps encoding reproducible. Samples after the last whole frame
        get no frame of their own (they still colour the frames before them).

        Args:
            waveform: may lie on another device than the network; it is moved tile by tile.
            tile_frames: frames kept per tile; the halo comes on top.
            on_progress: called after every layer of every tile; raises to cancel.

        Returns:
            fp32, on the waveform's device.

        Raises:
            AudioError: the waveform is shorter than one latent frame.
        """
        batch, _, samples = waveform.shape
        frames = samples // self.hop
        if frames == 0:
            raise AudioError(
                f"The audio has {samples} samples; the VAE needs at least one latent frame, "
                f"{self.hop} samples."
            )
        like = next(self.encoder.parameters())
        latents = waveform.new_empty(batch, frames, self.latent_channels, dtype=torch.float32)
        pieces = _pieces(batch, tiles(frames, tile_frames, self.encoder_halo))
        for row, tile, on_share in _told(pieces, on_progress):
            end = samples if tile.right == frames else tile.right * self.hop
            sound = waveform[row, :, tile.left * self.hop : end].to(like)
            mean, _ = self.encoder(sound, on_share).chunk(2, dim=1)
            kept = slice(tile.start - tile.left, tile.stop - tile.left)
            latents[row, tile.start : tile.stop] = rearrange(mean[..., kept], "b c f -> b f c")
        on_progress(WHOLE, WHOLE)
        return latents

    @torch.no_grad()
    def decode(
        self,
        latents: Latents,
        *,
        tile_frames: int = TILE_FRAMES,
        on_progress: OnWork = lambda done, total: None,
    ) -> Waveform:
        """Latents to sound, `hop` samples per frame; equal to decoding in one piece.

        The waveform is not limited to [-1, 1]: the network has no final tanh.

        Args:
            latents: may lie on another device than the network; they are moved tile by tile.
            tile_frames: frames kept per tile; the halo comes on top.
            on_progress: called after every layer of every tile; raises to cancel.

        Returns:
            fp32, on the latents' device.
        """
        batch, frames, _ = latents.shape
        like = next(self.decoder.parameters())
        waveform = latents.new_empty(
            batch, self.decoder.conv2.out_channels, frames * self.hop, dtype=torch.float32
        )
        pieces = _pieces(batch, tiles(frames, tile_frames, self.decoder_halo))
        for row, tile, on_share in _told(pieces, on_progress):
            seen = latents[row, tile.left : tile.right].to(like)
            sound = self.decoder(rearrange(seen, "b f c -> b c f"), on_share)
            kept = slice((tile.start - tile.left) * self.hop, (tile.stop - tile.left) * self.hop)
            waveform[row, :, tile.start * self.hop : tile.stop * self.hop] = sound[..., kept]
        on_progress(WHOLE, WHOLE)
        return waveform


class Encoder(nn.Module):
    """Waveform to the posterior's mean and scale, side by side on the channel axis.

    The posterior is Normal(mean, softplus(scale) + 1e-4).

    Args:
        widths: channels before the first block and after each block.
    """

    def __init__(
        self,
        audio_channels: int,
        widths: Sequence[int],
        strides: Sequence[int],
        latent_channels: int,
    ) -> None:
        super().__init__()
        self.conv1 = Conv(audio_channels, widths[0], 7, padding=3)
        self.block = nn.ModuleList(
            EncoderBlock(*width, stride)
            for width, stride in zip(pairwise(widths), strides, strict=True)
        )
        self.snake1 = Snake(widths[-1])
        # The published file has `encoder_hidden_size` channels here, which is the same number.
        self.conv2 = Conv(widths[-1], 2 * latent_channels, 3, padding=1)

    def forward(self, waveform: Features, on_share: OnShare = lambda share: None) -> Convolved:
        return _pass(waveform, _layers(self), on_share)


class Decoder(nn.Module):
    """Latents to waveform; `widths` as in the encoder, widest first."""

    def __init__(
        self,
        latent_channels: int,
        widths: Sequence[int],
        strides: Sequence[int],
        audio_channels: int,
    ) -> None:
        super().__init__()
        self.conv1 = Conv(latent_channels, widths[0], 7, padding=3)
        self.block = nn.ModuleList(
            DecoderBlock(*width, stride)
            for width, stride in zip(pairwise(widths), strides, strict=True)
        )
        self.snake1 = Snake(widths[-1])
        self.conv2 = Conv(widths[-1], audio_channels, 7, padding=3, bias=False)

    def forward(self, latents: Features, on_share: OnShare = lambda share: None) -> Convolved:
        return _pass(latents, _layers(self), on_share)


class EncoderBlock(nn.Sequential):
    """Three residual units, then `stride` times fewer positions."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(
            OrderedDict(
                res_unit1=ResidualUnit(in_channels, dilation=1),
                res_unit2=ResidualUnit(in_channels, dilation=3),
                res_unit3=ResidualUnit(in_channels, dilation=9),
                snake1=Snake(in_channels),
                conv1=Conv(
                    in_channels, out_channels, 2 * stride, stride=stride, padding=stride // 2
                ),
            )
        )


class DecoderBlock(nn.Sequential):
    """`stride` times more positions, then three residual units."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(
            OrderedDict(
                snake1=Snake(in_channels),
                conv_t1=Conv(
                    in_channels,
                    out_channels,
                    2 * stride,
                    stride=stride,
                    padding=stride // 2,
                    transposed=True,
                ),
                res_unit1=ResidualUnit(out_channels, dilation=1),
                res_unit2=ResidualUnit(out_channels, dilation=3),
                res_unit3=ResidualUnit(out_channels, dilation=9),
            )
        )


class ResidualUnit(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.snake1 = Snake(channels)
        self.conv1 = Conv(channels, channels, 7, dilation=dilation, padding=3 * dilation)
        self.snake2 = Snake(channels)
        self.conv2 = Conv(channels, channels, 1)

    def forward(self, x: Features) -> Features:
        return x + self.conv2(self.snake2(self.conv1(self.snake1(x))))


class Snake(nn.Module):
    """x + sin²(e^α·x) / (e^β + 1e-9), per channel (Ziyin et al. 2020, arXiv:2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))
        self.channels = channels
        self.folded = False

    def forward(self, x: Features) -> Features:
        frequency, gain = self._factors()
        return torch.addcmul(x, gain, (frequency * x).sin().square())

    @torch.no_grad()
    def fold(self) -> None:
        """Replace the logarithms α and β by the two factors themselves."""
        if not self.folded:
            trains = self.alpha.requires_grad
            self.frequency, self.gain = (nn.Parameter(x, trains) for x in self._factors())
            del self.alpha, self.beta
            self.folded = True

    def _factors(self) -> tuple[Tensor, Tensor]:
        if self.folded:
            return self.frequency, self.gain
        return self.alpha.exp(), (self.beta.exp() + 1e-9).reciprocal()


class Conv(nn.Module):
    """1-d convolution with weight norm, w = g·v / ‖v‖ (Salimans & Kingma 2016, arXiv:1602.07868).

    The norm runs over all axes but the first. A transposed convolution stores [in, out, kernel], so
    there it is one norm per *input* channel, as in the published files.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        channels = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.weight_v = nn.Parameter(torch.empty(*channels, kernel))
        self.weight_g = nn.Parameter(torch.empty(channels[0], 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.in_channels, self.out_channels, self.kernel = in_channels, out_channels, kernel
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.transposed = transposed
        self.folded = False
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if not self.weight_v.is_meta:
            nn.init.kaiming_uniform_(self.weight_v, a=math.sqrt(5))  # as PyTorch starts a Conv1d
            self.weight_g.copy_(_norm(self.weight_v))

    def forward(self, x: Features) -> Convolved:
        convolve = F.conv_transpose1d if self.transposed else F.conv1d
        return convolve(
            x,
            self._weight(),
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )

    @torch.no_grad()
    def fold(self) -> None:
        """Replace g and v by the weight itself."""
        if not self.folded:
            self.weight = nn.Parameter(self._weight(), self.weight_v.requires_grad)
            del self.weight_g, self.weight_v
            self.folded = True

    def _weight(self) -> Tensor:
        if self.folded:
            return self.weight
        return self.weight_v * (self.weight_g / _norm(self.weight_v))


def _norm(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)


def _layers(network: Encoder | Decoder) -> list[nn.Module]:
    """All of a network in order: each layer reads nothing but what the one before it made."""
    blocks = [layer for block in network.block for layer in block.children()]
    return [network.conv1, *blocks, network.snake1, network.conv2]


def _pass(x: Features, layers: Sequence[nn.Module], on_share: OnShare) -> Convolved:
    for layer, share in zip(layers, _shares(layers), strict=True):
        x = layer(x)
        on_share(share)
    return x


def _shares(layers: Sequence[nn.Module]) -> list[float]:
    """How much of the work is done after each layer, as a share of all; the last is 1."""
    works, positions = [], 1.0
    for layer in layers:
        outputs = positions
        if isinstance(layer, Conv):
            outputs *= layer.stride if layer.transposed else 1 / layer.stride
        works.append(min(positions, outputs) * _work(layer))
        positions = outputs
    done = list(accumulate(works))
    return [work / done[-1] for work in done]


def _work(layer: nn.Module) -> int:
    """Of one position, in multiplications."""
    work = 0
    for part in layer.modules():
        if isinstance(part, Conv):
            work += part.in_channels * part.out_channels * part.kernel
        elif isinstance(part, Snake):
            work += SNAKE_WORK * part.channels
    return work


class Tile(NamedTuple):
    """Latent frames to keep, `start` to `stop`, and to read for them, `left` to `right`."""

    left: int
    start: int
    stop: int
    right: int


def tiles(frames: int, tile_frames: int, halo: int) -> list[Tile]:
    """Consecutive tiles that cover `frames`, the last one shorter; each reads a halo around it."""
    if tile_frames < 1:
        raise ValueError(f"tile_frames is {tile_frames}; a tile holds at least one frame.")
    stops = [min(start + tile_frames, frames) for start in range(0, frames, tile_frames)]
    return [
        Tile(max(start - halo, 0), start, stop, min(stop + halo, frames))
        for start, stop in pairwise([0, *stops])
    ]


def _pieces(batch: int, tiles: Sequence[Tile]) -> list[tuple[slice, Tile]]:
    """Every tile of every row of a batch, the row as a slice."""
    return [(slice(row, row + 1), tile) for row in range(batch) for tile in tiles]


def _told(
    pieces: Sequence[tuple[slice, Tile]], on_progress: OnWork
) -> Iterator[tuple[slice, Tile, OnShare]]:
    """The pieces, each with what turns shares of its work into hundredths of the whole."""
    on_progress(0, WHOLE)
    total = sum(tile.right - tile.left for _, tile in pieces)
    before = 0
    for row, tile in pieces:
        read = tile.right - tile.left

        def on_share(share: float, before: int = before, read: int = read) -> None:
            on_progress(int(WHOLE * (before + share * read) / total), WHOLE)

        yield row, tile, on_share
        before += read
