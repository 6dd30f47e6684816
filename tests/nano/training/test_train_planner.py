"""The planner's trainer: what counts as an answer, what is exported, and that it learns."""

from pathlib import Path

import pytest
import torch
from torch import nn

from acestep.models.qwen3 import Qwen3
from acestep.planner.backends.pt import PtBackend
from acestep.planner.sampling import guide
from acestep.planner.think_block import codes_from_text, codes_to_text, from_text
from acestep.planner.vocabulary import Vocabulary
from acestep.request import Text2Music
from scripts.nano.data import codes
from scripts.nano.data.lessons import lesson
from scripts.nano.networks import qwen3
from scripts.nano.training.train_planner import (
    GROUP,
    SCALE,
    VOICE,
    LessonBatch,
    LessonBatches,
    build_planner,
    collate,
    go_on,
    plain,
    planner_losses,
)
from scripts.nano.training.trainer import Training, train

NETWORK = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "rope_theta": 1000,
}


@pytest.fixture(scope="module")
def lessons(vocabulary: Vocabulary) -> LessonBatches:
    return LessonBatches(vocabulary, batch=2, longest=400)


@pytest.fixture
def model(vocabulary: Vocabulary) -> Qwen3:
    return build_planner(NETWORK, vocabulary, seed=1)


def test_only_the_planners_own_tokens_are_learnt(
    lessons: LessonBatches, vocabulary: Vocabulary
) -> None:
    given = [lesson(1, "song"), lesson(2, "codes")]
    batch = collate([lessons.encode(each) for each in given], longest=1000)
    (pair,) = batch.pairs.tolist()
    assert pair == [1, 2]
    prompts = [given[0].prompt, given[1].prompt, given[1].away]
    answers = [given[0].answer, given[1].answer, given[1].answer]
    for row, is_answer, prompt, answer in zip(
        batch.ids, batch.is_answer, prompts, answers, strict=True
    ):
        assert vocabulary.decode(row[is_answer].tolist()) == answer
        before = row[: int(is_answer.nonzero()[0])]
        assert vocabulary.decode(before.tolist()) == prompt


def test_guided_logits_are_those_the_product_samples_from(
    lessons: LessonBatches, model: Qwen3, vocabulary: Vocabulary
) -> None:
    batch = collate([lessons.encode(lesson(4, k)) for k in ("metadata", "song", "codes")], 1000)
    total, count = torch.zeros(()), 0
    for row, twin in batch.pairs.tolist():
        logits: list[torch.Tensor] = []
        for at in (row, twin):
            is_answer = batch.is_answer[at, 1:]
            states = model(batch.ids[at : at + 1, :-1])[0, is_answer]
            logits.append(states @ model.embed_tokens.weight.T)
        right = batch.ids[row, 1:][batch.is_answer[row, 1:]]
        chances = guide(*logits, scale=SCALE).log_softmax(dim=1)
        total = total - chances[torch.arange(len(right)), right].sum()
        count += len(right)
    found = planner_losses(model, batch, vocabulary.first_code, 1.0)["guided"]
    torch.testing.assert_close(found, total / count)
    assert pytest.approx(SCALE) == Text2Music(caption="x").lm_cfg_scale


def test_tempo_key_and_the_first_code_are_learnt_once_more(
    lessons: LessonBatches, vocabulary: Vocabulary
) -> None:
    given = lesson(1, "song")
    batch = collate([lessons.encode(given)], longest=1000)
    said = vocabulary.decode(batch.ids[batch.is_fact].tolist())
    plan = from_text(given.answer)
    first = codes_to_text(codes_from_text(given.answer)[:1])
    assert said == f" {plan.bpm} {plan.key_scale}{first}"


def test_beats_voice_and_drums_are_learnt_on_their_own_too(
    lessons: LessonBatches, model: Qwen3, vocabulary: Vocabulary
) -> None:
    batch = collate([lessons.encode(lesson(4, "codes"))], 1000)
    with torch.no_grad():
        found = planner_losses(model, batch, vocabulary.first_code, 1.0)
        logits = [
            (model(row[None, :-1])[0] @ model.embed_tokens.weight.T)[is_answer[1:]]
            for row, is_answer in zip(batch.ids, batch.is_answer, strict=True)
        ]
    right = batch.ids[0, 1:][batch.is_answer[0, 1:]] - vocabulary.first_code
    written = [codes.decode(code) for code in right[:-1].tolist()]  # then comes the end
    chances = guide(logits[0], logits[1], SCALE)[:-1, vocabulary.first_code :].softmax(dim=1)
    every = [codes.decode(code) for code in range(chances.shape[1])]
    voices = torch.tensor([fact.voice for fact in every])
    sung = [chances[i, voices == fact.voice].sum() for i, fact in enumerate(written)]
    torch.testing.assert_close(found["voice"], -VOICE * torch.stack(sung).log().mean())
    beats = torch.tensor([-1 if fact.beat is None else fact.beat for fact in every])
    fallen = [-1 if fact.beat is None else fact.beat for fact in written]
    falls = [chances[i, beats == beat].sum() for i, beat in enumerate(fallen)]
    torch.testing.assert_close(found["beat"], -torch.stack(falls).log().mean())
    drums = torch.tensor([fact.has_drums for fact in every])
    hit = chances[0, drums == written[0].has_drums].sum()
    torch.testing.assert_close(found["drums"], -hit.log())


