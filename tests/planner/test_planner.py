"""From a request to a plan, through the real engine on the tiny model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from acestep.errors import Cancelled, UnsoundResult
from acestep.planner.backends import Backend, Continuation, OnToken
from acestep.planner.backends.pt import PtBackend
from acestep.planner.planner import Planner
from acestep.planner.think_block import code_count
from acestep.planner.vocabulary import Vocabulary
from acestep.progress import CancelToken, Progress, Reporter
from acestep.request import Plan, Preset, Text2Music, parse_request
from acestep.request.values import INSTRUMENTAL

QUIET = Reporter()
PRESET = Preset(
    name="fake",
    steps=8,
    max_steps=20,
    shift=3.0,
    guidance_scale=1.0,
    is_turbo=True,
    duration=10.0,
    longest_plan=30.0,
    rewrite_caption=True,
    dcw="off",
)


@pytest.fixture(scope="module")
def planner(tiny_models: Path) -> Iterator[Planner]:
    """Stopped early: a model with random weights never ends a caption by itself."""
    backend = PtBackend.load(tiny_models / "acestep-5Hz-lm-nano")
    planner = Planner(backend, caption_tokens=24, lyrics_tokens=64)
    yield planner
    planner.close()


class Asked:
    """An engine that notes what it is asked, and has another one answer."""

    name = "asked"

    def __init__(self, backend: Backend) -> None:
        self.vocabulary = backend.vocabulary
        self.continuations: list[Continuation] = []
        self._backend = backend

    def generate(self, continuation: Continuation, on_token: OnToken) -> list[list[int]]:
        self.continuations.append(continuation)
        return self._backend.generate(continuation, on_token)

    def close(self) -> None:
        raise AssertionError("nobody asked for this")


@pytest.fixture
def asked(planner: Planner) -> Asked:
    return Asked(planner.backend)


def request(**fields: object) -> Text2Music:
    asked = parse_request({"caption": "lo-fi", "seed": 3, **fields})
    assert isinstance(asked, Text2Music)
    return asked


def test_a_plan_has_every_field_and_five_codes_per_second(planner: Planner) -> None:
    plan = planner.plan(request(), PRESET, QUIET)
    open_fields = plan.model_dump(exclude={"codes"})
    assert all(value not in (None, "") for value in open_fields.values()), open_fields
    assert plan.duration is not None and 10 <= plan.duration <= 30
    assert [len(row) for row in plan.codes] == [code_count(plan.duration)]
    assert max(plan.codes[0]) < planner.codebook_size == 512


def test_what_the_user_chose_comes_back_untouched(planner: Planner) -> None:
    chosen = {"bpm": 96, "key_scale": "E minor", "duration": 12.0, "vocal_language": "no"}
    plan = planner.plan(request(**chosen), PRESET, QUIET)
    assert {name: getattr(plan, name) for name in chosen} == chosen
    assert plan.time_signature in (2, 3, 4, 6) and plan.caption
    assert len(plan.codes[0]) == 60


def test_a_seed_gives_its_plan_again_and_another_seed_another(planner: Planner) -> None:
    first, again, other = (planner.plan(request(seed=seed), PRESET, QUIET) for seed in (3, 3, 4))
    assert first == again
    assert first.codes != other.codes and first.caption != other.caption


def test_takes_share_metadata_and_have_codes_of_their_own(planner: Planner) -> None:
    plan = planner.plan(request(duration=10, takes=3), PRESET, QUIET)
    alone = planner.plan(request(duration=10), PRESET, QUIET)
    assert len(set(plan.codes)) == 3
    assert plan.codes[0] == alone.codes[0] and plan.caption == alone.caption


def test_takes_written_one_after_the_other_are_the_same(planner: Planner, asked: Asked) -> None:
    song = request(takes=3, seed=5)
    together = planner.plan(song, PRESET, QUIET)
    seen: list[Progress] = []
    apart = Planner(asked, caption_tokens=24, lyrics_tokens=64, takes_at_once=2)
    assert apart.plan(song, PRESET, Reporter(seen.append)).codes == together.codes
    assert [len(each.constraints) for each in asked.continuations[-2:]] == [2, 1]
    told = [(step.done, step.total) for step in seen if step.total == seen[-1].total]
    assert told == sorted(told) and told[-1][0] == told[-1][1]


def test_temperature_guidance_and_a_negative_prompt_reach_the_codes(planner: Planner) -> None:
    given = {"duration": 10, "bpm": 96}
    plain = planner.plan(request(**given), PRESET, QUIET)
    for change in ({"lm_cfg_scale": 4.0}, {"lm_negative_prompt": "noise"}, {"lm_temperature": 2.0}):
        assert planner.plan(request(**{**given, **change}), PRESET, QUIET).codes != plain.codes, (
            change
        )


def test_only_the_codes_are_guided(asked: Asked) -> None:
    plan = Planner(asked, caption_tokens=24).plan(
        request(duration=10, lm_cfg_scale=4.0), PRESET, QUIET
    )
    assert [(continuation.name, continuation.scale) for continuation in asked.continuations] == [
        ("planner/metadata", 1.0),
        ("planner/codes", 4.0),
    ]
    other = request(duration=10, lm_cfg_scale=1.0, lm_negative_prompt="noise")
    unguided = Planner(asked, caption_tokens=24).plan(other, PRESET, QUIET)
    assert unguided.codes != plan.codes
    assert unguided.model_copy(update={"codes": plan.codes}) == plan


def test_the_language_is_the_same_however_surprising_the_rest(planner: Planner) -> None:
    fixed = {"bpm": 96, "duration": 10, "key_scale": "E minor", "rewrite_caption": False}
    plans = [
        planner.metadata(request(**fixed, lm_temperature=2.0, seed=seed), PRESET, QUIET)
        for seed in range(12)
    ]
    assert len({plan.vocal_language for plan in plans}) == 1
    assert len({plan.time_signature for plan in plans}) > 1


def test_without_a_caption_to_rewrite_none_is_written(planner: Planner) -> None:
    plan = planner.plan(request(duration=10, rewrite_caption=False), PRESET, QUIET)
    assert plan.caption == ""
    assert plan.bpm and plan.key_scale and plan.time_signature and plan.vocal_language


SHORT = PRESET.model_copy(update={"longest_plan": 11.0, "rewrite_caption": False})
WHOLE = {"bpm": 96, "duration": 10.0, "key_scale": "E minor", "time_signature": 3}


def test_with_all_metadata_given_the_codes_follow_the_four_values_alone(asked: Asked) -> None:
    song = request(**WHOLE, vocal_language="en", rewrite_caption=False)
    plan = Planner(asked).plan(song, PRESET, QUIET)
    assert plan == Plan(**WHOLE, codes=plan.codes) and len(plan.codes[0]) == 50
    assert Planner(asked).plan(request(**WHOLE), SHORT, QUIET).codes == plan.codes
    continuation, again = asked.continuations
    assert again.conditional == continuation.conditional
    block = "<think>\nbpm: 96\nduration: 10\nkeyscale: E minor\ntimesignature: 3\n</think>\n\n"
    assert asked.vocabulary.decode(continuation.conditional).endswith(f"assistant\n{block}")


@pytest.mark.parametrize("change", [{"rewrite_caption": True}, *({name: None} for name in WHOLE)])
def test_what_is_open_or_to_be_rewritten_is_asked_for(asked: Asked, change: dict) -> None:
    song = request(**{**WHOLE, **change})
    Planner(asked, caption_tokens=24).metadata(song, SHORT, QUIET)
    assert [continuation.name for continuation in asked.continuations] == ["planner/metadata"]


def test_planning_reports_its_tokens_and_can_be_cancelled(planner: Planner) -> None:
    token = CancelToken()
    seen: list[Progress] = []

    def cancel_soon(progress: Progress) -> None:
        seen.append(progress)
        if progress.done >= 5:
            token.cancel()

    with pytest.raises(Cancelled):
        planner.plan(request(), PRESET, Reporter(cancel_soon, token))
    assert {progress.stage for progress in seen} == {"planning"}
    assert seen[-1].done < 100


def test_the_helper_modes_describe_invent_and_rewrite(planner: Planner) -> None:
    understood = planner.understand([1, 2, 3] * 20, QUIET, seed=3)
    assert understood.plan.bpm and understood.plan.caption and understood.genres
    created = planner.create(request(lyrics="", vocal_language="ja"), QUIET)
    assert created.plan.vocal_language == "ja" and created.plan.key_scale
    rewritten = planner.format(request(bpm=96, lyrics="[Verse]\nla la"), QUIET)
    assert rewritten.plan.bpm == 96 and rewritten.lyrics
    assert created != planner.create(request(seed=4, lyrics=INSTRUMENTAL), QUIET)


class Looping:
    """An engine that writes one token for ever."""

    name = "looping"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def generate(self, continuation: Continuation, on_token: OnToken) -> list[list[int]]:
        return [
            [self.vocabulary.first_code] * continuation.max_tokens for _ in continuation.constraints
        ]

    def close(self) -> None:
        raise AssertionError("nobody asked for this")


def test_a_planner_that_repeats_itself_is_refused(planner: Planner) -> None:
    looping = Planner(Looping(planner.backend.vocabulary))
    with pytest.raises(UnsoundResult, match="the same 1 token over and over"):
        looping.plan(request(), PRESET, QUIET)
