"""vLLM itself, in its CPU build, against the PyTorch engine: the same tokens.

Needs an environment with vLLM; the README says how to make one.
"""

import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from acestep.errors import Cancelled, CheckpointError
from acestep.planner.backends import Backend, Continuation
from acestep.planner.backends.pt import PtBackend
from acestep.planner.backends.vllm import TRIAL, USUAL_TOKENS, VllmBackend
from acestep.planner.backends.vllm_guidance import ProcessorV2, processor
from acestep.planner.grammar import AudioCodeConstraint, BlockLayout, MetadataGrammar
from acestep.planner.planner import Planner
from acestep.planner.sampling import Sampling
from acestep.progress import CancelToken, Progress, Reporter
from acestep.request import Plan, Preset, Text2Music
from scripts import make_tiny

pytestmark = pytest.mark.vllm

GREEDY = Sampling(temperature=0.0)
SAMPLED = Sampling(temperature=0.85, top_p=0.9)
NARROW = Sampling(temperature=1.0, top_k=20, top_p=1.0)


@dataclass
class Loaded:
    """The engine, and what looked for another computer while it was loaded."""

    backend: VllmBackend
    looked_up: list[Any] = field(default_factory=list)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny planner, with heads as large as vLLM's kernels for CPUs need them."""
    folder = tmp_path_factory.mktemp("planner")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(make_tiny.QWEN3, "head_dim", 32)
        make_tiny.write_planner(folder, make_tiny.train_tokenizer())
    return folder


@pytest.fixture(scope="session")
def loaded(folder: Path) -> Iterator[Loaded]:
    looked_up = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # Starting, vLLM walks over all of PyTorch, deprecated parts included.
        warnings.simplefilter("ignore")
        patch.setattr(socket, "getaddrinfo", lambda host, *_, **__: looked_up.append(host) or [])
        backend = VllmBackend.load(folder, device="cpu", dtype=torch.float32)
    yield Loaded(backend, looked_up)
    backend.close()


@pytest.fixture(scope="session")
def vllm(loaded: Loaded) -> VllmBackend:
    return loaded.backend


@pytest.fixture(scope="session")
def pt(folder: Path) -> PtBackend:
    return PtBackend.load(folder, dtype=torch.float32)


@pytest.fixture(scope="session")
def make_codes(pt: PtBackend) -> Callable[..., Continuation]:
    """A maker of continuations with codes to write; the prompts differ in length."""

    def make(
        takes: int = 1, count: int = 20, sampling: Sampling = GREEDY, scale: float = 2.0
    ) -> Continuation:
        encode = pt.vocabulary.encode
        return Continuation(
            conditional=encode("warm lo-fi beat with dusty drums and mellow electric piano"),
            unconditional=encode("NO USER INPUT"),
            constraints=[AudioCodeConstraint(pt.vocabulary, count) for _ in range(takes)],
            seeds=range(takes),
            name="planner/codes",
            sampling=sampling,
            scale=scale,
            max_tokens=count + 1,
        )

    return make


def ignore(done: int, total: int) -> None:
    """Progress that nobody watches."""


def test_starting_it_looks_for_no_other_computer(loaded: Loaded) -> None:
    assert set(loaded.looked_up) <= {"localhost", "127.0.0.1", None}


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, NARROW], ids=["greedy", "top-p", "top-k"])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 3.0])
def test_it_writes_the_codes_that_pytorch_writes(
    vllm: VllmBackend,
    pt: PtBackend,
    make_codes: Callable[..., Continuation],
    sampling: Sampling,
    scale: float,
) -> None:
    written, expected = (
        backend.generate(make_codes(3, 20, sampling, scale), ignore) for backend in (vllm, pt)
    )
    assert written == expected
    assert [len(tokens) for tokens in written] == [21, 21, 21]


