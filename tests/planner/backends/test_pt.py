"""The PyTorch engine against a transformers loop without a cache, and against itself."""

import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import Qwen3Config as ReferenceConfig
from transformers import Qwen3ForCausalLM

from acestep.errors import Cancelled, CheckpointError, UnsoundResult
from acestep.models.load import load_qwen3
from acestep.planner.backends import Continuation
from acestep.planner.backends.decoder import PIECE, Dense, PackedQwen3, SequenceBatch, fitting_dtype
from acestep.planner.backends.pt import PtBackend, _CodeSteps
from acestep.planner.grammar import (
    AudioCodeConstraint,
    BlockLayout,
    MetadataGrammar,
    TokenConstraint,
)
from acestep.planner.sampling import Sampling, guide, sample, uniform_draws
from acestep.planner.vocabulary import Vocabulary
from acestep.request import Plan
from acestep.types import TokenIds

GREEDY = Sampling(temperature=0.0)
SHAPES = {  # hidden, MLP, layers, query heads, key heads: the proportions of the published models
    "0.6B": (32, 96, 3, 4, 2),
    "1.7B": (64, 192, 3, 4, 2),
    "4B": (80, 304, 4, 8, 2),
}
MakeFolder = Callable[[str], Path]
MakeContinuation = Callable[..., Continuation]


@pytest.fixture(scope="session")
def planner_folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """A maker of planner folders, written by transformers, with random weights."""
    made: dict[str, Path] = {}

    def make(shape: str) -> Path:
        if shape not in made:
            made[shape] = tmp_path_factory.mktemp("planner")
            write_planner(made[shape], tokenizer, shape)
        return made[shape]

    return make


def write_planner(folder: Path, tokenizer: Tokenizer, shape: str) -> None:
    hidden, intermediate, layers, queries, keys = SHAPES[shape]
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        ReferenceConfig(
            vocab_size=tokenizer.get_vocab_size() + 7,  # official heads have spare rows, too
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=queries,
            num_key_value_heads=keys,
            head_dim=16,
            tie_word_embeddings=True,
        )
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn_like(weight)
            scale = 0.5 if "embed" in name else 1.5 * weight.shape[-1] ** -0.5
            weight.copy_(1 + 0.3 * noise if weight.dim() == 1 else scale * noise)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def backend(planner_folder: MakeFolder) -> PtBackend:
    return PtBackend.load(planner_folder("0.6B"), dtype=torch.float32)


@pytest.fixture
def continuation(vocabulary: Vocabulary) -> MakeContinuation:
    """A maker of continuations, of codes unless told; prompts of different lengths."""

    def make(
        *constraints: TokenConstraint,
        codes: int = 24,
        takes: int = 1,
        seed: int = 5,
        sampling: Sampling = GREEDY,
        scale: float = 2.5,
        prompt: int = 21,
    ) -> Continuation:
        random = torch.Generator().manual_seed(1)
        conditional, unconditional = (
            torch.randint(vocabulary.first_code, (length,), generator=random).tolist()
            for length in (prompt, 9)
        )
        constraints = constraints or tuple(
            AudioCodeConstraint(vocabulary, codes) for _ in range(takes)
        )
        return Continuation(
            conditional,
            unconditional,
            constraints,
            seeds=range(seed, seed + len(constraints)),
            name="codes",
            sampling=sampling,
            scale=scale,
            max_tokens=250,
        )

    return make


@pytest.fixture
def grammar(vocabulary: Vocabulary) -> Callable[..., MetadataGrammar]:
    """A maker of constraints that write a short block."""
    return lambda **layout: MetadataGrammar(vocabulary, BlockLayout(**layout), free_text_tokens=6)


class Wrapped:
    """A constraint with something changed; no `AudioCodeConstraint`, so written token by token."""

    def __init__(
        self, constraint: TokenConstraint, *, is_greedy: bool = False, hides_forced: bool = False
    ) -> None:
        self._constraint = constraint
        self._is_greedy = is_greedy
        self._hides_forced = hides_forced
        self._hidden: list[int] = []

    @property
    def head_rows(self) -> slice:
        return self._constraint.head_rows

    @property
    def is_done(self) -> bool:
        return self._constraint.is_done

    @property
    def is_greedy(self) -> bool:
        return self._is_greedy or self._constraint.is_greedy

    def forced(self) -> list[int]:
        return [] if self._hides_forced else self._constraint.forced()

    def allowed(self) -> torch.Tensor:
        allowed = self._constraint.allowed()
        if self._hides_forced:
            self._hidden = self._hidden or self._constraint.forced()
        if self._hidden:
            allowed = torch.zeros_like(allowed)
            allowed[self._hidden.pop(0)] = True
        return allowed

    def accept(self, token: int) -> None:
        self._constraint.accept(token)


