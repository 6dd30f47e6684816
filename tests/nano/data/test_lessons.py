"""The planner learns from the very tokens that the product sends and accepts."""

import re
from collections.abc import Callable

import pytest

from acestep.checkpoints.catalogue import Catalogue
from acestep.planner.backends import Continuation, OnToken
from acestep.planner.grammar import AudioCodeConstraint
from acestep.planner.planner import Planner
from acestep.planner.think_block import codes_from_text, from_text
from acestep.planner.vocabulary import Vocabulary
from acestep.progress import Reporter
from acestep.request import Text2Music
from scripts.nano.data.lessons import KINDS, Lesson, lesson

SEEDS = range(500, 508)
PRESET = Catalogue.read().presets["nano-turbo"].model_copy(update={"longest_plan": 60.0})


class Reciter:
    """An engine that writes an answer it was given, token by token, if the grammar lets it."""

    name = "reciter"

    def __init__(self, vocabulary: Vocabulary, answer: str) -> None:
        self.vocabulary = vocabulary
        self.rest = vocabulary.encode(answer)
        self.continuations: list[Continuation] = []
        self.read: list[list[int]] = []  # what had been written when a continuation began

    def generate(self, continuation: Continuation, on_token: OnToken) -> list[list[int]]:
        self.continuations.append(continuation)
        (constraint,) = continuation.constraints
        while (
            isinstance(constraint, AudioCodeConstraint)
            and self.rest[0] < constraint.head_rows.start
        ):
            del self.rest[0]  # the blank line before the codes, which the product writes itself
        written: list[int] = []
        while not constraint.is_done:
            forced = constraint.forced()
            assert self.rest[: len(forced)] == forced
            token = self.rest.pop(0)
            assert constraint.allowed()[token]
            constraint.accept(token)
            written.append(token)
            on_token(len(written), continuation.max_tokens)
        return [written]

    def close(self) -> None:
        pass


def heard_in(prompt: str) -> Text2Music:
    """The request that a prompt was made from."""
    found = re.search(r"# Caption\n(.*)\n\n# Lyric\n((?:.|\n)*)\n<\|im_end\|>", prompt)
    assert found
    return Text2Music(caption=found[1], lyrics=found[2], rewrite_caption=True, seed=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_song_is_what_the_planner_sends_and_may_write(vocabulary: Vocabulary, seed: int) -> None:
    given = lesson(seed, "song")
    request = heard_in(given.prompt)
    language = from_text(given.answer).vocal_language
    reciter = Reciter(vocabulary, given.answer)
    plan = Planner(reciter).plan(request, PRESET, Reporter())

    first, second = reciter.continuations
    assert first.conditional == vocabulary.encode(given.prompt)
    block = vocabulary.encode(given.prompt + given.answer.split("<|audio_code", 1)[0])
    assert second.conditional == block
    assert plan.codes == (codes_from_text(given.answer),)
    assert plan.vocal_language == language
    assert reciter.rest == []
    whole = vocabulary.encode(given.prompt) + vocabulary.encode(given.answer)
    assert whole == vocabulary.encode(given.prompt + given.answer)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_steered_away_from_is_what_is_learnt_beside_the_lesson(
    vocabulary: Vocabulary, seed: int
) -> None:
    song, codes, metadata = (lesson(seed, kind) for kind in ("song", "codes", "metadata"))
    assert codes.away is not None and metadata.away is not None
    request = heard_in(song.prompt)
    reciter = Reciter(vocabulary, song.answer)
    Planner(reciter).plan(request, PRESET, Reporter())
    first, second = reciter.continuations
    assert first.conditional == vocabulary.encode(metadata.prompt)
    assert first.unconditional == vocabulary.encode(metadata.away)
    assert second.unconditional == vocabulary.encode(codes.away)
    assert codes_from_text(codes.answer) == codes_from_text(song.answer)
    assert metadata.answer.endswith("</think>")


@pytest.mark.parametrize("kind", ["metadata", "strange metadata"])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_caption_says_is_what_the_plan_says(
    vocabulary: Vocabulary, kind: str, seed: int
) -> None:
    given = lesson(seed, kind)
    request = heard_in(given.prompt)
    reciter = Reciter(vocabulary, given.answer)
    plan = Planner(reciter).metadata(request, PRESET, Reporter())
    assert reciter.continuations[0].conditional == vocabulary.encode(given.prompt)
    assert reciter.rest == []
    if found := re.search(r"(\d+) bpm", request.caption):
        assert plan.bpm == int(found[1])


def test_a_plan_the_user_chose_is_followed_by_its_own_codes(vocabulary: Vocabulary) -> None:
    given = lesson(3, "codes given another plan")
    plan = from_text(given.prompt.rpartition("assistant\n")[2])
    reciter = Reciter(vocabulary, given.answer)
    found = Planner(reciter).codes(heard_in(given.prompt), plan, Reporter())
    assert reciter.continuations[0].conditional == vocabulary.encode(given.prompt)
    assert found == (codes_from_text(given.answer),)


@pytest.mark.parametrize("kind", ["understand", "create", "format"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_helper_modes_may_write_their_answers(
    vocabulary: Vocabulary, kind: str, seed: int
) -> None:
    given = lesson(seed, kind)
    reciter = Reciter(vocabulary, given.answer)
    found = _HELPERS[kind](Planner(reciter), given)
    assert reciter.continuations[0].conditional == vocabulary.encode(given.prompt)
    assert found.plan == from_text(given.answer)
    assert found.genres and found.genres in given.answer
    assert found.lyrics in given.answer
    assert reciter.rest == []


def _understand(planner: Planner, given: Lesson):
    return planner.understand(codes_from_text(given.prompt), Reporter(), seed=1)


def _create(planner: Planner, given: Lesson):
    found = re.search(r"user\n(.*)\n\ninstrumental: (\w+)<", given.prompt)
    assert found
    lyrics = "" if found[2] == "true" else "la"
    caption = found[1].replace("NO USER INPUT", "")
    idea = Text2Music.model_construct(caption=caption, lyrics=lyrics or "[Instrumental]", seed=1)
    return planner.create(idea, Reporter())


def _format(planner: Planner, given: Lesson):
    found = re.search(r"# Caption\n(.*)\n\n# Lyric\n((?:.|\n)*)<\|im_end\|>\n", given.prompt)
    assert found
    caption = found[1].replace("NO USER INPUT", "")
    request = Text2Music.model_construct(caption=caption, lyrics=found[2], seed=1)
    return planner.format(request, Reporter())


_HELPERS: dict[str, Callable] = {"understand": _understand, "create": _create, "format": _format}


def test_every_kind_is_among_the_lessons() -> None:
    assert sum(KINDS.values()) == pytest.approx(1)
    assert lesson(7) == lesson(7)
    assert lesson(7) != lesson(8)
