"""Guided pairs of requests against a plain loop, on a stand-in for vLLM that is as unruly.

Runs without vLLM; `test_vllm.py` has the real one.
"""

import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acestep.errors import Cancelled, Unavailable, UnsoundResult
from acestep.planner.backends import Continuation, load_backend
from acestep.planner.backends.pt import PtBackend
from acestep.planner.backends.vllm import VllmBackend, run_trial, trial, unavailable
from acestep.planner.backends.vllm_guidance import (
    MAX_DESYNCS,
    SLOT,
    Guidance,
    Limits,
    ProcessorV1,
    ProcessorV2,
    Slot,
    processor,
    write_sequences,
)
from acestep.planner.grammar import (
    AudioCodeConstraint,
    BlockLayout,
    MetadataGrammar,
    TokenConstraint,
)
from acestep.planner.sampling import Sampling, guide, sample, uniform_draws
from acestep.planner.vocabulary import Vocabulary
from acestep.request import Plan

CPU = torch.device("cpu")
GREEDY = Sampling(temperature=0.0)
SAMPLED = Sampling(temperature=0.9, top_k=40, top_p=0.95)
AMPLE = Limits(sequences=16, tokens=4096, blocks=1000, block_tokens=16)
RUNNERS = pytest.mark.parametrize("runner", [ProcessorV1, ProcessorV2])


def network(history: Sequence[int], vocab: int) -> Tensor:
    """Logits that hang on every token before, as a language model's do."""
    seed = zlib.crc32(repr(list(history)).encode())
    return 3 * torch.randn(vocab, generator=torch.Generator().manual_seed(seed))


def plain_loop(continuation: Continuation, vocab: int) -> list[list[int]]:
    """One take after the other, one token at a time."""
    texts = []
    for constraint, seed in zip(continuation.constraints, continuation.seeds, strict=True):
        draws = uniform_draws([seed], continuation.name, continuation.max_tokens)
        text: list[int] = []
        while not constraint.is_done and len(text) < continuation.max_tokens:
            tokens = constraint.forced()
            if not tokens:
                logits = network([*continuation.conditional, *text], vocab)[None]
                if continuation.scale != 1:
                    away = network([*continuation.unconditional, *text], vocab)[None]
                    logits = guide(logits, away, continuation.scale)
                allowed = constraint.allowed()[None, constraint.head_rows]
                column = draws[:, len(text)]
                sampling = GREEDY if constraint.is_greedy else continuation.sampling
                picked = sample(logits[:, constraint.head_rows], sampling, column, allowed)
                tokens = [int(picked) + constraint.head_rows.start]
            for token in tokens:
                constraint.accept(token)
                text.append(token)
        texts.append(text)
    return texts


@dataclass
class Request:
    slot: Slot | None
    history: list[int]
    tokens_left: int
    blocks: int
    is_read: bool = False


class Direction(Enum):
    UNIDIRECTIONAL = 0
    SWAP = 1


