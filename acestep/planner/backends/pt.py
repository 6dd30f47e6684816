"""The planner's engine in PyTorch: runs wherever PyTorch does.

All takes and both branches of guidance are sequences of one batch, first every take towards the
prompt, then every take away from the unconditional one. One prefill serves all takes: copies of it.
While codes are written the host only counts: picking, writing and reading again happen on the
device, which is looked at every few steps.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from acestep.models.load import load_qwen3
from acestep.models.quantize import WeightForm
from acestep.planner.backends import Continuation, OnToken, read_planner, require_sound
from acestep.planner.backends.decoder import Dense, PackedQwen3, SequenceBatch, fitting_dtype
from acestep.planner.grammar import AudioCodeConstraint, TokenConstraint
from acestep.planner.sampling import Logits, guide, is_sound, sample, uniform_draws
from acestep.planner.vocabulary import Vocabulary

LOOK_EVERY = 16  # steps a GPU may run ahead of the host
EXTENT_STEP = 256  # attention on a GPU reads this much farther at a time: one graph each


class PtBackend:
    """A `Backend` on any PyTorch device."""

    name = "pt"

    def __init__(self, vocabulary: Vocabulary, decoder: PackedQwen3) -> None:
        self.vocabulary = vocabulary
        self._decoder = decoder
        self._code_rows = AudioCodeConstraint(vocabulary, count=0).head_rows
        self._code_head = decoder.head(self._code_rows, pack=True)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        weights: WeightForm = "plain",
    ) -> Self:
        """The planner in a checkpoint folder.

        Args:
            dtype: None is bfloat16 where the device multiplies in it, else float32.
            weights: the form of the layers' weights.

        Raises:
            CheckpointError: the folder holds something else than a 5 Hz planner.
            Unavailable: NF4 without bitsandbytes.
        """
        device = torch.device(device)
        vocabulary, _ = read_planner(folder)
        network = load_qwen3(folder, dtype or fitting_dtype(device), device, weights=weights)
        return cls(vocabulary, PackedQwen3(network))

    def close(self) -> None:
        """Give the memory back. The engine cannot be used afterwards."""
        is_on_gpu = self._decoder.device.type == "cuda"
        del self._decoder, self._code_head
        if is_on_gpu:
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def generate(self, continuation: Continuation, on_token: OnToken) -> list[list[int]]:
        """What each take wrote; see `Backend.generate`.

        A take is the same alone and among others as far as the device's matrix kernels give a row
        the same result in batches of any size. oneDNN's do, on CPUs; on GPUs, and with quantized
        weights while a text is written, the last bit can differ, and then a draw that falls between
        two tokens may fall to the other one.
        """
        if not continuation.constraints:
            return []
        sequences = self._prefill(continuation, lambda: on_token(0, continuation.max_tokens))
        head = self._head(continuation.constraints[0].head_rows)
        codes = [
            constraint
            for constraint in continuation.constraints
            if isinstance(constraint, AudioCodeConstraint)
        ]
        if len(codes) == len(continuation.constraints):
            return _write_codes(continuation, codes, sequences, head, on_token)
        return _write_text(continuation, sequences, head, on_token)

    def _head(self, head_rows: slice) -> Dense:
        is_for_codes = head_rows == self._code_rows
        return self._code_head if is_for_codes else self._decoder.head(head_rows, pack=False)

    def _prefill(self, continuation: Continuation, on_piece: Callable[[], None]) -> SequenceBatch:
        prompts = [continuation.conditional]
        if continuation.scale != 1:
            prompts.append(continuation.unconditional)
        longest = max(len(prompt) for prompt in prompts)
        sequences = SequenceBatch(self._decoder, len(prompts), longest)
        sequences.prefill(prompts, on_piece)
        return sequences.repeat(len(continuation.constraints), longest + continuation.max_tokens)


def _write_text(
    continuation: Continuation, sequences: SequenceBatch, head: Dense, on_token: OnToken
) -> list[list[int]]:
    """Token by token, as each take's grammar allows; what is forced is read in one step.

    Takes need not be in step with each other; one that is done idles. Forced tokens count as
    progress once they have been read, which takes as long as reading a prompt.
    """
    takes = len(continuation.constraints)
    branches = len(sequences.lengths) // takes
    device = sequences.states.device
    draws = uniform_draws(continuation.seeds, continuation.name, continuation.max_tokens).to(device)
    written: list[list[int]] = [[] for _ in continuation.constraints]
    unread: list[list[int]] = [[] for _ in continuation.constraints]
    done = 0
    while True:
        for constraint, tokens, run in zip(continuation.constraints, written, unread, strict=True):
            forced = _accept_forced(constraint, continuation.max_tokens - len(tokens))
            tokens += forced
            run += forced
        active = [
            take
            for take, constraint in enumerate(continuation.constraints)
            if not constraint.is_done and len(written[take]) < continuation.max_tokens
        ]
        if not active:
            on_token(max(len(tokens) for tokens in written), continuation.max_tokens)
            return written
        runs = [unread[take] if take in active else [] for take in range(takes)] * branches
        sequences.prefill(runs, lambda done=done: on_token(done, continuation.max_tokens))
        places = [branch * takes + take for branch in range(branches) for take in active]
        constraints = [continuation.constraints[take] for take in active]
        allowed = torch.stack(
            [constraint.allowed()[constraint.head_rows] for constraint in constraints]
        ).to(device)
        greedy = torch.tensor([constraint.is_greedy for constraint in constraints], device=device)
        logits = _guided(head(sequences.states[places]), continuation.scale)
        require_sound(is_sound(logits, allowed))
        uniform = draws[active, [len(written[take]) for take in active]]
        picked = (
            sample(logits, continuation.sampling, uniform, allowed, greedy)
            + continuation.constraints[0].head_rows.start
        )
        for take, token in zip(active, picked.tolist(), strict=True):
            continuation.constraints[take].accept(token)
            written[take].append(token)
            unread[take] = [token]
        done = max(len(tokens) for tokens in written)


def _write_codes(
    continuation: Continuation,
    constraints: Sequence[AudioCodeConstraint],
    sequences: SequenceBatch,
    head: Dense,
    on_token: OnToken,
) -> list[list[int]]:
    """As many codes as the longest take has, for all; a shorter take's surplus is dropped."""
    device = sequences.states.device
    count = max(constraint.count for constraint in constraints)
    if count > continuation.max_tokens:
        raise ValueError(
            f"{count} codes were asked for, but room for {continuation.max_tokens} tokens."
        )
    steps = _CodeSteps(continuation, sequences, head, count)
    step = _Graphed(steps.step, device) if device.type == "cuda" else steps.step
    is_cpu = device.type == "cpu"
    start = max(sequences.lengths)
    if count:
        steps.pick()
    for done in range(1, count):
        if is_cpu or done % LOOK_EVERY == 1:
            on_token(done, continuation.max_tokens)
        if done % LOOK_EVERY == 1:
            require_sound(is_sound(steps.logits))
        extent = start + done
        step(extent if is_cpu else min(_round_up(extent), sequences.cache.capacity))
    if count:
        require_sound(is_sound(steps.logits))
    written = [
        _accept_codes(constraint, codes)
        for constraint, codes in zip(constraints, steps.written.tolist(), strict=True)
    ]
    on_token(max(len(tokens) for tokens in written), continuation.max_tokens)
    return written


