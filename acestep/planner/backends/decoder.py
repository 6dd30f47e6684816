"""Qwen3 arranged for writing: what `acestep.models.qwen3` computes, up to rounding, in less time.

A decoding step multiplies every weight with a handful of rows, so it lasts as long as reading the
weights does. Hence one product for queries, keys and values and one for gate and up; query heads
that share a key head are rows of one attention, so nothing is repeated; the head is multiplied for
the tokens that may come, not for all; and on CPUs the weights lie as oneDNN's kernels read them,
which gives two rows two to three times the bandwidth they otherwise get. Weights of a byte or half
a byte (`acestep.models.quantize`) take as much less time to read where the device has a product for
them.
"""

from collections.abc import Callable, Sequence
from typing import Self, cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from acestep.models.constants import PIECE
from acestep.models.layers import AttentionMask, KeysValues, RMSNorm, Rotary, rotary_at, rotate
from acestep.models.quantize import Int8Linear, Nf4Linear, QuantizedLinear
from acestep.models.qwen3 import DecoderLayer, KVCache, Qwen3, causal_mask
from acestep.types import States, TokenIds

# The layout oneDNN chooses depends on how many rows it expects: the two branches of guidance.
EXPECTED_ROWS = 2


def fitting_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies in it, which halves what a step reads; else float32."""
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = device.type == "cpu" and _can_pack(torch.bfloat16)
    return torch.bfloat16 if has_bf16 else torch.float32


class Dense:
    """Rows times a weight [out, in]; `pack` makes a copy of it in the CPU kernels' own layout.

    A quantized layer lies as its kernels read it already.
    """

    def __init__(
        self, weight: Float[Tensor, "out width"] | QuantizedLinear, *, pack: bool = True
    ) -> None:
        self._quantized = weight if isinstance(weight, nn.Module) else None
        if isinstance(weight, nn.Module):
            return
        self._is_packed = pack and weight.device.type == "cpu" and _can_pack(weight.dtype)
        self._weight = (
            torch.ops.mkldnn._reorder_linear_weight(weight, EXPECTED_ROWS)
            if self._is_packed
            else weight
        )

    @classmethod
    def joined(cls, *linears: nn.Module) -> Self:
        """One product for several layers of one form, their outputs side by side."""
        int8 = [linear for linear in linears if isinstance(linear, Int8Linear)]
        nf4 = [linear for linear in linears if isinstance(linear, Nf4Linear)]
        if len(int8) == len(linears):
            return cls(Int8Linear.joined(int8))
        if len(nf4) == len(linears):
            return cls(Nf4Linear.joined(nf4))
        return cls(torch.cat([cast(nn.Linear, linear).weight for linear in linears]))

    def __call__(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch out"]:
        if self._quantized is not None:
            return self._quantized(x)
        if self._is_packed:
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
        return F.linear(x, self._weight)


class PackedQwen3:
    """A Qwen3 that reads and writes faster; called as the network itself is."""

    def __init__(self, network: Qwen3) -> None:
        """Takes the network's layers over, one by one, so that memory never holds them twice."""
        self.config = network.config
        self._embedding = network.embed_tokens.weight
        count = len(network.layers)
        self._is_int8 = any(isinstance(module, Int8Linear) for module in network.layers.modules())
        self._layers = [_Layer(cast(DecoderLayer, network.layers.pop(0))) for _ in range(count)]
        self._norm = network.norm

    @property
    def device(self) -> torch.device:
        return self._embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self._embedding.dtype

    def reserve(self, count: int, capacity: int) -> KVCache:
        """An empty cache for `count` sequences of at most `capacity` tokens."""
        return KVCache(self.config, count, capacity, dtype=self.dtype, device=self.device)

    def head(self, rows: slice, *, pack: bool) -> Dense:
        """States → logits of these tokens. Packing pays where thousands of steps use the head.

        A packed head of an INT8 network is INT8 on CPUs, where it is a copy in any case.
        """
        weight = self._embedding[rows]
        if pack and self._is_int8 and self.device.type == "cpu":
            head = Int8Linear(weight.shape[1], weight.shape[0])
            head.store(weight)
            return Dense(head)
        return Dense(weight, pack=pack)

    def __call__(self, ids: TokenIds, cache: KVCache) -> States:
        """Last hidden states, after the final norm; `ids` are appended to the cache."""
        states = F.embedding(ids, self._embedding)
        positions = cache.grow(ids.shape[1])
        rope = rotary_at(positions[:, :, None], self.config, states.dtype)
        # A query head is a row of its group's attention; each sees what its token sees.
        shared = self.config.num_attention_heads // self.config.num_key_value_heads
        mask = causal_mask(positions, cache.extent, states.dtype).repeat(1, 1, shared, 1)
        for index, layer in enumerate(self._layers):
            queries, entries = layer.project(states, rope)
            entries = cache.write(index, positions, entries)
            states = layer(states, queries, entries, mask)
        return self._norm(states)


