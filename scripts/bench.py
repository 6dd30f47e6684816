"""Measure this project beside its peers on this computer, in one run.

    uv run python scripts/bench.py planner
    uv run python scripts/bench.py start
    uv run python scripts/bench.py memory

Every contender works with the same random weights at published sizes. Rounds are interleaved, so
what else the computer does hits all alike; numbers are medians, and ratios of them are what counts.
On a computer with other work, CPU time tells more than wall time, and one thread more than several.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, cast

import torch
from tokenizers import Tokenizer, models
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, Qwen3ForCausalLM
from transformers import Qwen3Config as ReferenceConfig

from acestep.models.config import Qwen3Config
from acestep.models.qwen3 import Qwen3
from acestep.planner.backends import Continuation
from acestep.planner.backends.decoder import PackedQwen3, fitting_dtype
from acestep.planner.backends.pt import PtBackend
from acestep.planner.grammar import AudioCodeConstraint
from acestep.planner.sampling import Sampling, guide, sample, uniform_draws
from acestep.planner.vocabulary import Vocabulary
from acestep.runtime.devices import device_name
from scripts.bench_memory import bench_memory
from scripts.bench_start import bench_start
from scripts.published import CODE_TOKENS, PLANNER_TOKENS, QWEN3, TEXT_TOKENS

# The published sizes, and one to try this script.
PLANNERS = {
    "toy": {
        "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128,
    },
    **QWEN3,
}  # fmt: skip
CONTROL_TOKENS = {
    151_644: "<|im_start|>", 151_645: "<|im_end|>", 151_667: "<think>", 151_668: "</think>"
}  # fmt: skip
PROMPT_TOKENS = 300
GUIDANCE = 2.0
SAMPLING = Sampling()


@dataclass(eq=False)
class Clock:
    """Wall and CPU seconds of every step of one contender."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    _last: tuple[float, float] | None = None

    def start(self) -> None:
        """A round begins: what comes before its first step is not measured."""
        self._last = None

    def tick(self) -> None:
        """A step has ended."""
        now = time.perf_counter(), time.process_time()
        if self._last is not None:
            self.wall.append(now[0] - self._last[0])
            self.cpu.append(now[1] - self._last[1])
        self._last = now

    def forget(self) -> None:
        self.wall.clear()
        self.cpu.clear()


class OnlyCodes(LogitsProcessor):
    """Rules all other tokens out, as the audio-code constraint does; ticks once per step."""

    def __init__(self, codes: slice, clock: Clock) -> None:
        self._codes, self._clock = codes, clock

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self._clock.tick()
        only_codes = torch.full_like(scores, -torch.inf)
        only_codes[:, self._codes] = scores[:, self._codes]
        return cast(torch.FloatTensor, only_codes)


@torch.inference_mode()
def bench_planner(size: str, dtype: torch.dtype, steps: int, rounds: int) -> None:
    """The audio codes of one song: guided, so a batch of two, and sampled."""
    print(f"5 Hz planner {size}, {dtype}, after a prompt of {PROMPT_TOKENS} tokens")
    model = random_planner(size, dtype)
    vocabulary = published_vocabulary()
    codes = AudioCodeConstraint(vocabulary, steps).head_rows
    backend = PtBackend(vocabulary, PackedQwen3(with_weights_of(model)))
    prompts = torch.randint(TEXT_TOKENS, (2, PROMPT_TOKENS))
    conditional, unconditional = prompts.tolist()
    ours, by_hand, generate = Clock(), Clock(), Clock()

    def write_ours() -> None:
        constraints = [AudioCodeConstraint(vocabulary, steps)]
        backend.generate(
            Continuation(
                conditional, unconditional, constraints, [7], "codes", SAMPLING, GUIDANCE, steps + 1
            ),
            lambda done, total: ours.tick() if 0 < done <= steps else None,
        )

    def write_by_hand() -> None:
        """A good loop around transformers: both branches in one batch, our sampler on the codes."""
        cache, ids = DynamicCache(config=model.config), prompts
        draws = uniform_draws([7], "codes", steps)
        for step in range(steps):
            logits = model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1, codes]
            picked = sample(guide(*logits.chunk(2), GUIDANCE), SAMPLING, draws[:, step])
            ids = (picked + codes.start).repeat(2)[:, None]
            by_hand.tick()

    def write_with_generate() -> None:
        model.generate(
            prompts[:1],
            attention_mask=torch.ones_like(prompts[:1]),
            negative_prompt_ids=prompts[1:],
            guidance_scale=GUIDANCE,
            logits_processor=LogitsProcessorList([OnlyCodes(codes, generate)]),
            do_sample=True,
            temperature=SAMPLING.temperature,
            top_k=SAMPLING.top_k,
            top_p=SAMPLING.top_p,
            max_new_tokens=steps,
        )

    interleave({ours: write_ours, by_hand: write_by_hand, generate: write_with_generate}, rounds)
    names = ("acestep", "transformers, batched by hand", "transformers generate")
    report(dict(zip(names, (ours, by_hand, generate), strict=True)))