class _CodeSteps:
    """Codes are picked, written down and read again without leaving the device."""

    def __init__(
        self, continuation: Continuation, sequences: SequenceBatch, head: Dense, count: int
    ) -> None:
        device = sequences.states.device
        takes, codes = len(continuation.constraints), continuation.constraints[0].head_rows
        self.written: Int[Tensor, "take code"] = torch.zeros(
            takes, count, dtype=torch.long, device=device
        )
        self.logits: Logits = torch.zeros(takes, codes.stop - codes.start, device=device)
        self._done = torch.zeros(1, dtype=torch.long, device=device)  # codes written, per take
        self._draws = uniform_draws(continuation.seeds, continuation.name, count).to(device)
        self._continuation, self._sequences = continuation, sequences
        self._head, self._first = head, codes.start

    def pick(self) -> None:
        """Write the codes that follow what has been read. Every code is allowed: no mask."""
        self.logits.copy_(_guided(self._head(self._sequences.states), self._continuation.scale))
        uniform = self._draws.index_select(1, self._done)[:, 0]
        picked = sample(self.logits, self._continuation.sampling, uniform)
        self.written.index_copy_(1, self._done, picked[:, None])
        self._done += 1

    def step(self, extent: int) -> None:
        """Read the last codes and pick the next. Fixed memory and no host: fit for a graph."""
        last = self.written.index_select(1, self._done - 1)[:, 0] + self._first
        self._sequences.decode_step(last.repeat(len(self._sequences.lengths) // len(last)), extent)
        self.pick()


class _Graphed:
    """A step that the GPU repeats by itself, since telling it takes longer than doing it.

    The first step of an extent runs as written, which also warms the libraries up. Then a second
    one is recorded, which computes nothing, and replayed from there on.
    """

    def __init__(self, step: Callable[[int], None], device: torch.device) -> None:
        self._step = step
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._extent = 0

    def __call__(self, extent: int) -> None:
        with torch.cuda.device(self._device):
            if self._graph is not None and extent == self._extent:
                self._graph.replay()
                return
            self._step(extent)
            self._graph, self._extent = torch.cuda.CUDAGraph(), extent
            # Other threads, a page that asks for free memory say, do not disturb the recording.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._step(extent)


def _accept_codes(constraint: AudioCodeConstraint, codes: Sequence[int]) -> list[int]:
    tokens = [constraint.head_rows.start + code for code in codes[: constraint.count]]
    for token in tokens:
        constraint.accept(token)
    return tokens + _accept_forced(constraint, most=1)


def _accept_forced(constraint: TokenConstraint, most: int) -> list[int]:
    """The tokens a constraint has no choice about, at most so many; it goes on from the last."""
    accepted: list[int] = []
    while len(accepted) < most and (forced := constraint.forced()):
        for token in forced[: most - len(accepted)]:
            constraint.accept(token)
            accepted.append(token)
    return accepted


def _guided(logits: Float[Tensor, "sequence vocab"], scale: float) -> Logits:
    """Both branches' logits → one row per take."""
    if scale == 1:
        return logits
    conditional, unconditional = logits.chunk(2)
    return guide(conditional, unconditional, scale)


def _round_up(extent: int) -> int:
    return -(-extent // EXTENT_STEP) * EXTENT_STEP
