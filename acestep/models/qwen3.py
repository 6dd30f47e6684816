"""Qwen3 (arXiv:2505.09388): the decoder network of the text encoder and of the 5 Hz planner.

Token ids in, hidden states out; it knows neither tokenizer nor head. Attribute names are the
published keys without their optional `model.` prefix. Attention is causal and has no window.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor, nn

from acestep.models.config import Qwen3Config
from acestep.models.initialize import Embedding
from acestep.models.layers import (
    Attention,
    AttentionMask,
    KeysValues,
    RMSNorm,
    Rotary,
    SwiGLU,
    rotary_at,
)
from acestep.types import States, TokenIds


class KVCache:
    """Keys and values of the tokens read so far, in memory reserved once.

    Rows may hold different numbers of tokens, as the two prompts of guidance do: read them padded
    on the right, then `rewind` each row to its own length; its next token overwrites the padding.
    The lengths live on the device and no tensor ever moves: a decoding step neither waits for the
    device nor changes an address, which is what CUDA graphs ask for.
    """

    def __init__(
        self,
        config: Qwen3Config,
        batch: int,
        capacity: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (batch, config.num_key_value_heads, capacity, config.head_dim)

        def reserve() -> Tensor:
            # Zeros, because attention reads the unused end too: weight 0 times NaN is NaN.
            return torch.zeros(shape, dtype=dtype, device=device)

        self.layers = [KeysValues(reserve(), reserve()) for _ in range(config.num_hidden_layers)]
        self.capacity = capacity  # tokens per row
        self.length = torch.zeros(batch, dtype=torch.long, device=device)  # tokens held, per row
        self.extent = 0
        """How far attention reads: no row is longer. Kept on the host, so no step waits for the
        device; it may be set larger, which costs time and changes nothing."""

    def grow(self, tokens: int) -> Int[Tensor, "batch token"]:
        """Make room for `tokens` more in every row and return their positions."""
        if self.extent + tokens > self.capacity:
            raise ValueError(
                f"The cache holds {self.capacity} tokens; "
                f"{self.extent} and {tokens} more do not fit."
            )
        positions = self.length[:, None] + torch.arange(tokens, device=self.length.device)
        self.extent += tokens
        self.length += tokens
        return positions

    def write(
        self, layer: int, positions: Int[Tensor, "batch token"], new: KeysValues
    ) -> KeysValues:
        """Store one layer's keys and values at `positions`; return all that attention may read."""
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        for stored, heads in zip(self.layers[layer], new, strict=True):
            stored[rows, :, positions] = heads.transpose(1, 2)
        return KeysValues(*(stored[:, :, : self.extent] for stored in self.layers[layer]))

    def rewind(self, length: Int[Tensor, " batch"]) -> None:
        """Forget what each row holds beyond `length` tokens."""
        self.length.copy_(length)


class Qwen3(nn.Module):
    """Embedding, decoder layers, final norm."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def embed(self, ids: TokenIds) -> States:
        """The embedding rows alone."""
        return self.embed_tokens(ids)

    def forward(self, ids: TokenIds, cache: KVCache | None = None) -> States:
        """Last hidden states, after the final norm, of every token in `ids`.

        Padding on the right needs no mask: no token sees what comes after it.

        Args:
            cache: what came before `ids`; they are appended to it.
        """
        states = self.embed(ids)
        if cache is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
            extent = ids.shape[1]
        else:
            positions = cache.grow(ids.shape[1])
            extent = cache.extent
        rope = rotary_at(positions[:, None], self.config, states.dtype)
        mask = causal_mask(positions, extent, states.dtype)
        for index, layer in enumerate(self.layers):
            remember = partial(cache.write, index, positions) if cache is not None else None
            states = layer(states, rope, mask, remember)
        return self.norm(states)


class DecoderLayer(nn.Module):
    """Pre-norm transformer layer that looks back only."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(
        self,
        states: States,
        rope: Rotary,
        mask: AttentionMask,
        remember: Callable[[KeysValues], KeysValues] | None = None,
    ) -> States:
        """`remember` stores these tokens' keys and values and returns all there are."""
        normed = self.input_layernorm(states)
        entries = self.self_attn.keys_values(normed, rope)
        if remember is not None:
            entries = remember(entries)
        states = states + self.self_attn(normed, entries, rope=rope, mask=mask)
        return states + self.mlp(self.post_attention_layernorm(states))


def causal_mask(
    positions: Int[Tensor, "batch token"], extent: int, dtype: torch.dtype
) -> AttentionMask:
    """What is added to the scores: 0 up to a token's own position, the lowest number after it."""
    later = torch.arange(extent, device=positions.device) > positions[:, None, :, None]
    mask = torch.zeros(later.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill(later, torch.finfo(dtype).min)