class Recorded(PackedQwen3):
    """A decoder that notes the shape of everything it reads."""

    shapes: list[tuple[int, ...]]

    def __call__(self, ids: TokenIds, cache):
        self.shapes.append(tuple(ids.shape))
        return super().__call__(ids, cache)


def recorded(folder: Path) -> tuple[PtBackend, list[tuple[int, ...]]]:
    decoder = Recorded(load_qwen3(folder, torch.float32))
    decoder.shapes = []
    return PtBackend(Vocabulary.read(folder), decoder), decoder.shapes


def ignore(done: int, total: int) -> None:
    """Progress that nobody looks at."""


@torch.no_grad()
def loop(model: Qwen3ForCausalLM, continuation: Continuation) -> list[int]:
    """One take by the book: whole sequences, each branch alone, the whole head, masked."""
    (constraint,) = continuation.constraints
    draws = uniform_draws(continuation.seeds, continuation.name, continuation.max_tokens)
    written: list[int] = []
    forced: list[int] = []

    def logits(prompt: Sequence[int]) -> torch.Tensor:
        return model(torch.tensor([[*prompt, *written]])).logits[:, -1]

    while not constraint.is_done:
        if forced := forced or constraint.forced():
            token = forced.pop(0)
        else:
            scores = logits(continuation.conditional)
            if continuation.scale != 1:
                scores = guide(scores, logits(continuation.unconditional), continuation.scale)
            allowed = torch.zeros(scores.shape, dtype=torch.bool)
            allowed[0, : len(constraint.allowed())] = constraint.allowed()
            column = draws[:, len(written)]
            sampling = GREEDY if constraint.is_greedy else continuation.sampling
            token = int(sample(scores, sampling, column, allowed))
        constraint.accept(token)
        written.append(token)
    return written


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(1.2, 30, 1.0)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_codes_equal_those_of_a_transformers_loop(
    shape: str, sampling: Sampling, planner_folder: MakeFolder, continuation: MakeContinuation
):
    folder = planner_folder(shape)
    expected = loop(
        Qwen3ForCausalLM.from_pretrained(folder).eval(), continuation(sampling=sampling)
    )
    backend = PtBackend.load(folder, dtype=torch.float32)
    assert backend.generate(continuation(sampling=sampling), ignore) == [expected]
    assert len(expected) == 25 and len(set(expected)) > 5
    unguided = backend.generate(continuation(sampling=sampling, scale=1), ignore)
    assert unguided != [expected]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling()], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_block_equals_that_of_a_transformers_loop(
    shape: str,
    sampling: Sampling,
    planner_folder: MakeFolder,
    continuation: MakeContinuation,
    grammar,
):
    folder = planner_folder(shape)
    model = Qwen3ForCausalLM.from_pretrained(folder).eval()
    given = Plan(bpm=96)
    expected = loop(model, continuation(grammar(given=given), sampling=sampling))
    constraint = grammar(given=given)
    backend = PtBackend.load(folder, dtype=torch.float32)
    assert backend.generate(continuation(constraint, sampling=sampling), ignore) == [expected]
    assert constraint.is_done and constraint.text.startswith("<think>\nbpm: 96\ncaption:")


def test_a_prompt_longer_than_one_piece_is_read_whole(
    backend: PtBackend, planner_folder: MakeFolder, continuation: MakeContinuation
):
    model = Qwen3ForCausalLM.from_pretrained(planner_folder("0.6B")).eval()
    expected = loop(model, continuation(codes=3, prompt=300))
    assert backend.generate(continuation(codes=3, prompt=300), ignore) == [expected]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_decoder_with_its_cache_equals_qwen3_without(shape: str, planner_folder: MakeFolder):
    network = load_qwen3(planner_folder(shape), torch.float32)
    ids = torch.randint(network.config.vocab_size, (4, 40))
    expected = network(ids)
    decoder = PackedQwen3(network)
    cache = decoder.reserve(4, 64)
    pieces = ids.split((25, 1, 1, 10, 1, 2), dim=1)
    states = torch.cat([decoder(piece, cache) for piece in pieces], dim=1)
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)


