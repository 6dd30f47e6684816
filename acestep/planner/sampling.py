"""Logits → token, for a batch of takes: guidance → allowed tokens → temperature → top-k → top-p →
draw, in fp32.

Nothing here waits for the device. Uniform draws come in as whole numbers made beforehand, one per
take and step, and picking adds whole numbers only: sums of floats depend on the order in which a
GPU adds them, sums of integers do not. So a take is the same alone and in a batch, run after run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from acestep import seeds
from acestep.request.planned import PlannedRequest

Logits = Float[Tensor, "batch vocab"]
Allowed = Bool[Tensor, "batch vocab"]
Draws = Int[Tensor, "batch step"]

_BITS = 31  # probabilities and draws are multiples of 2^-31: their product fits 64 bits


@dataclass(frozen=True)
class Sampling:
    """How to pick from a distribution.

    Args:
        temperature: 0 picks the likeliest token.
        top_k: keep this many of the likeliest tokens; 0 keeps all.
        top_p: keep the likeliest tokens up to this share, the one that crosses it included
            (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751); 1 keeps all.
    """

    temperature: float = 0.85
    top_k: int = 0
    top_p: float = 0.9

    @classmethod
    def of(cls, request: PlannedRequest) -> Self:
        return cls(request.lm_temperature, request.lm_top_k, request.lm_top_p)


def uniform_draws(take_seeds: Sequence[int], name: str, steps: int) -> Draws:
    """One uniform draw per step of every take, on the CPU: row k depends on seed k and name
    alone."""
    rows = [
        torch.randint(2**_BITS, (steps,), generator=seeds.generator(seed, name))
        for seed in take_seeds
    ]
    return torch.stack(rows)


def guide(
    conditional: Logits, unconditional: Logits, scale: float | Float[Tensor, "batch 1"]
) -> Logits:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) on logits, in fp32.

    A token that the conditional side rules out (−inf) stays ruled out, and one that only the
    unconditional side rules out keeps its conditional logit: both would be NaN by the formula.
    """
    conditional, unconditional = conditional.float(), unconditional.float()
    guided = unconditional + scale * (conditional - unconditional)
    is_ruled_out = torch.isneginf(conditional) | torch.isneginf(unconditional)
    return torch.where(is_ruled_out, conditional, guided)


def sample(
    logits: Logits,
    sampling: Sampling,
    draws: Int[Tensor, " batch"],
    allowed: Allowed | None = None,
    greedy: Bool[Tensor, " batch"] | None = None,
) -> Int[Tensor, " batch"]:
    """One token per row.

    Args:
        logits: guided; fp32 is used whatever they are in.
        draws: this step's column of `uniform_draws`, on the device of the logits.
        allowed: True for the tokens the grammar permits.
        greedy: True for the rows whose likeliest token is picked, whatever the temperature.
    """
    logits = logits.float()
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    picked = _draw_token(logits, sampling, draws)
    return picked if greedy is None else torch.where(greedy, logits.argmax(dim=-1), picked)


def _draw_token(
    logits: Logits, sampling: Sampling, draws: Int[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """Temperature, top-k, top-p, and the token that the draw falls on."""
    probabilities = (logits / sampling.temperature).softmax(dim=-1)
    if not sampling.top_k and sampling.top_p >= 1:
        return _pick(_weights(probabilities), draws)
    # Stable: of equal probabilities the smaller token id comes first, on every device.
    probabilities, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    weights = _weights(probabilities)
    if sampling.top_k:
        weights[:, sampling.top_k :] = 0
    if sampling.top_p < 1:
        share = round(sampling.top_p * 2**30)
        before = weights.cumsum(dim=-1) - weights
        limit = (weights.sum(dim=-1, keepdim=True) * share >> 30).clamp_min(1)
        weights = weights.masked_fill(before >= limit, 0)
    rank = _pick(weights, draws)
    return tokens.gather(-1, rank[:, None])[:, 0]


def is_sound(logits: Logits, allowed: Allowed | None = None) -> Bool[Tensor, " batch"]:
    """Whether a token can be picked from each row: no NaN or +inf, and not everything ruled out.

    Stays on the device, for a watchdog that looks now and then.
    """
    possible = torch.isfinite(logits) if allowed is None else torch.isfinite(logits) & allowed
    return ~(logits.isnan() | logits.isposinf()).any(dim=-1) & possible.any(dim=-1)


def _weights(probabilities: Logits) -> Int[Tensor, "batch vocab"]:
    return (probabilities * 2**_BITS).to(torch.int64)


def _pick(
    weights: Int[Tensor, "batch vocab"], draws: Int[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """The column where the cumulative weight first exceeds the drawn share of the total."""
    cumulative = weights.cumsum(dim=-1)
    target = draws[:, None] * cumulative[:, -1:] >> _BITS
    return (cumulative <= target).sum(dim=-1).clamp_max(weights.shape[-1] - 1)
