"""Classifier-free guidance in vLLM, which has none: a take is two requests that write one text.

vLLM lets a logits processor see all rows of a step. Ours finds the two rows of a take, towards the
prompt and away from it, picks the token as `acestep.planner.sampling` does, and leaves it as the
only possible one in both; the requests are greedy, so both append it. The draw depends on the take
and on how much it has written alone, never on vLLM's generators, rows or positions.

vLLM may still desync the two: it reads a long prompt in pieces, or sends one back to the queue. So
a pick counts only when the engine has given it for both requests. If not, both are aborted and
added anew with what has been written, and the take goes on as if nothing had happened.

Nothing here needs vLLM: it is met through `VllmEngine` and the methods it calls on a processor.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from acestep.errors import UnsoundResult
from acestep.planner.backends import Continuation, OnToken, require_sound
from acestep.planner.grammar import AudioCodeConstraint, TokenConstraint
from acestep.planner.sampling import Logits, guide, is_sound, sample, uniform_draws

SLOT = "acestep_slot"  # key of a request's extra arguments: which sequence's which branch it is
MAX_DESYNCS = 4  # in a row for one take; an engine with room for both has none

Slot = tuple[str, int]  # a sequence's key; 0 towards the prompt, 1 away from it


@dataclass(frozen=True)
class Limits:
    """What the engine takes at a time.

    Attributes:
        sequences: requests that are written at once.
        tokens: read in one step, over all requests.
        blocks: of the cache, in all; a request holds whole ones.
        block_tokens: tokens of one block.
    """

    sequences: int
    tokens: int
    blocks: int
    block_tokens: int


class VllmEngine(Protocol):
    """What `write_sequences` needs of vLLM; requests have names."""

    @property
    def limits(self) -> Limits: ...

    def add(self, request: str, slot: Slot, prompt: Sequence[int], max_tokens: int) -> None: ...

    def step(self) -> Mapping[str, Sequence[int]]:
        """Compute once; the new tokens of each request that got any."""
        ...

    def abort(self, requests: Sequence[str]) -> None:
        """Forget requests, whether or not they have ended by themselves."""
        ...


@dataclass(eq=False)
class GuidedSequence:
    """One text in the making.

    Attributes:
        written: what the constraint has accepted; forced tokens even before the engine has them.
        read: how many of those the engine has.
        is_starting: the engine has not read the prompt yet.
        has_begun: the engine has given a token, since the take's very start.
        desyncs: how often in a row the engine gave the requests different tokens.
    """

    key: str
    place: int
    constraint: TokenConstraint
    max_tokens: int
    written: list[int] = field(default_factory=list)
    read: int = 0
    is_starting: bool = False
    has_begun: bool = False
    desyncs: int = 0
    requests: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._accept_forced()

    @property
    def is_done(self) -> bool:
        return self.constraint.is_done or len(self.written) >= self.max_tokens

    @property
    def done(self) -> int:
        """Tokens written, for progress; forced ones alone are part of the prompt still."""
        return len(self.written) if self.has_begun else 0

    @property
    def forced(self) -> int | None:
        """The token that must come next; None where there is a choice."""
        return self.written[self.read] if self.read < len(self.written) else None

    def accept(self, token: int) -> None:
        """Go on from a token that every branch has got."""
        self.is_starting = False
        self.has_begun = True
        self.desyncs = 0
        if self.forced is None:
            self._write(token)
            self._accept_forced()
        self.read += 1

    def _accept_forced(self) -> None:
        while not self.is_done and (forced := self.constraint.forced()):
            for token in forced[: self.max_tokens - len(self.written)]:
                self._write(token)

    def _write(self, token: int) -> None:
        self.constraint.accept(token)
        self.written.append(token)


class Guidance:
    """Writes each take's next token into the logits of its requests.

    Attributes:
        sound: `is_sound` of the logits that tokens were last picked from, on their device.
    """

    def __init__(self) -> None:
        self.sound: Bool[Tensor, " sequence"] = torch.ones(0, dtype=torch.bool)
        self._runs = 0
        self._sequences: dict[str, GuidedSequence] = {}

    def begin(self, continuation: Continuation) -> list[GuidedSequence]:
        """Fresh sequences. Rows of earlier continuations, should any be left, are nobody's."""
        self._runs += 1
        self._continuation = continuation
        self.sound = torch.ones(0, dtype=torch.bool)
        self._branches = range(1 if continuation.scale == 1 else 2)
        self._draws = uniform_draws(continuation.seeds, continuation.name, continuation.max_tokens)
        sequences = [
            GuidedSequence(f"{self._runs}.{place}", place, constraint, continuation.max_tokens)
            for place, constraint in enumerate(continuation.constraints)
        ]
        self._sequences = {sequence.key: sequence for sequence in sequences}
        return sequences

    def end(self) -> None:
        self._sequences = {}

    def rewrite(self, logits: Logits, rows: Mapping[Slot, int]) -> None:
        """Leave one token possible, in place, wherever all branches of a take are in the batch.

        A row without its partner stays as it is: what comes of it is not used.
        """
        sequences, places = [], []
        for sequence in self._sequences.values():
            slots = [(sequence.key, branch) for branch in self._branches]
            if all(rows.get(slot, len(logits)) < len(logits) for slot in slots):
                sequences.append(sequence)
                places.append([rows[slot] for slot in slots])
        if not sequences:
            return
        at = torch.tensor(places, device=logits.device)
        tokens = torch.tensor(
            [sequence.forced or 0 for sequence in sequences], device=logits.device
        )
        open_ = [place for place, sequence in enumerate(sequences) if sequence.forced is None]
        if open_:
            chosen = torch.tensor(open_, device=logits.device)
            tokens[chosen] = self._pick(logits, at[chosen], [sequences[place] for place in open_])
        logits[at] = -torch.inf
        logits[at, tokens[:, None]] = 0

    def _pick(
        self,
        logits: Logits,
        at: Int[Tensor, "sequence branch"],
        sequences: Sequence[GuidedSequence],
    ) -> Int[Tensor, " sequence"]:
        """One token per sequence, whose rows of the logits are `at`."""
        rows, device = sequences[0].constraint.head_rows, logits.device
        guided = logits[at[:, 0], rows]
        if self._continuation.scale != 1:
            guided = guide(guided, logits[at[:, 1], rows], self._continuation.scale)
        allowed = greedy = None  # every code may follow a code
        if not all(isinstance(sequence.constraint, AudioCodeConstraint) for sequence in sequences):
            masks = [
                sequence.constraint.allowed()[sequence.constraint.head_rows]
                for sequence in sequences
            ]
            allowed = torch.stack(masks).to(device)
            greedy = torch.tensor(
                [sequence.constraint.is_greedy for sequence in sequences], device=device
            )
        self.sound = is_sound(guided, allowed)
        steps = [len(sequence.written) for sequence in sequences]
        uniform = self._draws[[sequence.place for sequence in sequences], steps].to(device)
        return sample(guided, self._continuation.sampling, uniform, allowed, greedy) + rows.start


