"""What the networks are made of: norm, RoPE, attention, SwiGLU, encoder layers.

The blocks are Qwen3's (arXiv:2505.09388) without biases; attribute names are checkpoint keys.
Positions, frequencies and norm statistics are always computed in fp32, whatever the weights are.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from acestep.models.config import AceStepConfig, Qwen3Config
from acestep.models.constants import MODULATIONS, TIME_FREQUENCIES
from acestep.types import States, TokenMask

Heads = Float[Tensor, "batch head token depth"]
AttentionMask = Float[Tensor, "#batch 1 #token source"]  # added to the scores
Times = Float[Tensor, " batch"]  # 1 is noise, 0 is clean latents
TransformerConfig = AceStepConfig | Qwen3Config  # both name their sizes alike

TIME_SCALE = 1000.0  # the embedding was trained on t in thousandths
TIME_PERIOD = 10000.0


class Rotary(NamedTuple):
    """Cosine and sine of every position's angles, already in the activations' dtype."""

    cos: Float[Tensor, "*batch token depth"]
    sin: Float[Tensor, "*batch token depth"]


class KeysValues(NamedTuple):
    """What attention reads: one key and one value head per group of query heads."""

    keys: Heads
    values: Heads


class RMSNorm(nn.Module):
    """Scale to unit root mean square, then by a learned weight (arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        exact = x.float()
        exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)
        # Rounded before the weight is applied, as the networks were trained.
        return self.weight * exact.to(x.dtype)


def rotary(length: int, config: TransformerConfig, like: Tensor) -> Rotary:
    """RoPE of positions 0 … length−1, in the dtype and on the device of `like`."""
    return rotary_at(torch.arange(length, device=like.device), config, like.dtype)


def rotary_at(
    positions: Int[Tensor, "*batch token"], config: TransformerConfig, dtype: torch.dtype
) -> Rotary:
    """RoPE (arXiv:2104.09864) of positions that need not start at 0.

    Made per call rather than kept as a buffer: casting a module to bf16 would round the
    frequencies, which is a radian off after a thousand positions.
    """
    pairs = torch.arange(0, config.head_dim, 2, device=positions.device)
    frequencies = 1.0 / config.rope_theta ** (pairs.float() / config.head_dim)
    angles = positions.float()[..., None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return Rotary(angles.cos().to(dtype), angles.sin().to(dtype))


def rotate(heads: Heads, rope: Rotary) -> Heads:
    """Turn the pairs (k, k + depth/2) by their position's angles."""
    low, high = heads.chunk(2, dim=-1)
    return heads * rope.cos + torch.cat([-high, low], dim=-1) * rope.sin


def attention_mask(
    states: States, window: int | None, padding: TokenMask | None = None
) -> AttentionMask | None:
    """Which positions see which: at most `window` to either side, and never padding.

    None where everything sees everything, so that attention takes its fastest kernel. Elsewhere
    hidden scores get the lowest finite number: a padded position with only padding in reach then
    averages all values, as in training, where −inf would make it NaN.
    """
    length = states.shape[1]
    visible = None if padding is None else rearrange(padding, "b s -> b 1 1 s")
    if window is not None and length > window + 1:
        # A band of booleans: differences of positions would take 17 bytes per pair, 1 GB for a
        # song of ten minutes.
        everywhere = torch.ones(length, length, dtype=torch.bool, device=states.device)
        near = rearrange(everywhere.triu(-window).tril(window), "t s -> 1 1 t s")
        visible = near if visible is None else near & visible
    if visible is None:
        return None
    lowest = torch.finfo(states.dtype).min
    return torch.zeros_like(visible, dtype=states.dtype).masked_fill_(~visible, lowest)


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys, to itself or to a source."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width = config.hidden_size
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, queries, bias=False)
        self.k_proj = nn.Linear(width, keys, bias=False)
        self.v_proj = nn.Linear(width, keys, bias=False)
        self.o_proj = nn.Linear(queries, width, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def keys_values(
        self, source: Float[Tensor, "batch source width"], rope: Rotary | None = None
    ) -> KeysValues:
        """What `forward` reads from `source`; worth keeping when the source does not change."""
        keys = self.k_norm(self._heads(self.k_proj(source)))
        if rope is not None:
            keys = rotate(keys, rope)
        return KeysValues(keys, self._heads(self.v_proj(source)))

    def forward(
        self,
        states: States,
        source: Float[Tensor, "batch source width"] | KeysValues | None = None,
        *,
        rope: Rotary | None = None,
        mask: AttentionMask | None = None,
    ) -> States:
        """Attend from `states` to `source`, or to themselves when there is none."""
        queries = self.q_norm(self._heads(self.q_proj(states)))
        if rope is not None:
            queries = rotate(queries, rope)
        if not isinstance(source, KeysValues):
            source = self.keys_values(states if source is None else source, rope)
        keys, values = source
        repeats = mask is not None or (queries.is_cuda and queries.dtype == torch.float32)
        if repeats:
            # With a mask, and on GPUs in fp32, no fused kernel shares key-value heads, and any
            # other one would keep every score: 7 GB for ten minutes. So they are repeated.
            shared = queries.shape[1] // keys.shape[1]
            keys = keys.repeat_interleave(shared, dim=1)
            values = values.repeat_interleave(shared, dim=1)
        heads = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, enable_gqa=not repeats
        )
        return self.o_proj(rearrange(heads, "b h t d -> b t (h d)"))

    def _heads(self, projected: States) -> Heads:
        return rearrange(projected, "b t (h d) -> b h t d", d=self.head_dim)


