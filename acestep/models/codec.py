"""The 5 Hz codec between latents and codes (checkpoint keys `tokenizer.*`, `detokenizer.*`).

Five latent frames become one code, and one code becomes five latent frames. Quantization is
finite scalar quantization (arXiv:2309.15505), always in fp32 with exact constants: rounding its
8/7 to bf16 alone changes 0.3 % of all codes.
"""

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from acestep.models.config import AceStepConfig
from acestep.models.initialize import gaussian
from acestep.models.layers import EncoderLayers, RMSNorm
from acestep.types import Codes, Latents, Quantized

Silence = Float[Tensor, "1 silence channel"]
Coordinates = Float[Tensor, "batch code dimension"]  # one number per dimension, in [−1, 1]
Levels = Int[Tensor, "batch code dimension"]


class Quantizer(nn.Module):
    """A few numbers, each rounded to a few levels: together the index of one of many codes."""

    def __init__(self, config: AceStepConfig) -> None:
        super().__init__()
        self.levels = config.fsq_input_levels
        self.project_in = nn.Linear(config.fsq_dim, len(self.levels))
        self.project_out = nn.Linear(len(self.levels), config.fsq_dim)

    def forward(self, states: Quantized) -> tuple[Quantized, Codes]:
        codes = self.encode(states)
        return self.decode(codes), codes

    def encode(self, states: Quantized) -> Codes:
        return self.codes(self.nearest(self.bound(states)))

    def decode(self, codes: Codes) -> Quantized:
        """What a code means to the detokenizer.

        Args:
            codes: from 0 up to the product of the levels.
        """
        return self.project(self.coordinates(self.unfold(codes)))

    def bound(self, states: Quantized) -> Coordinates:
        """The coordinates before rounding: softly clamped just outside [−1, 1].

        At 1 + 1/(levels−1) even the outermost levels keep a full half step for themselves.
        """
        projected = F.linear(
            states.float(), self.project_in.weight.float(), self.project_in.bias.float()
        )
        bound = 1 + 1 / (self._levels(states.device) - 1)
        return bound * torch.tanh(projected / bound)

    def nearest(self, coordinates: Coordinates) -> Levels:
        """The level of each coordinate, from 0; levels are evenly spaced over [−1, 1]."""
        highest = self._levels(coordinates.device) - 1
        return (highest * (coordinates.clamp(-1, 1) + 1) / 2 + 0.5).floor().long()

    def coordinates(self, levels: Levels) -> Coordinates:
        return 2 * levels / (self._levels(levels.device) - 1) - 1

    def project(self, coordinates: Coordinates) -> Quantized:
        weight, bias = self.project_out.weight, self.project_out.bias
        return F.linear(coordinates, weight.float(), bias.float()).to(weight.dtype)

    def codes(self, levels: Levels) -> Codes:
        """Levels as digits of one number, the first dimension being the lowest digit."""
        return (levels * self._basis(levels.device)).sum(dim=-1)

    def unfold(self, codes: Codes) -> Levels:
        """The digits of `codes`."""
        bases = torch.tensor(self.levels, device=codes.device)
        return codes[..., None] // self._basis(codes.device) % bases

    def _levels(self, device: torch.device) -> Float[Tensor, " dimension"]:
        return torch.tensor(self.levels, dtype=torch.float32, device=device)

    def _basis(self, device: torch.device) -> Int[Tensor, " dimension"]:
        bases = [math.prod(self.levels[:i]) for i in range(len(self.levels))]
        return torch.tensor(bases, device=device)


class AttentionPooler(nn.Module):
    """A group of frames as one vector: a learned token reads them."""

    def __init__(self, config: AceStepConfig) -> None:
        super().__init__()
        self.special_token = gaussian(1, 1, config.hidden_size, scale=0.02)
        self.embed_tokens = nn.Linear(config.hidden_size, config.hidden_size)
        self.layers = EncoderLayers(config, config.num_attention_pooler_hidden_layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, groups: Float[Tensor, "group frame width"]) -> Float[Tensor, "group width"]:
        token = self.special_token.expand(len(groups), -1, -1)
        states = torch.cat([token, self.embed_tokens(groups)], dim=1)
        return self.norm(self.layers(states)[:, 0])


class AudioTokenizer(nn.Module):
    """Latents at 25 Hz become codes at 5 Hz."""

    def __init__(self, config: AceStepConfig) -> None:
        super().__init__()
        config = config.encoder
        self.window = config.pool_window_size
        self.audio_acoustic_proj = nn.Linear(config.audio_acoustic_hidden_dim, config.hidden_size)
        self.attention_pooler = AttentionPooler(config)
        self.quantizer = Quantizer(config)

    def forward(self, latents: Latents, silence: Silence) -> tuple[Quantized, Codes]:
        """Codes and what they mean; a group that is not full is filled up with silence.

        Args:
            silence: the silence latent, of which the first frames are used.
        """
        batch, frames = latents.shape[:2]
        filling = silence[:, : -frames % self.window].to(latents).expand(batch, -1, -1)
        latents = torch.cat([latents, filling], dim=1)
        groups = rearrange(latents, "b (c f) d -> (b c) f d", f=self.window)
        pooled = self.attention_pooler(self.audio_acoustic_proj(groups))
        return self.quantizer(rearrange(pooled, "(b c) d -> b c d", b=batch))


class AudioDetokenizer(nn.Module):
    """Codes at 5 Hz become latents at 25 Hz."""

    def __init__(self, config: AceStepConfig) -> None:
        super().__init__()
        config = config.encoder
        self.window = config.pool_window_size
        self.embed_tokens = nn.Linear(config.hidden_size, config.hidden_size)
        self.special_tokens = gaussian(1, self.window, config.hidden_size, scale=0.02)
        self.layers = EncoderLayers(config, config.num_attention_pooler_hidden_layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.proj_out = nn.Linear(config.hidden_size, config.audio_acoustic_hidden_dim)

    def forward(self, quantized: Quantized) -> Latents:
        """Five latent frames for each code, from what `Quantizer.decode` returns."""
        states = repeat(self.embed_tokens(quantized), "b c d -> (b c) f d", f=self.window)
        states = self.norm(self.layers(states + self.special_tokens))
        return rearrange(self.proj_out(states), "(b c) f d -> b (c f) d", b=len(quantized))