@dataclass
class FakeVllm:
    """vLLM's scheduler and sampler in small, with a processor of either kind.

    Refuses what the real one would take but desync: more than it can hold, or read in one step.

    Attributes:
        is_unruly: asked once per step; then one request is left out or its token is dropped.
    """

    guidance: Guidance
    runner: type
    vocab: int
    limits: Limits = AMPLE
    is_unruly: Callable[[], bool] = lambda: False
    seed: int = 0
    requests: dict[str, Request] = field(default_factory=dict)
    prompts: list[list[int]] = field(default_factory=list)
    most: int = 0
    strangers: int = 0

    def __post_init__(self) -> None:
        make = processor(self.runner, object, self.guidance)
        self._processor = make(None, CPU, False) if self.runner is ProcessorV1 else make(None, None)
        self._places: dict[int, str] = {}  # rows of runner V1, slots of runner V2
        self._random = random.Random(self.seed)
        for number in range(self.strangers):
            self.requests[f"stranger {number}"] = Request(None, [number], 10_000, 0, True)

    def add(self, request: str, slot: Slot, prompt: Sequence[int], max_tokens: int) -> None:
        assert request not in self.requests
        blocks = -(-(len(prompt) + max_tokens) // self.limits.block_tokens)
        self.requests[request] = Request(slot, list(prompt), max_tokens, blocks)
        self.prompts.append(list(prompt))

    def abort(self, requests: Sequence[str]) -> None:
        for request in requests:
            self.requests.pop(request, None)

    def step(self) -> Mapping[str, Sequence[int]]:
        own = [r for r in self.requests.values() if r.slot is not None]
        assert len(own) <= self.limits.sequences
        assert sum(r.blocks for r in own) <= self.limits.blocks
        assert sum(1 if r.is_read else len(r.history) for r in own) <= self.limits.tokens
        self.most = max(self.most, len(own))
        batch = list(self.requests)
        dropped = self._random.choice(batch) if batch and self.is_unruly() else None
        if dropped is not None and self._random.random() < 0.5:
            batch.remove(dropped)
        outputs = {}
        for request, token in self._sample(batch).items():
            if request != dropped:
                state = self.requests[request]
                state.is_read = True
                state.history.append(token)
                state.tokens_left -= 1
                outputs[request] = [token]
                if not state.tokens_left:
                    del self.requests[request]
        return outputs

    def _sample(self, batch: list[str]) -> dict[str, int]:
        self._random.shuffle(batch)
        rows = self._arrange(batch) if self.runner is ProcessorV1 else batch
        if not rows:
            return {}
        logits = torch.stack([network(self.requests[r].history, self.vocab) for r in rows])
        if self.runner is ProcessorV1:
            logits = self._processor.apply(logits)
        else:
            logits = self._processor.apply(logits, self._context(rows))
        return dict(zip(rows, logits.argmax(dim=-1).tolist(), strict=True))

    def _params(self, request: str) -> SimpleNamespace:
        slot = self.requests[request].slot
        return SimpleNamespace(extra_args=None if slot is None else {SLOT: slot})

    def _arrange(self, batch: list[str]) -> list[str]:
        """Runner V1: rows are kept; newcomers fill gaps, the last fill what is left, some swap."""
        places = self._places
        gone = [row for row, request in places.items() if request not in batch]
        for row in gone:
            del places[row]
        added, moved = [], []
        for request in batch:
            if request not in places.values():
                row = gone.pop() if gone else len(places)
                places[row] = request
                added.append((row, self._params(request), None, []))
        removed = list(gone)
        while gone:
            hole, last = min(gone), max(places, default=-1)
            gone.remove(hole)
            if last > hole:
                places[hole] = places.pop(last)
                moved.append((last, hole, Direction.UNIDIRECTIONAL))
        if len(places) > 1:
            a, b = self._random.sample(sorted(places), 2)
            places[a], places[b] = places[b], places[a]
            moved.append((a, b, Direction.SWAP))
        update = SimpleNamespace(removed=removed, added=added, moved=moved)
        self._processor.update_state(update if removed or added or moved else None)
        return [places[row] for row in range(len(places))]

    def _context(self, batch: list[str]) -> SimpleNamespace:
        """Runner V2: slots are kept, and taken by newcomers without notice."""
        slots = {request: slot for slot, request in self._places.items() if request in batch}
        for request in batch:
            if request not in slots:
                taken = set(slots.values())
                slots[request] = next(slot for slot in range(99) if slot not in taken)
                self._processor.add_request(slots[request], self._params(request))
        self._places = {slot: request for request, slot in slots.items()}
        return SimpleNamespace(idx_mapping_np=np.array([slots[request] for request in batch]))


@dataclass
class Setting:
    """A vocabulary, and continuations over it."""

    vocabulary: Vocabulary

    @property
    def vocab(self) -> int:
        return self.vocabulary.size + 3  # heads have spare rows

    def codes(
        self,
        takes: int = 1,
        count: int = 9,
        sampling: Sampling = GREEDY,
        scale: float = 2.5,
    ) -> Continuation:
        constraints = [AudioCodeConstraint(self.vocabulary, count) for _ in range(takes)]
        return self.continuation(constraints, sampling, scale, count + 1)

    def text(self, takes: int = 1, sampling: Sampling = GREEDY, **layout: object) -> Continuation:
        constraints = [
            MetadataGrammar(self.vocabulary, BlockLayout(**layout), free_text_tokens=5)  # pyright: ignore[reportArgumentType]
            for _ in range(takes)
        ]
        return self.continuation(constraints, sampling, 2.5, 60)

    def continuation(
        self,
        constraints: Sequence[TokenConstraint],
        sampling: Sampling,
        scale: float,
        max_tokens: int,
    ) -> Continuation:
        return Continuation(
            conditional=self.vocabulary.encode("A calm piano melody, with strings and drums."),
            unconditional=self.vocabulary.encode("drums"),
            constraints=constraints,
            seeds=range(len(constraints)),
            name="codes",
            sampling=sampling,
            scale=scale,
            max_tokens=max_tokens,
        )


@pytest.fixture(scope="session")
def setting(vocabulary: Vocabulary) -> Setting:
    return Setting(vocabulary)


def ignore(done: int, total: int) -> None:
    """Progress that nobody watches."""


@RUNNERS
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_takes_are_what_a_plain_loop_writes(
    setting: Setting, runner: type, sampling: Sampling, scale: float
) -> None:
    guidance = Guidance()
    engine = FakeVllm(guidance, runner, setting.vocab, strangers=1)
    written = write_sequences(setting.codes(3, 9, sampling, scale), engine, guidance, ignore)
    assert written == plain_loop(setting.codes(3, 9, sampling, scale), setting.vocab)
    assert [len(tokens) for tokens in written] == [10, 10, 10]
    assert len(engine.prompts) == 3 * (1 if scale == 1 else 2), "nothing was added twice"


@RUNNERS
def test_a_block_keeps_to_its_grammar_and_its_language_is_the_likeliest(
    setting: Setting, runner: type
) -> None:
    layout = {"given": Plan(bpm=96, vocal_language="en")}
    guidance = Guidance()
    engine = FakeVllm(guidance, runner, setting.vocab)
    written = write_sequences(setting.text(2, SAMPLED, **layout), engine, guidance, ignore)
    assert written == plain_loop(setting.text(2, SAMPLED, **layout), setting.vocab)
    text = setting.vocabulary.decode(written[0])
    assert text.startswith("<think>\nbpm: 96\ncaption:") and "\nlanguage: en\n" in text


def test_what_is_forced_at_the_start_is_part_of_the_prompt(setting: Setting) -> None:
    guidance = Guidance()
    continuation = setting.text(given=Plan(bpm=96))
    engine = FakeVllm(guidance, ProcessorV1, setting.vocab)
    write_sequences(continuation, engine, guidance, ignore)
    beginning = setting.vocabulary.encode("<think>\nbpm: 96\ncaption:")
    assert engine.prompts == [
        [*continuation.conditional, *beginning],
        [*continuation.unconditional, *beginning],
    ]


@RUNNERS
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), takes=st.integers(1, 3), scale=st.sampled_from([1.0, 2.5]))
def test_a_desync_of_a_takes_requests_does_not_change_it(
    setting: Setting, runner: type, seed: int, takes: int, scale: float
) -> None:
    guidance = Guidance()
    engine = FakeVllm(
        guidance, runner, setting.vocab, is_unruly=now_and_then(seed), seed=seed, strangers=1
    )
    written = write_sequences(setting.codes(takes, 9, SAMPLED, scale), engine, guidance, ignore)
    assert written == plain_loop(setting.codes(takes, 9, SAMPLED, scale), setting.vocab)
    assert set(engine.requests) == {"stranger 0"}