def write_sequences(
    continuation: Continuation, engine: VllmEngine, guidance: Guidance, on_token: OnToken
) -> list[list[int]]:
    """What each take wrote; see `Backend.generate`.

    As many takes run at once as fit; the others wait until one is done. When anything is raised,
    by `on_token` to cancel for instance, the engine is left empty.
    """
    sequences = guidance.begin(continuation)
    waiting = deque(sequence for sequence in sequences if not sequence.is_done)
    running: list[GuidedSequence] = []
    try:
        while waiting or running:
            while waiting and _fits(continuation, waiting[0], running, engine.limits):
                running.append(waiting.popleft())
                _add_requests(continuation, running[-1], engine)
            outputs = engine.step()
            require_sound(guidance.sound)
            for sequence in list(running):
                is_desynced = not _advance(sequence, outputs)
                if is_desynced:
                    waiting.appendleft(sequence)
                if is_desynced or sequence.is_done:
                    engine.abort(sequence.requests)
                    running.remove(sequence)
            on_token(max(sequence.done for sequence in sequences), continuation.max_tokens)
    finally:
        engine.abort([request for sequence in running for request in sequence.requests])
        guidance.end()
    return [sequence.written for sequence in sequences]


def _advance(sequence: GuidedSequence, outputs: Mapping[str, Sequence[int]]) -> bool:
    """Accept the token that all requests of a take got; False if they got different ones or none.

    Raises:
        UnsoundResult: that happens again and again.
    """
    tokens = {tuple(outputs.get(request, ())) for request in sequence.requests}
    if tokens == {()}:  # waiting, or reading
        return True
    if len(tokens) == 1:
        (token,) = tokens.pop()
        sequence.accept(token)
        return True
    sequence.desyncs += 1
    if sequence.desyncs > MAX_DESYNCS:
        raise UnsoundResult(
            "vLLM cannot keep the two halves of the planner's guidance in step here. "
            "Use --backend pt."
        )
    return False