class SwiGLU(nn.Module):
    """Gated feed-forward layer (arXiv:2002.05202)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, states: States) -> States:
        return self.down_proj(F.silu(self.gate_proj(states)) * self.up_proj(states))


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer that looks both ways."""

    def __init__(self, config: AceStepConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, states: States, rope: Rotary, mask: AttentionMask | None) -> States:
        states = states + self.self_attn(self.input_layernorm(states), rope=rope, mask=mask)
        return states + self.mlp(self.post_attention_layernorm(states))


class EncoderLayers(nn.ModuleList):
    """Encoder layers in order; `layer_types` says which of them look through a window."""

    def __init__(self, config: AceStepConfig, depth: int) -> None:
        super().__init__(EncoderLayer(config) for _ in range(depth))
        self.config = config

    def forward(self, states: States, padding: TokenMask | None = None) -> States:
        """Encode; where `padding` is False a position is seen by nobody."""
        rope = rotary(states.shape[1], self.config, states)
        windows = [self.config.window(i) for i in range(len(self))]
        masks = {window: attention_mask(states, window, padding) for window in set(windows)}
        for layer, window in zip(self, windows, strict=True):
            states = layer(states, rope, masks[window])
        return states


class TimestepEmbedding(nn.Module):
    """A time in [0, 1] as a vector and as the modulations of every layer (arXiv:2212.09748)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(2 * TIME_FREQUENCIES, width)
        self.linear_2 = nn.Linear(width, width)
        self.time_proj = nn.Linear(width, MODULATIONS * width)

    def forward(
        self, waves: Float[Tensor, "batch wave"]
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch modulation width"]]:
        """Embed what `sinusoids` made of the times."""
        embedding = self.linear_2(F.silu(self.linear_1(waves)))
        modulations = self.time_proj(F.silu(embedding))
        return embedding, rearrange(modulations, "b (m d) -> b m d", m=MODULATIONS)


def sinusoids(t: Times) -> Float[Tensor, "batch wave"]:
    """Cosines, then sines, of t at geometrically falling frequencies; always fp32."""
    steps = torch.arange(TIME_FREQUENCIES, device=t.device).float() / TIME_FREQUENCIES
    frequencies = torch.exp(-math.log(TIME_PERIOD) * steps)
    angles = torch.outer(TIME_SCALE * t.float(), frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