def now_and_then(seed: int) -> Callable[[], bool]:
    """Trouble in half of the steps, but never so long that it is given up."""
    chance, streak = random.Random(seed), 0

    def is_unruly() -> bool:
        nonlocal streak
        streak = streak + 1 if chance.random() < 0.5 and streak < MAX_DESYNCS else 0
        return streak > 0

    return is_unruly


def test_a_take_that_desyncs_in_the_middle_is_added_again_with_what_it_has(
    setting: Setting,
) -> None:
    guidance = Guidance()
    steps: Iterator[bool] = iter([False, False, False, True, *[False] * 20])
    engine = FakeVllm(guidance, ProcessorV1, setting.vocab, is_unruly=lambda: next(steps))
    continuation = setting.codes()
    (written,) = write_sequences(continuation, engine, guidance, ignore)
    assert engine.prompts[2:] == [
        [*continuation.conditional, *written[:3]],
        [*continuation.unconditional, *written[:3]],
    ]


def test_an_engine_that_always_desyncs_them_is_given_up(setting: Setting) -> None:
    guidance = Guidance()
    engine = FakeVllm(guidance, ProcessorV1, setting.vocab, is_unruly=lambda: True)
    with pytest.raises(UnsoundResult, match="--backend pt"):
        write_sequences(setting.codes(), engine, guidance, ignore)
    assert not engine.requests


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (Limits(sequences=5, tokens=4096, blocks=1000, block_tokens=16), 4),
        (Limits(sequences=16, tokens=4096, blocks=9, block_tokens=16), 6),
        (Limits(sequences=16, tokens=20, blocks=1000, block_tokens=16), 10),
    ],
    ids=["sequences", "blocks", "tokens"],
)
def test_takes_start_when_they_fit_whole(setting: Setting, limits: Limits, most: int) -> None:
    continuation = setting.codes(takes=7)
    assert (len(continuation.conditional), len(continuation.unconditional)) == (10, 2), (
        "three blocks with ten more"
    )
    guidance = Guidance()
    engine = FakeVllm(guidance, ProcessorV2, setting.vocab, limits)
    written = write_sequences(continuation, engine, guidance, ignore)
    assert written == plain_loop(setting.codes(takes=7), setting.vocab)
    assert engine.most == most and len(engine.prompts) == 14