def interleave(contenders: Mapping[Clock, Callable[[], None]], rounds: int) -> None:
    """Every contender once per round; the first round warms up and is not counted."""
    for round_number in range(rounds + 1):
        for clock, run in contenders.items():
            clock.start()
            run()
            if round_number == 0:
                clock.forget()


def report(clocks: Mapping[str, Clock]) -> None:
    """One row per contender; ratios are to the first, which is ours."""
    print(f"{device_name(torch.device('cpu'))}, torch {torch.__version__}")
    print(f"{'':32}{'ms wall':>10}{'ms CPU':>10}{'steps/s':>10}{'wall/ours':>11}{'CPU/ours':>10}")
    first = next(iter(clocks.values()))
    for name, clock in clocks.items():
        wall, cpu = median(clock.wall), median(clock.cpu)
        ratios = wall / median(first.wall), cpu / median(first.cpu)
        print(
            f"{name:32}{1e3 * wall:10.1f}{1e3 * cpu:10.1f}{1 / wall:10.2f}"
            f"{ratios[0]:11.2f}{ratios[1]:10.2f}"
        )


def random_planner(size: str, dtype: torch.dtype) -> Any:
    """transformers' network at a published size; its type does not pass its own annotations.

    The weights keep the states near one and give the guided logits about four bits, so that
    sampling has as much to do as with a trained model.
    """
    config = ReferenceConfig(
        vocab_size=PLANNER_TOKENS, tie_word_embeddings=True, dtype=dtype, **PLANNERS[size]
    )
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    torch.manual_seed(0)
    weights = {}
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            weights[name] = torch.ones(weight.shape, dtype=dtype)
        else:
            scale = (2.0 if "embed" in name else 1.0) * weight.shape[1] ** -0.5
            weights[name] = torch.randn(weight.shape).mul_(scale).to(dtype)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffer was on meta too
    return model.requires_grad_(False).eval()


def with_weights_of(model: Any) -> Qwen3:
    """Our network on the same memory."""
    config = Qwen3Config.from_dict(model.config.to_dict())
    with torch.device("meta"):
        network = Qwen3(config)
    network.load_state_dict(model.model.state_dict(), assign=True)
    return network.requires_grad_(False).eval()


def published_vocabulary() -> Vocabulary:
    """The published token ids with made-up words: speed does not depend on what they say."""
    ids = {CONTROL_TOKENS.get(token, f"word {token}"): token for token in range(TEXT_TOKENS)}
    ids |= {f"<|audio_code_{code}|>": TEXT_TOKENS + code for code in range(CODE_TOKENS)}
    return Vocabulary(Tokenizer(models.WordLevel(ids, unk_token="word 0")))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure this project beside its peers.")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1 is the steadiest)")
    benches = parser.add_subparsers(dest="bench", required=True)
    planner = benches.add_parser("planner", help="the 5 Hz language model's audio codes")
    planner.add_argument("--size", choices=PLANNERS, default="0.6B")
    planner.add_argument(
        "--dtype", choices=["bfloat16", "float32"], help="default: the faster one here"
    )
    planner.add_argument("--steps", type=int, default=16, help="codes per round")
    planner.add_argument("--rounds", type=int, default=5)
    start = benches.add_parser("start", help="loading, a cold song, the page (Linux)")
    start.add_argument("--rounds", type=int, default=3)
    memory = benches.add_parser("memory", help="loading and memory, by way of keeping the networks")
    memory.add_argument("--model", help="default: random weights of the 2B's published sizes")
    memory.add_argument("--device", default="auto")
    memory.add_argument("--seconds", type=float, default=10.0, help="of the song")
    memory.add_argument("--layers", type=int, default=24, help="of the random DiT")
    memory.add_argument("--planner", action="store_true", help="with the 5 Hz language model")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.bench == "planner":
        fitting = fitting_dtype(torch.device("cpu"))
        dtype = getattr(torch, arguments.dtype) if arguments.dtype else fitting
        bench_planner(arguments.size, dtype, arguments.steps, arguments.rounds)
    elif arguments.bench == "start":
        bench_start(arguments.rounds)
    else:
        bench_memory(
            arguments.model,
            device=arguments.device,
            seconds=arguments.seconds,
            layers=arguments.layers,
            has_planner=arguments.planner,
            threads=arguments.threads,
        )


if __name__ == "__main__":
    main()