def test_padding_changes_no_loss(
    lessons: LessonBatches, model: Qwen3, vocabulary: Vocabulary
) -> None:
    short = lessons.encode(lesson(1, "codes"))._replace(away=None)
    alone = collate([short], longest=1000)
    padded = collate([short, lessons.encode(lesson(4, "song"))], longest=1000)
    first = LessonBatch(padded.ids[:1], padded.is_answer[:1], padded.is_fact[:1], padded.pairs)
    assert first.ids.shape[1] > alone.ids.shape[1]
    expected = planner_losses(model, alone, vocabulary.first_code, 1.0)
    found = planner_losses(model, first, vocabulary.first_code, 1.0)
    torch.testing.assert_close(found["codes"], expected["codes"])


def test_a_step_has_the_same_lessons_whenever_it_is_asked_for(vocabulary: Vocabulary) -> None:
    one, other = (LessonBatches(vocabulary, batch=2, longest=300) for _ in range(2))
    one(0)
    assert torch.equal(one(17).ids, other(17).ids)
    assert not torch.equal(one(17).ids, one(18).ids)
    assert one(17).ids.shape[1] <= 300


def test_a_second_training_reads_other_lessons(vocabulary: Vocabulary) -> None:
    first, second = (
        LessonBatches(vocabulary, batch=2, longest=300, read=n) for n in (0, GROUP * 2)
    )
    read, next_read, other = (
        sorted(lessons(step).ids.sum().item() for step in range(at, at + GROUP))
        for lessons, at in ((first, 0), (first, GROUP), (second, 0))
    )
    assert other == next_read != read


def test_the_product_reads_what_is_exported(
    tmp_path: Path, lessons: LessonBatches, model: Qwen3, vocabulary: Vocabulary
) -> None:
    ids = torch.tensor([[5, vocabulary.first_code + 7, vocabulary.first_code + 3149]])
    copy = plain(model)
    torch.testing.assert_close(copy(ids), model(ids))
    qwen3.write(tmp_path, NETWORK, vocabulary.tokenizer, copy)
    backend = PtBackend.load(tmp_path)
    assert backend.vocabulary.codebook_size == 3150


def test_a_training_goes_on_from_what_was_exported(
    tmp_path: Path, model: Qwen3, vocabulary: Vocabulary
) -> None:
    qwen3.write(tmp_path, NETWORK, vocabulary.tokenizer, plain(model))
    other = build_planner(NETWORK, vocabulary, seed=2)
    go_on(other, tmp_path)
    ids = torch.tensor([[5, vocabulary.first_code + 7, vocabulary.first_code + 3149]])
    torch.testing.assert_close(other(ids), model(ids), rtol=0.05, atol=0.02)  # kept as bfloat16


def test_codes_that_share_facts_learn_together(model: Qwen3, vocabulary: Vocabulary) -> None:
    first = vocabulary.first_code
    before = plain(model).embed_tokens.weight.detach().clone()
    states = model(torch.tensor([[first]]))  # code 0: no beat, no drums, no voice, no chord
    states.sum().backward()
    with torch.no_grad():
        for parameter in model.embed_tokens.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    after = plain(model).embed_tokens.weight.detach()
    moved = (after - before).abs().sum(dim=1) > 0
    assert moved[first + 1]  # differs in one fact
    assert not moved[0]


def test_a_resumed_training_ends_with_the_same_weights_and_the_loss_falls(
    tmp_path: Path, lessons: LessonBatches, vocabulary: Vocabulary
) -> None:
    training = Training(
        minutes=100, learning_rate=0.02, steps=12, warmup_steps=2, save_seconds=0.0, log_seconds=0.0
    )

    def run(folder: Path, stop: int | None = None) -> Qwen3:
        model = build_planner(NETWORK, vocabulary, seed=1)

        def loss_of(step: int) -> dict[str, torch.Tensor]:
            if step == stop:
                raise KeyboardInterrupt
            return planner_losses(model, lessons(step), vocabulary.first_code, 0.5)

        if stop is None:
            train(model, loss_of, training, folder)
        else:
            with pytest.raises(KeyboardInterrupt):
                train(model, loss_of, training, folder)
        return model

    @torch.no_grad()
    def loss(model: Qwen3, name: str) -> float:
        batches = [lessons(step) for step in range(training.steps)]
        return sum(
            float(planner_losses(model, b, vocabulary.first_code, 0.5)[name]) for b in batches
        )

    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", stop=7)
    assert _same(whole, run(tmp_path / "cut"))
    fresh = build_planner(NETWORK, vocabulary, seed=1)
    for name in ("codes", "text"):
        assert loss(whole, name) < 0.9 * loss(fresh, name)


def _same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