class SequenceBatch:
    """Sequences of any length in one cache, and the last hidden state of each."""

    def __init__(self, decoder: PackedQwen3, count: int, capacity: int) -> None:
        width, dtype = decoder.config.hidden_size, decoder.dtype
        self.cache = decoder.reserve(count, capacity)
        self.lengths = [0] * count  # tokens read, as the cache knows it on the device
        self.states: Float[Tensor, "sequence width"] = torch.zeros(
            count, width, dtype=dtype, device=decoder.device
        )
        self._decoder = decoder

    def prefill(
        self, runs: Sequence[Sequence[int]], on_piece: Callable[[], None] = lambda: None
    ) -> None:
        """Append to every sequence its run of tokens, which may be empty."""
        device = self.states.device
        start, longest = 0, max(len(run) for run in runs)
        while start < longest:
            on_piece()
            # Padding needs room too: near the cache's end a long run is read in smaller pieces.
            size = max(1, min(PIECE, self.cache.capacity - max(self.lengths)))
            pieces = [list(run[start : start + size]) for run in runs]
            width = max(len(piece) for piece in pieces)
            padded = [piece + [0] * (width - len(piece)) for piece in pieces]
            self.cache.extent = max(self.lengths)
            states = self._decoder(torch.tensor(padded, device=device), self.cache)
            for place, piece in enumerate(pieces):
                self.lengths[place] += len(piece)
                if piece:
                    self.states[place] = states[place, len(piece) - 1]
            self.cache.rewind(torch.tensor(self.lengths, device=device))
            start += size

    def decode_step(self, tokens: Int[Tensor, " sequence"], extent: int) -> None:
        """Append one token to every sequence, without the host: `lengths` stays behind.

        Args:
            extent: how far attention looks; at least to the end of the longest sequence.
        """
        self.cache.extent = extent - 1
        self.states.copy_(self._decoder(tokens[:, None], self.cache)[:, -1])

    def repeat(self, times: int, capacity: int) -> "SequenceBatch":
        """Copies of every sequence, one after the other, with room for `capacity` tokens each."""
        copies = SequenceBatch(self._decoder, times * len(self.lengths), capacity)
        for held, free in zip(self.cache.layers, copies.cache.layers, strict=True):
            for old, new in zip(held, free, strict=True):
                new[:, :, : old.shape[2]] = old.repeat_interleave(times, dim=0)
        copies.lengths = [length for length in self.lengths for _ in range(times)]
        copies.cache.rewind(self.cache.length.repeat_interleave(times))
        copies.states.copy_(self.states.repeat_interleave(times, dim=0))
        return copies


class _Layer:
    """A `DecoderLayer` with its projections joined."""

    def __init__(self, layer: DecoderLayer) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._head_dim = attention.head_dim
        self._heads = [p.out_features // self._head_dim for p in projections]
        self._qkv = Dense.joined(*projections)
        self._out = Dense.joined(attention.o_proj)
        self._gate_up = Dense.joined(mlp.gate_proj, mlp.up_proj)
        self._down = Dense.joined(mlp.down_proj)
        self._norm = layer.input_layernorm
        self._mlp_norm = layer.post_attention_layernorm
        self._qk_norm = _joined(attention.q_norm, attention.k_norm, self._heads)

    def project(self, states: States, rope: Rotary) -> tuple[Tensor, KeysValues]:
        """Queries [batch, key head, shared · token, depth], and new keys and values."""
        joined = self._qkv(self._norm(states))
        heads = rearrange(joined, "b t (h d) -> b t h d", d=self._head_dim)
        queries, keys, values = self._heads
        rotated, values = heads.split([queries + keys, values], dim=2)
        rotated = rotate(self._qk_norm(rotated), rope)
        queries, keys = rotated.split([queries, keys], dim=2)
        queries = rearrange(queries, "b t (k g) d -> b k (g t) d", k=self._heads[1])
        return queries, KeysValues(keys.transpose(1, 2), values.transpose(1, 2))

    def __call__(
        self, states: States, queries: Tensor, entries: KeysValues, mask: AttentionMask
    ) -> States:
        heads = F.scaled_dot_product_attention(queries, *entries, attn_mask=mask)
        heads = rearrange(heads, "b k (g t) d -> b t (k g d)", t=states.shape[1])
        states = states + self._out(heads)
        gate, up = self._gate_up(self._mlp_norm(states)).chunk(2, dim=-1)
        return states + self._down(F.silu(gate) * up)


def _joined(queries: RMSNorm, keys: RMSNorm, heads: list[int]) -> RMSNorm:
    """One norm for query and key heads side by side."""
    norm = RMSNorm(queries.weight.shape[0], queries.eps)
    weight = torch.cat([queries.weight.expand(heads[0], -1), keys.weight.expand(heads[1], -1)])
    norm.weight = nn.Parameter(weight, requires_grad=False)
    return norm


def _can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN has fast kernels for this dtype on this CPU; slow ones exist for more."""
    has = torch.cpu.get_capabilities()
    fast = {
        torch.float32: has.get("avx2"),
        torch.bfloat16: has.get("avx512_bf16") or has.get("amx_bf16"),
    }
    return torch.backends.mkldnn.is_available() and bool(fast.get(dtype))
