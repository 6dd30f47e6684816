"""Train the nano planner: a language model of prompts, `<think>` blocks and 5 Hz codes.

    uv run python -m scripts.nano.training.train_planner configs/nano/planner.toml

It reads `lessons`, which need no sound, and is judged on songs it has not read. A code stands for
several facts at once, so its row of the embedding is the sum of one row per fact and one of its
own: what is learnt about a kick holds for every chord it can fall on. The sum is what is exported.

The product guides: it goes as far beyond the conditional logits as they are beyond unconditional
ones, which doubles the errors of both. So the guided logits are trained too.
"""

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from acestep.checkpoints.files import TOKENIZER_FILE
from acestep.models.load import load_qwen3
from acestep.models.qwen3 import Qwen3
from acestep.models.tokenizer import read_tokenizer
from acestep.planner.sampling import guide
from acestep.planner.vocabulary import Vocabulary
from acestep.types import TokenIds
from scripts.nano.data import codes
from scripts.nano.data.lessons import Lesson, lesson
from scripts.nano.data.songs import HELD_OUT, TRAINING
from scripts.nano.evaluation import judge_planner
from scripts.nano.networks import qwen3, tokenizer
from scripts.nano.training.trainer import Training, read_config, train

GROUP = 16  # batches that are sorted by length together, so that little is padding
FACTS = re.compile(r"^(?:bpm|keyscale):(.+)$|^(<\|audio_code_\d+\|>)", flags=re.MULTILINE)
SCALE = 2.0  # of guidance, the product's default
BEAT_LEVELS = 0  # the dimension of a code that says when the beat falls
DRUM_LEVELS, VOICE_LEVELS = 1, 2  # those that say whether there are any
VOICE = 3.0  # weight of the voice on its own
EMBEDDING_DEVIATION = 0.05  # of the embedding's first numbers


@dataclass(frozen=True)
class LessonBatch:
    """Lessons side by side, and below them those of their unconditional prompts.

    Attributes:
        is_answer: True where a token is the planner's to write.
        is_fact: True for what little decides much: the plan's tempo and key, and the first code,
            which says key, drums and voice to all that follow.
        pairs: rows of a lesson and of its answer to the unconditional prompt.
    """

    ids: TokenIds
    is_answer: Bool[Tensor, "batch token"]
    is_fact: Bool[Tensor, "batch token"]
    pairs: Int[Tensor, "pair 2"]


class Encoded(NamedTuple):
    """One lesson as tokens; `facts` are the places of what decides much."""

    prompt: list[int]
    answer: list[int]
    facts: list[int]
    away: list[int] | None = None