def test_the_decoder_in_bf16_is_as_close_to_fp32_as_qwen3_in_bf16(planner_folder: MakeFolder):
    folder = planner_folder("4B")
    exact = load_qwen3(folder, torch.float32)
    rounded = load_qwen3(folder, torch.bfloat16)
    ids = torch.randint(exact.config.vocab_size, (2, 40))
    wanted, plain = exact(ids), rounded(ids).float()
    decoder = PackedQwen3(rounded)
    cache = decoder.reserve(2, 64)
    states = torch.cat([decoder(piece, cache) for piece in ids.split((38, 1, 1), dim=1)], dim=1)
    assert states.dtype == torch.bfloat16
    error = (states.float() - wanted).norm() / wanted.norm()
    assert error < 1.2 * (plain - wanted).norm() / wanted.norm() < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 16, 300])
def test_a_packed_weight_multiplies_as_a_plain_one(dtype: torch.dtype, rows: int):
    weight, x = torch.randn(70, 48, dtype=dtype), torch.randn(rows, 1, 48, dtype=dtype)
    packed, plain = Dense(weight, pack=True)(x), Dense(weight, pack=False)(x)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7  # a bf16 step, relative
    torch.testing.assert_close(packed, plain, rtol=tolerance, atol=8 * tolerance)


def test_the_restricted_head_gives_those_rows_of_the_whole(planner_folder: MakeFolder):
    network = load_qwen3(planner_folder("0.6B"), torch.float32)
    states = torch.randn(3, network.config.hidden_size)
    whole = states @ network.embed_tokens.weight.T
    decoder = PackedQwen3(network)
    for pack in (False, True):
        logits = decoder.head(slice(100, 150), pack=pack)(states)
        torch.testing.assert_close(logits, whole[:, 100:150], rtol=1e-5, atol=1e-5)


def test_takes_in_a_batch_are_the_takes_alone(backend: PtBackend, continuation: MakeContinuation):
    options = {"codes": 60, "sampling": Sampling()}
    together = backend.generate(continuation(takes=5, **options), ignore)
    alone = [backend.generate(continuation(seed=5 + k, **options), ignore)[0] for k in range(5)]
    assert together == alone
    assert len({tuple(take) for take in together}) == 5


def test_blocks_in_a_batch_are_the_blocks_alone(
    backend: PtBackend, continuation: MakeContinuation, grammar
):
    layouts = [{}, {"given": Plan(duration=60)}, {"has_genres": True}, {}]
    sampling = Sampling(temperature=1.0)
    constraints = [grammar(**layout) for layout in layouts]
    together = backend.generate(continuation(*constraints, sampling=sampling), ignore)
    for take, layout in enumerate(layouts):
        alone = backend.generate(
            continuation(grammar(**layout), seed=5 + take, sampling=sampling), ignore
        )
        assert together[take] == alone[0]
    assert len({len(take) for take in together}) > 1
    assert all(constraint.is_done for constraint in constraints)


def test_takes_may_have_different_numbers_of_codes(
    backend: PtBackend, continuation: MakeContinuation, vocabulary: Vocabulary
):
    constraints = [AudioCodeConstraint(vocabulary, count) for count in (7, 20, 0)]
    seven, twenty, none = backend.generate(continuation(*constraints), ignore)
    assert (len(seven), len(twenty), none) == (8, 21, [vocabulary.end])
    assert seven[:7] == twenty[:7] and seven[7] == vocabulary.end
    assert [len(constraint.codes) for constraint in constraints] == [7, 20, 0]


def test_codes_written_on_the_device_are_those_written_token_by_token(
    backend: PtBackend, continuation: MakeContinuation, vocabulary: Vocabulary
):
    options = {"sampling": Sampling(), "seed": 8}
    fast = backend.generate(continuation(codes=50, takes=2, **options), ignore)
    constraints = [Wrapped(AudioCodeConstraint(vocabulary, 50)) for _ in range(2)]
    assert backend.generate(continuation(*constraints, **options), ignore) == fast