def test_progress_counts_the_tokens_of_the_furthest_take(setting: Setting) -> None:
    guidance = Guidance()
    engine = FakeVllm(guidance, ProcessorV2, setting.vocab)
    seen: list[tuple[int, int]] = []
    write_sequences(setting.codes(2, 4), engine, guidance, lambda *event: seen.append(event))
    assert seen == [(1, 5), (2, 5), (3, 5), (5, 5)], "the forced end comes with the last code"


@dataclass
class SlowReader(FakeVllm):
    """Needs two steps for a prompt."""

    steps: int = 0

    def step(self) -> Mapping[str, Sequence[int]]:
        self.steps += 1
        return super().step() if self.steps > 1 else {}


def test_nothing_counts_as_written_while_the_prompt_is_read(setting: Setting) -> None:
    guidance = Guidance()
    engine = SlowReader(guidance, ProcessorV2, setting.vocab)
    seen: list[int] = []
    continuation = setting.text(given=Plan(bpm=90))
    assert continuation.constraints[0].forced(), "behind the prompt"
    (written,) = write_sequences(
        continuation, engine, guidance, lambda done, total: seen.append(done)
    )
    assert seen[0] == 0 and 0 not in seen[1:] and seen[-1] == len(written)


@RUNNERS
def test_cancelling_leaves_the_engine_empty_and_usable(setting: Setting, runner: type) -> None:
    guidance = Guidance()
    engine = FakeVllm(guidance, runner, setting.vocab)

    def cancel(done: int, total: int) -> None:
        if done == 3:
            raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        write_sequences(setting.codes(3), engine, guidance, cancel)
    assert not engine.requests
    again = write_sequences(setting.codes(3), engine, guidance, ignore)
    assert again == plain_loop(setting.codes(3), setting.vocab)


def test_logits_that_are_not_numbers_are_refused_and_the_next_task_goes_well(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    guidance = Guidance()
    engine = FakeVllm(guidance, ProcessorV1, setting.vocab)
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "network", lambda history, vocab: torch.full((vocab,), torch.nan))
        with pytest.raises(UnsoundResult, match="not a number"):
            write_sequences(setting.codes(), engine, guidance, ignore)
    assert not engine.requests
    assert write_sequences(setting.codes(), engine, guidance, ignore) == plain_loop(
        setting.codes(), setting.vocab
    )


def test_rows_of_others_and_rows_without_a_partner_are_left_alone(setting: Setting) -> None:
    guidance = Guidance()
    first, second = guidance.begin(setting.codes(takes=2))
    before = torch.randn(4, setting.vocab)
    logits = before.clone()
    rows = {(first.key, 0): 3, (first.key, 1): 1, (second.key, 0): 2, ("another", 0): 0}
    guidance.rewrite(logits, rows)
    assert logits[[0, 2]].equal(before[[0, 2]])
    assert logits[1].equal(logits[3])
    assert torch.isfinite(logits[1]).sum() == 1, "one token is possible"


