"""The diffusion transformer: noisy latents in, velocity out (checkpoint keys `decoder.*`).

Latents are patched two frames to a position, so the transformer runs at 12.5 Hz. It knows nothing
about text or sound: its conditions are states, and what it keeps or repaints is in its context.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from einops.layers.torch import Rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from acestep.models.config import AceStepConfig
from acestep.models.constants import MODULATIONS
from acestep.models.initialize import gaussian
from acestep.models.layers import (
    Attention,
    AttentionMask,
    KeysValues,
    RMSNorm,
    Rotary,
    SwiGLU,
    Times,
    TimestepEmbedding,
    attention_mask,
    rotary,
    sinusoids,
)
from acestep.types import Context, Latents, States

Conditions = Float[Tensor, "batch condition width"]


class DiTLayer(nn.Module):
    """Self-attention and MLP modulated by the time, with cross-attention between them."""

    def __init__(self, config: AceStepConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn_norm = RMSNorm(width, eps)
        self.self_attn = Attention(config)
        self.cross_attn_norm = RMSNorm(width, eps)
        self.cross_attn = Attention(config)
        self.mlp_norm = RMSNorm(width, eps)
        self.mlp = SwiGLU(config)
        self.scale_shift_table = gaussian(1, MODULATIONS, width, scale=width**-0.5)

    def forward(
        self,
        states: States,
        modulations: Float[Tensor, "batch modulation width"],
        conditions: Conditions | KeysValues,
        rope: Rotary,
        mask: AttentionMask | None,
    ) -> States:
        table = self.scale_shift_table + modulations
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = table.chunk(MODULATIONS, dim=1)
        modulated = self.self_attn_norm(states) * (1 + scale) + shift
        states = states + gate * self.self_attn(modulated, rope=rope, mask=mask)
        states = states + self.cross_attn(self.cross_attn_norm(states), conditions)
        modulated = self.mlp_norm(states) * (1 + mlp_scale) + mlp_shift
        return states + mlp_gate * self.mlp(modulated)


class DiT(nn.Module):
    """Predicts the velocity, noise − latents, of rectified flow (arXiv:2209.03003)."""

    def __init__(self, config: AceStepConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.hidden_size, config.patch_size
        channels = config.audio_acoustic_hidden_dim
        self.proj_in = nn.Sequential(
            Rearrange("b t c -> b c t"),
            nn.Conv1d(config.in_channels, width, kernel_size=patch, stride=patch),
            Rearrange("b d s -> b s d"),
        )
        self.time_embed = TimestepEmbedding(width)
        self.time_embed_r = TimestepEmbedding(width)
        self.condition_embedder = nn.Linear(config.encoder.hidden_size, width)
        self.layers = nn.ModuleList(DiTLayer(config) for _ in range(config.num_hidden_layers))
        self.norm_out = RMSNorm(width, config.rms_norm_eps)
        self.proj_out = nn.Sequential(
            Rearrange("b s d -> b d s"),
            nn.ConvTranspose1d(width, channels, kernel_size=patch, stride=patch),
            Rearrange("b c t -> b t c"),
        )
        self.scale_shift_table = gaussian(1, 2, width, scale=width**-0.5)

    @property
    def dtype(self) -> torch.dtype:
        """What the activations are computed in."""
        return self.scale_shift_table.dtype

    def keys_values(self, states: Conditions) -> list[KeysValues]:
        """Each layer's keys and values of the conditions.

        They do not depend on the time: given to `forward` in place of the states, they save every
        step but the first from projecting the conditions again.
        """
        conditions = self.condition_embedder(states.to(self.dtype))
        return [layer.cross_attn.keys_values(conditions) for layer in self._layers_in_turn()]

    def forward(
        self,
        latents: Latents,
        t: Times,
        r: Times,
        states: Conditions | Sequence[KeysValues],
        context: Context,
    ) -> Latents:
        """The velocity at time `t`, in the dtype of `latents`.

        Every condition is seen, padding too, and so is every frame of a batch: the networks were
        trained without masks here (docs/model.md, DiT).

        Args:
            latents: the mixture of noise and music at time t.
            t: 1 is noise, 0 is music. Kept in fp32 up to the embedding.
            r: where the step ends, for mean flow (arXiv:2505.13447); inference passes t.
            states: the conditions, or what `keys_values` made of them.
            context: source latents, then chunk mask (1 where music is made).
        """
        frames = latents.shape[1]
        x = torch.cat([context.to(self.dtype), latents.to(self.dtype)], dim=-1)
        x = self.proj_in(F.pad(x, (0, 0, 0, -frames % self.config.patch_size)))
        embedding, modulations = self._embed_times(t, r)
        conditions = (
            [self.condition_embedder(states.to(self.dtype))] * len(self.layers)
            if isinstance(states, Tensor)
            else states
        )
        rope = rotary(x.shape[1], self.config, x)
        windows = [self.config.window(i) for i in range(len(self.layers))]
        masks = {window: attention_mask(x, window) for window in set(windows)}
        in_turn = zip(self._layers_in_turn(), conditions, windows, strict=True)
        for layer, condition, window in in_turn:
            x = layer(x, modulations, condition, rope, masks[window])
        shift, scale = (self.scale_shift_table + embedding[:, None]).chunk(2, dim=1)
        velocity = self.proj_out(self.norm_out(x) * (1 + scale) + shift)
        return velocity[:, :frames].to(latents.dtype)

    def _embed_times(
        self, t: Times, r: Times
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch modulation width"]]:
        embedding, modulations = self.time_embed(sinusoids(t).to(self.dtype))
        span = sinusoids(t.float() - r.float()).to(self.dtype)
        embedding_r, modulations_r = self.time_embed_r(span)
        return embedding + embedding_r, modulations + modulations_r

    def _layers_in_turn(self) -> Iterator[DiTLayer]:
        """Each is used before the next one is asked for: they may visit the device in turn."""
        return cast(Iterator[DiTLayer], iter(self.layers))