def test_forced_runs_read_in_one_step_change_nothing(
    planner_folder: MakeFolder, continuation: MakeContinuation, grammar
):
    backend, shapes = recorded(planner_folder("0.6B"))
    in_runs = backend.generate(continuation(grammar(), sampling=Sampling()), ignore)
    steps = len(shapes)
    one_by_one = Wrapped(grammar(), hides_forced=True)
    assert backend.generate(continuation(one_by_one, sampling=Sampling()), ignore) == in_runs
    assert steps < len(shapes) - steps == len(in_runs[0])  # the prompt, all tokens but the last


def test_a_greedy_constraint_is_greedy_beside_one_that_is_not(
    backend: PtBackend, continuation: MakeContinuation, vocabulary: Vocabulary
):
    def written(sampling: Sampling, *are_greedy: bool) -> list[list[int]]:
        constraints = [
            Wrapped(AudioCodeConstraint(vocabulary, 20), is_greedy=is_it) for is_it in are_greedy
        ]
        return backend.generate(continuation(*constraints, sampling=sampling), ignore)

    hot = Sampling(2.0, top_p=1.0)
    likeliest, drawn = written(GREEDY, False)[0], written(hot, False, False)[1]
    assert written(hot, True, False) == [likeliest, drawn]
    assert likeliest != written(hot, False)[0]


def test_prompts_are_read_once_for_all_takes(
    planner_folder: MakeFolder, continuation: MakeContinuation
):
    backend, shapes = recorded(planner_folder("0.6B"))
    backend.generate(continuation(codes=4, takes=3), ignore)
    assert shapes == [(2, 21), (6, 1), (6, 1), (6, 1)]


def test_without_guidance_there_are_no_unconditional_sequences(
    planner_folder: MakeFolder, continuation: MakeContinuation
):
    backend, shapes = recorded(planner_folder("0.6B"))
    backend.generate(replace(continuation(codes=3, takes=2, scale=1), unconditional=()), ignore)
    assert shapes == [(1, 21), (2, 1), (2, 1)]


def test_the_same_task_gives_the_same_tokens_and_another_seed_others(
    backend: PtBackend, continuation: MakeContinuation
):
    first, again, other = (
        backend.generate(continuation(codes=40, sampling=Sampling(), seed=seed), ignore)
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_more_codes_than_there_is_room_for_are_refused(
    backend: PtBackend, continuation: MakeContinuation
):
    with pytest.raises(ValueError, match="251 codes were asked for, but room for 250 tokens"):
        backend.generate(continuation(codes=251), ignore)


def test_text_without_an_end_stops_at_the_limit(
    backend: PtBackend, continuation: MakeContinuation, grammar
):
    constraint = grammar(has_lyrics=True)
    (written,) = backend.generate(replace(continuation(constraint), max_tokens=130), ignore)
    assert len(written) == 130 and not constraint.is_done


def test_progress_is_told_often_and_ends_with_the_last_token(
    backend: PtBackend, continuation: MakeContinuation, grammar
):
    for constraint in ((), (grammar(),)):
        told: list[tuple[int, int]] = []
        (written,) = backend.generate(
            continuation(*constraint, codes=50),
            lambda done, total, told=told: told.append((done, total)),
        )
        done = [count for count, _ in told]
        assert done[0] == 0 and done[-1] == len(written) and done == sorted(done)
        assert max(later - before for before, later in pairwise(done)) <= 16
        assert {total for _, total in told} == {250}


def test_nothing_counts_as_written_before_the_first_pick(
    backend: PtBackend, continuation: MakeContinuation, grammar
):
    """Forced tokens behind the prompt are read as it is, which may take minutes on a CPU."""
    given = Plan(bpm=90, caption="rain on the window, " * 30)
    forced = len(grammar(given=given).forced())
    assert PIECE < forced < 2 * PIECE
    told: list[int] = []
    reading = replace(continuation(grammar(given=given), prompt=2 * PIECE + 1), max_tokens=600)
    (written,) = backend.generate(reading, lambda done, _: told.append(done))
    assert told[:5] == [0] * 5, "three pieces of the prompt, two of what is forced"
    assert told[5] > forced and told[-1] == len(written)


@pytest.mark.parametrize("last", [0, 1, 30])
def test_raising_from_the_progress_call_stops_at_once(
    backend: PtBackend, continuation: MakeContinuation, vocabulary: Vocabulary, last: int
):
    def cancel(done: int, total: int) -> None:
        if done >= last:
            raise Cancelled(f"at {done}")

    expected = backend.generate(continuation(codes=60), ignore)
    for constraint in ((), (Wrapped(AudioCodeConstraint(vocabulary, 60)),)):
        with pytest.raises(Cancelled, match=f"at {last}"):
            backend.generate(continuation(*constraint, codes=60), cancel)
    assert backend.generate(continuation(codes=60), ignore) == expected


@pytest.mark.parametrize("is_codes", [True, False])
def test_weights_that_give_no_number_are_an_unsound_result(
    is_codes: bool, planner_folder: MakeFolder, continuation: MakeContinuation, grammar
):
    network = load_qwen3(planner_folder("0.6B"), torch.float32)
    network.norm.weight[3] = float("nan")
    backend = PtBackend(Vocabulary.read(planner_folder("0.6B")), PackedQwen3(network))
    told: list[int] = []
    with pytest.raises(UnsoundResult, match="no token can be picked"):
        backend.generate(
            continuation(codes=200) if is_codes else continuation(grammar()),
            lambda done, _: told.append(done),
        )
    assert max(told) < 20


def test_closing_gives_the_weights_back(backend: PtBackend):
    decoder = weakref.ref(backend._decoder)
    backend.close()
    assert decoder() is None


def test_loading_takes_the_precision_that_is_asked_for(planner_folder: MakeFolder):
    folder = planner_folder("0.6B")
    assert PtBackend.load(folder, dtype=torch.bfloat16)._decoder.dtype == torch.bfloat16
    assert PtBackend.load(folder)._decoder.dtype == fitting_dtype(torch.device("cpu"))


def test_a_planner_in_bf16_writes_a_whole_song(
    planner_folder: MakeFolder, continuation: MakeContinuation, vocabulary: Vocabulary
):
    backend = PtBackend.load(planner_folder("4B"), dtype=torch.bfloat16)
    takes = backend.generate(continuation(codes=30, takes=2, sampling=Sampling()), ignore)
    assert [len(take) for take in takes] == [31, 31]
    assert (
        backend.generate(continuation(codes=30, seed=6, sampling=Sampling()), ignore)[0] == takes[1]
    )


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("tie_word_embeddings", False, "a planner's head is its embedding"),
        ("vocab_size", 300, "They are not of the same model"),
    ],
)
def test_a_folder_of_another_network_is_refused(
    key: str, value: object, reason: str, planner_folder: MakeFolder, tmp_path: Path
):
    folder = planner_folder("0.6B")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(CheckpointError, match=reason):
        PtBackend.load(tmp_path)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(1.2, 30, 1.0)], ids=str)
