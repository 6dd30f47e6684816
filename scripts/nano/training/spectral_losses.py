"""What the VAE is trained on: spectra at several resolutions, mel bands, the waveform."""

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

SIZES = (2048, 1024, 512, 256, 128)
FLOOR = 3e-3  # of a loudness-normalised magnitude, below which nothing is heard
SIDE = 0.5  # weight of the side signal against the middle


class SpectrumLoss(nn.Module):
    """Log and linear magnitudes of middle and side at several resolutions.

    Multi-resolution STFT loss, Yamamoto et al. 2020 (arXiv:1910.11480), on middle and side as in
    Stable Audio's autoencoder.
    """

    def __init__(self) -> None:
        super().__init__()
        for size in SIZES:
            self.register_buffer(f"window{size}", torch.hann_window(size), persistent=False)

    def forward(self, made: Tensor, wanted: Tensor) -> Tensor:
        """Both [clip, 2, sample]."""
        made, wanted = mid_side(made), mid_side(wanted)
        weight = torch.tensor([1.0, SIDE], device=made.device).repeat(len(made) // 2)[:, None, None]
        total = made.new_zeros(())
        for size in SIZES:
            window = self.get_buffer(f"window{size}")
            a, b = (magnitude(x, window, size // 4) * 8 / size**0.5 for x in (made, wanted))
            log = (torch.log(a + FLOOR) - torch.log(b + FLOOR)).abs()
            total = total + (weight * (log + 0.5 * (a - b).abs())).mean()
        return total / len(SIZES)


class MelLoss(nn.Module):
    """Mean distance of log mel bands in units of 10 dB, the measure of `metrics` made smooth."""

    SIZE, HOP, BANDS, FLOOR = 2048, 480, 80, 1e-2

    def __init__(self) -> None:
        super().__init__()
        bands = melscale_fbanks(self.SIZE // 2 + 1, 30.0, 16_000.0, self.BANDS, 48_000)
        bands = bands / bands.sum(0).clamp_min(1e-9)
        self.register_buffer("bands", bands, persistent=False)
        self.register_buffer("window", torch.hann_window(self.SIZE), persistent=False)

    def forward(self, made: Tensor, wanted: Tensor) -> Tensor:
        """Both [clip, 2, sample]."""
        a, b = (self._log(x.mean(1)) for x in (made, wanted))
        return 2 * (a - b).abs().mean()

    def _log(self, x: Tensor) -> Tensor:
        levels = magnitude(x, self.get_buffer("window"), self.HOP).mT @ self.get_buffer("bands")
        return torch.log10(levels + self.FLOOR)


class LowLoss(nn.Module):
    """Below 2 kHz the phase counts too: the complex spectrum."""

    SIZE, HOP, BINS = 2048, 512, 86

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(self.SIZE), persistent=False)

    def forward(self, made: Tensor, wanted: Tensor) -> Tensor:
        window = self.get_buffer("window")
        difference = (made - wanted).flatten(0, 1)
        spectrum = torch.stft(difference, self.SIZE, self.HOP, window=window, return_complex=True)
        return spectrum[:, : self.BINS].abs().mean() / 5.6


def mid_side(x: Tensor) -> Tensor:
    """[clip, 2, sample] → [clip · 2, sample], middle and side in turn."""
    left, right = x.unbind(1)
    return torch.stack([(left + right) / 2, (left - right) / 2], 1).flatten(0, 1)


def magnitude(x: Tensor, window: Tensor, hop: int) -> Tensor:
    """[…, sample] → […, bin, frame]; smooth at zero."""
    spectrum = torch.stft(x, len(window), hop, window=window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + 1e-7).sqrt()