def test_the_v1_processor_follows_the_batch(setting: Setting) -> None:
    guidance = Guidance()
    (take,) = guidance.begin(setting.codes())
    made = processor(ProcessorV1, object, guidance)(None, CPU, False)

    def update(removed: list, added: list, moved: list) -> list[int]:
        """The rows that are rewritten after it."""
        made.update_state(SimpleNamespace(removed=removed, added=added, moved=moved))
        logits = made.apply(torch.zeros(4, setting.vocab))
        return torch.isinf(logits).any(dim=-1).nonzero()[:, 0].tolist()

    mine = [SimpleNamespace(extra_args={SLOT: (take.key, branch)}) for branch in (0, 1)]
    other = SimpleNamespace(extra_args=None)
    assert update([], [(0, mine[0], None, []), (1, other, None, [])], []) == []
    assert update([], [(2, mine[1], None, [])], []) == [0, 2]
    assert update([], [], [(0, 1, Direction.SWAP)]) == [1, 2]
    assert update([], [], [(2, 3, Direction.UNIDIRECTIONAL)]) == [1, 3]
    assert update([0], [], [(3, 0, Direction.UNIDIRECTIONAL)]) == [0, 1]
    assert update([], [(1, other, None, [])], []) == [], "another request took the place"
    assert made.is_argmax_invariant() is False


def test_the_v2_processor_follows_slots_and_declines_what_is_not_ours(setting: Setting) -> None:
    guidance = Guidance()
    (take,) = guidance.begin(setting.codes())
    made = processor(ProcessorV2, object, guidance)(None, None)

    def rewritten(*slots: int) -> list[int]:
        context = SimpleNamespace(idx_mapping_np=np.array(slots))
        logits = made.apply(torch.zeros(len(slots), setting.vocab), context)
        return torch.isinf(logits).any(dim=-1).nonzero()[:, 0].tolist()

    mine = [SimpleNamespace(extra_args={SLOT: (take.key, branch)}) for branch in (0, 1)]
    assert made.add_request(5, mine[0]) and made.add_request(2, mine[1])
    assert not made.add_request(0, SimpleNamespace(extra_args=None))
    assert rewritten(0, 2, 5) == [1, 2]
    assert rewritten(5, 0, 2) == [0, 2]
    assert rewritten(5, 0) == []
    assert not made.add_request(2, SimpleNamespace(extra_args={}))
    assert rewritten(0, 2, 5) == [], "the slot is another's now"


def test_vllm_is_refused_with_what_would_help() -> None:
    gpu = torch.device("cuda", 1)
    assert unavailable(gpu, is_installed=True) is None
    assert "uv sync --extra vllm" in str(unavailable(gpu, is_installed=False))
    for device in ("cpu", "mps"):
        assert "NVIDIA GPU" in str(unavailable(torch.device(device), is_installed=True))


def test_asking_for_vllm_without_a_gpu_is_an_error_and_auto_says_why_it_chose_pytorch(
    tiny_models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_models / "acestep-5Hz-lm-nano"
    with pytest.raises(Unavailable, match="needs an NVIDIA GPU"):
        load_backend(folder, "vllm", device=CPU, dtype=torch.float32)
    with caplog.at_level("INFO", logger="acestep"):
        backend = load_backend(folder, "auto", device=CPU, dtype=torch.float32)
    assert isinstance(backend, PtBackend)
    assert "runs on PyTorch. vLLM needs an NVIDIA GPU" in caplog.text


def test_an_engine_that_does_not_start_is_unavailable_whatever_the_cause(
    tiny_models: Path,
) -> None:
    """Not installed, or installed and unable to compute in float64."""
    with pytest.raises(Unavailable, match=r"vLLM could not be started: .+"):
        VllmBackend.load(tiny_models / "acestep-5Hz-lm-nano", device="cpu", dtype=torch.float64)


def test_a_trial_reports_what_the_other_process_died_of(tmp_path: Path) -> None:
    assert run_trial(["-c", "pass"], 60) is None
    assert run_trial(["-c", "import os; os.abort()"], 60) == (
        "A trial of vLLM failed: exit status -6"
    )
    assert "not end within 0.5 s" in str(run_trial(["-c", "import time; time.sleep(60)"], 0.5))
    assert "tokenizer.json is missing" in str(trial(tmp_path / "none", CPU, torch.float32))
