"""Engines that continue the planner's prompts, behind one small interface.

An engine knows token ids, token constraints and numbers; what they mean is the planner's business.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Bool
from torch import Tensor

from acestep.config import BackendName
from acestep.errors import CheckpointError, Unavailable, UnsoundResult
from acestep.models.config import CONFIG_FILE, Qwen3Config
from acestep.models.quantize import WeightForm
from acestep.planner.grammar import TokenConstraint
from acestep.planner.sampling import Sampling
from acestep.planner.vocabulary import Vocabulary

OnToken = Callable[[int, int], None]  # tokens done of tokens in all, per sequence; may raise

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Continuation:
    """One prompt, continued once per constraint: the takes of a request.

    Attributes:
        conditional: token ids of the prompt.
        unconditional: token ids to steer away from; unused while `scale` is 1.
        constraints: a fresh one per take; it says what may be written, and when to stop.
        seeds: one per take. Take k's draws come from its seed and `name` alone.
        max_tokens: how many tokens one take may write at most; reserves the cache.
    """

    conditional: Sequence[int]
    unconditional: Sequence[int]
    constraints: Sequence[TokenConstraint]
    seeds: Sequence[int]
    name: str
    sampling: Sampling
    scale: float
    max_tokens: int


class Backend(Protocol):
    """A language model that is ready to write."""

    @property
    def name(self) -> str: ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    def generate(self, continuation: Continuation, on_token: OnToken) -> list[list[int]]:
        """What each take wrote, the end token included where the constraint asks for one.

        The same continuation gives the same tokens on the same device, and a take is the same alone
        and among others. Temperature rests while a constraint is greedy.

        Args:
            on_token: called with 0 while the prompt is read, and forced tokens behind it; with more
                once the model has written.

        Raises:
            UnsoundResult: the model returned logits that nothing can be picked from.
        """
        ...

    def close(self) -> None:
        """Give the memory back. The engine cannot be used afterwards."""
        ...


def load_backend(
    folder: Path,
    name: BackendName,
    *,
    device: torch.device,
    dtype: torch.dtype,
    weights: WeightForm = "plain",
) -> Backend:
    """The engine that was asked for, with a checkpoint's weights; only `auto` chooses.

    Args:
        weights: the form of the layers' weights; only PyTorch's engine has others than plain.

    Raises:
        CheckpointError: the folder is incomplete, damaged, or not a planner's.
        Unavailable: the engine cannot be had here; the sentence says why.
    """
    from acestep.planner.backends.pt import PtBackend
    from acestep.planner.backends.vllm import VllmBackend, trial, unavailable

    if name == "vllm":
        if reason := unavailable(device, weights=weights):
            raise Unavailable(reason)
        return VllmBackend.load(folder, device=device, dtype=dtype)
    if name == "auto":
        read_planner(folder)  # a broken checkpoint is no reason to choose another engine
        reason = unavailable(device, weights=weights) or trial(folder, device, dtype)
        try:
            if reason is None:
                return VllmBackend.load(folder, device=device, dtype=dtype)
        except Unavailable as error:
            reason = str(error)
        logger.info("The planner runs on PyTorch. %s", reason)
    return PtBackend.load(folder, device=device, dtype=dtype, weights=weights)


def read_planner(folder: Path) -> tuple[Vocabulary, Qwen3Config]:
    """Tokens and sizes of the planner in a checkpoint folder.

    Raises:
        CheckpointError: the folder holds something else than a 5 Hz planner.
    """
    vocabulary = Vocabulary.read(folder)
    config = Qwen3Config.read(folder)
    if not config.tie_word_embeddings:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: tie_word_embeddings is false; a planner's head is its "
            "embedding."
        )
    if vocabulary.size > config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer knows {vocabulary.size:,} tokens, but the network only "
            f"{config.vocab_size:,}. They are not of the same model."
        )
    return vocabulary, config


def require_sound(sound: Bool[Tensor, " take"]) -> None:
    """Refuse to go on from logits that nothing can be picked from; `sound` is of `is_sound`.

    Raises:
        UnsoundResult: one row is not sound.
    """
    if not sound.all():
        raise UnsoundResult(
            "The planner computed numbers that no token can be picked from (not a number, or "
            "infinite). Its weights may be damaged: verify or download them again, or choose "
            "another planner."
        )