def _prompts(continuation: Continuation) -> list[Sequence[int]]:
    """One per branch. Without guidance there is nothing to steer away from."""
    return (
        [continuation.conditional]
        if continuation.scale == 1
        else [continuation.conditional, continuation.unconditional]
    )


def _fits(
    continuation: Continuation,
    sequence: GuidedSequence,
    running: Sequence[GuidedSequence],
    limits: Limits,
) -> bool:
    """Whether a sequence can start now and never desync. A lone one always starts."""
    if not running:
        return True
    prompts = _prompts(continuation)
    blocks = sum(-(-(len(p) + continuation.max_tokens) // limits.block_tokens) for p in prompts)
    starting = [sequence, *(other for other in running if other.is_starting)]
    reading = sum(len(prompt) + len(other.written) for other in starting for prompt in prompts)
    writing = (len(running) + 1 - len(starting)) * len(prompts)
    return (
        (len(running) + 1) * len(prompts) <= limits.sequences
        and (len(running) + 1) * blocks <= limits.blocks
        and reading + writing <= limits.tokens
    )


def _add_requests(continuation: Continuation, sequence: GuidedSequence, engine: VllmEngine) -> None:
    """Everything written so far is part of the prompt, so it is read in one step."""
    prompts = _prompts(continuation)
    sequence.read, sequence.is_starting = len(sequence.written), True
    sequence.requests = tuple(
        f"{sequence.key}.{branch}.{len(sequence.written)}.{sequence.desyncs}"
        for branch in range(len(prompts))
    )
    for branch, (request, prompt) in enumerate(zip(sequence.requests, prompts, strict=True)):
        engine.add(
            request,
            (sequence.key, branch),
            [*prompt, *sequence.written],
            sequence.max_tokens - len(sequence.written),
        )


class ProcessorV1:
    """A vLLM logits processor for its model runner V1, which reports how the batch changes.

    `processor` makes the class that vLLM accepts; the constructors are vLLM's.
    """

    guidance: Guidance

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._slots: dict[int, Slot] = {}  # row of the batch → whose it is

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._slots.pop(row, None)
        for row, params, _prompt, _output in batch_update.added:
            self._place(row, _slot(params))
        for source, target, direction in batch_update.moved:
            moved, replaced = self._slots.pop(source, None), self._slots.pop(target, None)
            self._place(target, moved)
            if direction.name == "SWAP":
                self._place(source, replaced)

    def apply(self, logits: Tensor) -> Tensor:
        self.guidance.rewrite(logits, {slot: row for row, slot in self._slots.items()})
        return logits

    def _place(self, row: int, slot: Slot | None) -> None:
        """A request may come in the place of another."""
        self._slots.pop(row, None)
        if slot is not None:
            self._slots[row] = slot


class ProcessorV2:
    """A vLLM logits processor for its model runner V2, which orders the batch anew every step.

    A request keeps its index; indices are given to other requests without notice of the end.
    """

    guidance: Guidance

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._slots: dict[int, Slot] = {}  # vLLM's index of a request → whose it is

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        self._slots.pop(req_idx, None)
        slot = _slot(sampling_params)
        if slot is not None:
            self._slots[req_idx] = slot
        return slot is not None

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        indices = ctx.idx_mapping_np.tolist()
        rows = {self._slots[idx]: row for row, idx in enumerate(indices) if idx in self._slots}
        self.guidance.rewrite(logits, rows)
        return logits


def processor(runner: type, interface: type, guidance: Guidance) -> type:
    """`ProcessorV1` or `ProcessorV2` as a subclass of vLLM's interface, tied to one guidance.

    vLLM makes the instance itself and accepts nothing but a class.
    """
    return type(runner.__name__, (runner, interface), {"guidance": guidance})


def _slot(params: Any) -> Slot | None:
    slot = (params.extra_args or {}).get(SLOT)
    return None if slot is None else (slot[0], slot[1])
