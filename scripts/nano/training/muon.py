"""Muon (Jordan et al. 2024): momentum whose every direction counts alike, for matrices; AdamW else.

On short runs it takes about half the steps of AdamW. Torch's own computes in bfloat16, which CPUs
without it take minutes for; this one does so only where it is fast.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acestep.planner.backends.decoder import fitting_dtype

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the published quintic iteration
ITERATIONS = 5
MOMENTUM = 0.95
MATCH = 0.2  # brings the update to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982)


class Muon(torch.optim.Optimizer):
    """Muon for the matrices inside layers, AdamW for embeddings, heads and vectors."""

    def __init__(
        self,
        model: nn.Module,
        learning_rate: float,
        *,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        matrices = [p for name, p in model.named_parameters() if _is_inner(name, p)]
        chosen = set(matrices)
        others = [p for p in model.parameters() if p.requires_grad and p not in chosen]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "is_inner": True, "weight_decay": weight_decay},
            {"params": others, "is_inner": False, "weight_decay": 0.0},
        ]
        super().__init__(groups, {"lr": learning_rate, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state, rate = self.state[weight], group["lr"]
                weight.mul_(1 - rate * group["weight_decay"])
                if group["is_inner"]:
                    size = MATCH * math.sqrt(max(weight.shape))
                    weight.sub_(_direction(weight.grad, state), alpha=rate * size)
                else:
                    weight.sub_(_adam(weight.grad, state, group["betas"]), alpha=rate)


def orthogonal(matrix: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    """The same directions, all of about the same strength: near U Vᵀ of the matrix's SVD."""
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = (x / (x.norm() + 1e-7)).to(fitting_dtype(matrix.device))
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if is_tall else x).to(matrix.dtype)


def _is_inner(name: str, parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.ndim == 2 and "embed" not in name


def _direction(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """Nesterov momentum, made orthogonal."""
    momentum = state.setdefault("momentum", torch.zeros_like(gradient))
    momentum.lerp_(gradient, 1 - MOMENTUM)
    return orthogonal(gradient.lerp(momentum, MOMENTUM))


def _adam(gradient: Tensor, state: dict[str, Any], betas: tuple[float, float]) -> Tensor:
    first = state.setdefault("first", torch.zeros_like(gradient))
    second = state.setdefault("second", torch.zeros_like(gradient))
    steps = state["steps"] = state.get("steps", 0) + 1
    first.lerp_(gradient, 1 - betas[0])
    second.lerp_(gradient.square(), 1 - betas[1])
    unbiased = (second / (1 - betas[1] ** steps)).sqrt_().add_(1e-8)
    return first / (1 - betas[0] ** steps) / unbiased