def test_more_takes_than_fit_take_turns(
    vllm: VllmBackend, pt: PtBackend, make_codes: Callable[..., Continuation]
) -> None:
    written = vllm.generate(make_codes(11, 6, SAMPLED), ignore)
    assert written == pt.generate(make_codes(11, 6, SAMPLED), ignore)
    assert len({tuple(tokens) for tokens in written}) == 11


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_it_writes_the_block_that_pytorch_writes(
    vllm: VllmBackend, pt: PtBackend, scale: float
) -> None:
    def write(backend: Backend) -> str:
        grammar = MetadataGrammar(
            backend.vocabulary, BlockLayout(given=Plan(bpm=96)), free_text_tokens=8
        )
        continuation = Continuation(
            conditional=backend.vocabulary.encode("# Caption\nsynth-pop ballad\n"),
            unconditional=backend.vocabulary.encode("# Caption\n"),
            constraints=[grammar],
            seeds=[3],
            name="planner/metadata",
            sampling=SAMPLED,
            scale=scale,
            max_tokens=100,
        )
        (tokens,) = backend.generate(continuation, ignore)
        assert backend.vocabulary.decode(tokens) == grammar.text
        return grammar.text

    text = write(vllm)
    assert text == write(pt)
    assert text.startswith("<think>\nbpm: 96\n") and text.endswith("\n</think>")


def test_a_whole_plan_is_the_same(vllm: VllmBackend, pt: PtBackend) -> None:
    request = Text2Music(
        caption="lo-fi",
        lyrics="[Verse]\nhome",
        seed=3,
        duration=10,
        key_scale="E minor",
        takes=2,
    )
    preset = Preset(
        name="fake", steps=8, max_steps=20, shift=3.0, guidance_scale=1.0, is_turbo=True,
        duration=10.0, longest_plan=30.0, rewrite_caption=True, dcw="off",
    )  # fmt: skip
    plans = [Planner(b, caption_tokens=8).plan(request, preset, Reporter()) for b in (vllm, pt)]
    assert plans[0] == plans[1]
    assert plans[0].key_scale == "E minor" and [len(row) for row in plans[0].codes] == [50, 50]


def test_a_take_that_another_request_desyncs_is_the_same(
    vllm: VllmBackend, pt: PtBackend, make_codes: Callable[..., Continuation]
) -> None:
    """Strangers leave room for one half of the first pair and a piece of the other."""
    engine, continuation = vllm._engine, make_codes(2, 20, SAMPLED)
    room = engine.limits.tokens - len(continuation.conditional) - 2
    for stranger, tokens in enumerate((room // 3, room // 3, room - 2 * (room // 3))):
        engine.add(f"stranger {stranger}", ("nobody", 0), [5] * tokens, 1)
    added: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        add = engine.add
        patch.setattr(engine, "add", lambda name, *rest: (added.append(name), add(name, *rest)))
        written = vllm.generate(continuation, ignore)
    assert len(added) > 4, "the pair did not desync: this test is void"
    assert written == pt.generate(make_codes(2, 20, SAMPLED), ignore)


def test_cancelling_leaves_it_usable(
    vllm: VllmBackend, pt: PtBackend, make_codes: Callable[..., Continuation]
) -> None:
    token = CancelToken()
    events: list[Progress] = []

    def watch(progress: Progress) -> None:
        events.append(progress)
        if progress.done == 5:
            token.cancel()

    report = Reporter(watch, token)
    with pytest.raises(Cancelled):
        vllm.generate(make_codes(3), lambda done, total: report("planning", done, total))
    assert events[-1].done == 5
    assert vllm.generate(make_codes(3), ignore) == pt.generate(make_codes(3), ignore)


def test_the_processor_for_gpus_is_one_that_vllm_accepts(vllm: VllmBackend) -> None:
    from vllm.v1.worker.gpu.sample.logits_processor import (  # pyright: ignore[reportMissingImports]
        LogitsProcessor,
        build_custom_logits_processors_params_validator,
    )

    made = processor(ProcessorV2, LogitsProcessor, vllm._guidance)
    build_custom_logits_processors_params_validator([made])


@pytest.mark.filterwarnings("ignore")  # vLLM starts again
def test_a_task_longer_than_usual_gets_a_larger_engine(
    vllm: VllmBackend, pt: PtBackend, make_codes: Callable[..., Continuation]
) -> None:
    written, expected = (
        backend.generate(replace(make_codes(2), max_tokens=USUAL_TOKENS), ignore)
        for backend in (vllm, pt)
    )
    assert written == expected
    assert vllm._engine.max_tokens == 2 * USUAL_TOKENS


def test_damaged_weights_are_refused_before_vllm_sees_them(folder: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(folder, tmp_path / "planner")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut off"):
        VllmBackend.load(damaged, device="cpu", dtype=torch.float32)


def test_a_trial_succeeds_and_leaves_standard_output_to_the_program(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRIAL, str(folder), "cpu", "torch.float32"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