class SumOfFacts(nn.Module):
    """Gives each code's row of the embedding a share in the rows of the facts it stands for."""

    def __init__(self, first_code: int, width: int) -> None:
        super().__init__()
        levels = codes.LEVELS
        facts = torch.tensor([codes.digits(codes.decode(c)) for c in range(math.prod(levels))])
        # The chord takes two dimensions of the code and is one fact.
        answers = [facts[:, 0], facts[:, 1], facts[:, 2], facts[:, 3] * levels[4] + facts[:, 4]]
        sizes = [*levels[:3], levels[3] * levels[4]]
        parts = [F.one_hot(a, n).float() for a, n in zip(answers, sizes, strict=True)]
        self.first_code = first_code
        self.register_buffer("share", torch.cat(parts, dim=1), persistent=False)
        rows = EMBEDDING_DEVIATION * torch.randn(sum(sizes), width) / math.sqrt(len(sizes))
        self.rows = nn.Parameter(rows)

    share: Float[Tensor, "code fact"]

    def forward(self, weight: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        text, own = weight.tensor_split([self.first_code])
        return torch.cat([text, own + self.share @ self.rows])


class LessonBatches:
    """Endless batches of lessons of similar length."""

    def __init__(self, vocabulary: Vocabulary, batch: int, longest: int, read: int = 0) -> None:
        """
        Args:
            longest: tokens; lessons beyond it are cut, which only the longest songs are.
            read: how many were read in earlier trainings; these are others.
        """
        self.vocabulary, self.batch, self.longest, self.read = vocabulary, batch, longest, read
        self._group = lru_cache(maxsize=1)(self._make_group)

    def __call__(self, number: int) -> LessonBatch:
        """The batch of a step, the same whenever it is asked for."""
        return self._group(number // GROUP)[number % GROUP]

    def _make_group(self, group: int) -> list[LessonBatch]:
        count = GROUP * self.batch
        first = TRAINING + self.read + group * count
        encoded = [self.encode(lesson(seed)) for seed in range(first, first + count)]
        encoded.sort(key=lambda lesson: len(lesson.prompt) + len(lesson.answer))
        batches = [encoded[at : at + self.batch] for at in range(0, count, self.batch)]
        order = torch.randperm(GROUP, generator=torch.Generator().manual_seed(group))
        return [collate(batches[at], self.longest) for at in order]

    def encode(self, asked: Lesson) -> Encoded:
        """Prompt and answer as tokens; control tokens keep their border."""
        prompt = self.vocabulary.encode(asked.prompt)
        answer = self.vocabulary.tokenizer.encode(asked.answer, add_special_tokens=False)
        spans = [found.span(found.lastindex or 0) for found in FACTS.finditer(asked.answer)]
        facts = [
            len(prompt) + place
            for place, (start, end) in enumerate(answer.offsets)
            if any(first <= start and end <= last for first, last in spans)
        ]
        away = None if asked.away is None else self.vocabulary.encode(asked.away)
        return Encoded(prompt, answer.ids, facts, away)


def collate(encoded: Sequence[Encoded], longest: int) -> LessonBatch:
    """Lessons as one batch, padded on the right."""
    guided = [row for row, each in enumerate(encoded) if each.away is not None]
    unconditional = [Encoded(encoded[row].away or [], encoded[row].answer, []) for row in guided]
    rows = [*encoded, *unconditional]
    ids, is_real = qwen3.pad([[*each.prompt, *each.answer][:longest] for each in rows])
    starts = torch.tensor([len(each.prompt) for each in rows])
    is_fact = torch.zeros_like(is_real)
    for row, each in zip(is_fact, rows, strict=True):
        row[[place for place in each.facts if place < longest]] = True
    is_answer = is_real & (torch.arange(ids.shape[1]) >= starts[:, None])
    pairs = [(row, len(encoded) + place) for place, row in enumerate(guided)]
    return LessonBatch(
        ids, is_answer, is_fact, torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    )


def planner_losses(
    model: Qwen3, batch: LessonBatch, first_code: int, text_weight: float
) -> dict[str, Tensor]:
    """Cross-entropy of the answers: codes, text, the deciding ones once more, and what guidance
    makes of them."""
    with parametrize.cached():
        states = model(batch.ids[:, :-1])
        wanted = batch.is_answer[:, 1:]
        right = batch.ids[:, 1:][wanted]
        logits = F.linear(states[wanted], model.embed_tokens.weight)
    each = F.cross_entropy(logits, right, reduction="none")
    is_code = right >= first_code
    found = {
        "codes": _mean(each[is_code]),
        "text": text_weight * _mean(each[~is_code]),
        "facts": text_weight * _mean(each[batch.is_fact[:, 1:][wanted]]),
    }
    if len(batch.pairs):
        towards, away = _paired(wanted, batch.pairs)
        guided = guide(logits[towards], logits[away].detach(), SCALE)
        found["guided"] = F.cross_entropy(guided, right[towards])
        is_code, is_fact = is_code[towards], batch.is_fact[:, 1:][wanted][towards]
        chosen, codes_right = guided[is_code, first_code:], right[towards][is_code] - first_code
        if len(chosen):
            found["beat"] = F.cross_entropy(*_apart(chosen, codes_right, BEAT_LEVELS))
            found["voice"] = VOICE * F.cross_entropy(*_apart(chosen, codes_right, VOICE_LEVELS))
        if (is_first := is_fact[is_code]).any():
            backbeats, hit = _apart(chosen[is_first], codes_right[is_first], DRUM_LEVELS)
            drums = torch.stack([backbeats[:, 0], backbeats[:, 1:].logsumexp(dim=1)], dim=1)
            found["drums"] = F.cross_entropy(drums, hit.clamp(max=1))
    return found


def _apart(logits: Tensor, right: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """Logits of the levels of one dimension of a code, whatever else it says, and the right levels.

    To keep the time, to sing as many syllables as were written, or whether there are drums, is
    decided in few codes, and hard to learn from all that codes say.
    """
    before, levels = math.prod(codes.LEVELS[:dimension]), codes.LEVELS[dimension]
    apart = logits.unflatten(1, (-1, levels, before)).logsumexp(dim=(1, 3))
    return apart, right // before % levels


def _paired(wanted: Bool[Tensor, "batch token"], pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Which of all wanted tokens are the same ones of a lesson and of its unconditional twin."""
    places = (wanted.flatten().cumsum(dim=0) - 1).view_as(wanted)
    rows = [[places[row][wanted[row]] for row in pair] for pair in pairs.tolist()]
    # One of them may have been cut.
    same = [[row[: min(map(len, pair))] for row in pair] for pair in rows]
    towards, away = (torch.cat(side) for side in zip(*same, strict=True))
    return towards, away


def build_planner(network: dict, vocabulary: Vocabulary, seed: int) -> Qwen3:
    """A fresh planner whose code rows are sums of facts."""
    torch.manual_seed(seed)
    model = qwen3.build(network, vocabulary.size, seed, deviation=EMBEDDING_DEVIATION)
    facts = SumOfFacts(vocabulary.first_code, model.config.hidden_size)
    with torch.no_grad():
        model.embed_tokens.weight[vocabulary.first_code :] *= 0.2  # its own part starts small
    parametrize.register_parametrization(model.embed_tokens, "weight", facts)
    return model


@torch.no_grad()
def go_on(model: Qwen3, folder: Path) -> None:
    """Take over the weights of a folder; the facts' rows are those that explain its codes best."""
    weights = load_qwen3(folder, torch.float32).state_dict()
    rows = weights.pop("embed_tokens.weight")
    model.load_state_dict(weights, strict=False)
    facts: SumOfFacts = model.embed_tokens.parametrizations["weight"][0]  # pyright: ignore
    text, own = rows.tensor_split([facts.first_code])
    facts.rows.copy_(torch.linalg.pinv(facts.share) @ own)
    original = model.embed_tokens.parametrizations["weight"].original  # pyright: ignore
    original.copy_(torch.cat([text, own - facts.share @ facts.rows]))


def plain(model: Qwen3) -> Qwen3:
    """A copy with the sums written out: the network that the product knows."""
    weights = {n: w for n, w in model.state_dict().items() if not n.startswith("embed_tokens.")}
    copy = Qwen3(model.config)
    copy.load_state_dict({**weights, "embed_tokens.weight": model.embed_tokens.weight.detach()})
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the nano planner.")
    parser.add_argument("config", type=Path, help="such as configs/nano/planner.toml")
    parser.add_argument("--start", type=Path, help="a folder whose weights to begin with")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = read_config(arguments.config)
    start: Path | None = arguments.start
    if start is None:
        tokens = tokenizer.with_audio_codes(tokenizer.read_or_make(Path(config["tokenizer"])))
    else:
        tokens = read_tokenizer(start / TOKENIZER_FILE)
    vocabulary = Vocabulary(tokens)
    network, folder, weight = config["network"], Path(config["folder"]), config["text_weight"]
    model = build_planner(network, vocabulary, config["seed"])
    if start is not None:
        go_on(model, start)
    lessons = LessonBatches(vocabulary, config["batch"], config["longest"], config["read"])
    training: Training = config["training"]
    held_out = [
        collate([lessons.encode(lesson(HELD_OUT + i * 16 + j)) for j in range(16)], lessons.longest)
        for i in range(config["held_out"] // 16)
    ]

    def loss_of(model: nn.Module, batch: LessonBatch) -> dict[str, Tensor]:
        assert isinstance(model, Qwen3)
        return planner_losses(model, batch, vocabulary.first_code, weight)

    def validate(model: nn.Module) -> float:
        return float(torch.stack([loss_of(model, batch)["codes"] for batch in held_out]).mean())

    def export(model: nn.Module) -> None:
        assert isinstance(model, Qwen3)
        qwen3.write(folder, network, tokens, plain(model))

    train(
        model,
        lambda step: loss_of(model, lessons(step)),
        training,
        Path(config["progress"]),
        validate=validate,
        export=export,
    )
    print(judge_planner.judge(folder, config["judged"]).to_json(), flush=True)


def _mean(losses: Float[Tensor, " token"]) -> Float[Tensor, ""]:
    return losses.sum() / max(1, len(losses))


if __name__ == "__main__":
    main()