def test_a_step_of_codes_never_looks_at_the_device(
    sampling: Sampling,
    planner_folder: MakeFolder,
    continuation: MakeContinuation,
    vocabulary: Vocabulary,
):
    """Tensors on "meta" have no values: whatever asked for one would raise. So a GPU can run
    ahead, and a graph can hold the step."""
    network = load_qwen3(planner_folder("0.6B"), torch.float32).to("meta")
    decoder = PackedQwen3(network)
    sequences = SequenceBatch(decoder, count=4, capacity=50)
    head = decoder.head(AudioCodeConstraint(vocabulary, 8).head_rows, pack=True)
    steps = _CodeSteps(continuation(takes=2, sampling=sampling), sequences, head, count=8)
    fixed = [id(tensor) for tensor in (sequences.states, steps.written, steps.logits)]
    steps.pick()
    steps.step(extent=22)
    steps.step(extent=23)
    assert fixed == [id(tensor) for tensor in (sequences.states, steps.written, steps.logits)]
    assert sequences.cache.extent == 23


@pytest.mark.gpu
@pytest.mark.parametrize("takes", [1, 4])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling()], ids=str)
def test_steps_replayed_by_the_gpu_are_those_it_is_told_one_by_one(
    takes: int,
    sampling: Sampling,
    planner_folder: MakeFolder,
    continuation: MakeContinuation,
    vocabulary: Vocabulary,
):
    backend = PtBackend.load(planner_folder("4B"), device="cuda", dtype=torch.float32)
    count = 600  # three graphs: attention reaches 256, 512 and then 768 tokens far

    def written(*constraints: TokenConstraint) -> list[list[int]]:
        wanted = continuation(*constraints, codes=count, takes=takes, sampling=sampling)
        return backend.generate(replace(wanted, max_tokens=count + 1), ignore)

    told = written(*(Wrapped(AudioCodeConstraint(vocabulary, count)) for _ in range(takes)))
    assert written() == told
    assert written() == told
