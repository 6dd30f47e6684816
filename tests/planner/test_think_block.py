"""The `<think>` block is PyYAML's, and a plan survives the way to text and back."""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from acestep.planner import think_block as plan_text
from acestep.request import Plan, Text2Music
from acestep.request.values import KEY_SCALES, LANGUAGES, TIME_SIGNATURES

words = st.sampled_from(
    "no yes on null ~ 808 007 1.5 it's \"big\" 'quoted' a:b drums: #1 # - [x] {y} & * ! | > % @ ` "
    "日本語 naïve 🎹 </think> <think> <|im_end|> duration: caption: \n \n\n \t \u2028".split(" ")
)
captions = st.one_of(
    st.text(max_size=300),
    st.lists(words, max_size=60).map(" ".join),
    st.lists(words, max_size=12).map("\n".join),
)
plans = st.builds(
    Plan,
    caption=captions,
    bpm=st.none() | st.integers(30, 300),
    duration=st.none() | st.integers(1, 600).map(float),
    key_scale=st.none() | st.sampled_from(KEY_SCALES),
    time_signature=st.none() | st.sampled_from(list(TIME_SIGNATURES)),
    vocal_language=st.none() | st.sampled_from(LANGUAGES),
)


def test_the_block_of_the_reference_song_is_exact():
    plan = Plan(
        bpm=73,
        caption="A calm piano melody",
        duration=273,
        key_scale="G major",
        vocal_language="en",
        time_signature=4,
    )
    assert plan_text.to_text(plan) == (
        "<think>\nbpm: 73\ncaption: A calm piano melody\nduration: 273\nkeyscale: G major\n"
        "language: en\ntimesignature: 4\n</think>"
    )


def test_an_empty_plan_is_the_empty_reasoning_of_qwen():
    assert plan_text.to_text(Plan()) == "<think>\n\n</think>"


@pytest.mark.parametrize(
    ("caption", "line"),
    [
        ("Rock: loud", "caption: 'Rock: loud'"),
        ("it's: 'x'", "caption: 'it''s: ''x'''"),
        ("drums #1", "caption: 'drums #1'"),
        ('"big" sound', "caption: '\"big\" sound'"),
        ("no", "caption: 'no'"),
        ("808", "caption: 808"),
        ("007", "caption: '007'"),
        ("ピアノ 🎹", "caption: ピアノ 🎹"),
        ("one\ntwo", "caption: 'one\n\n  two'"),
        ("a\tb", 'caption: "a\\tb"'),
    ],
)
def test_captions_are_quoted_as_yaml_does(caption: str, line: str):
    assert plan_text.field_lines(Plan(caption=caption)) == {"caption": line}


def test_norwegian_is_quoted_because_yaml_reads_no_as_false():
    assert plan_text.field_lines(Plan(vocal_language="no")) == {"language": "language: 'no'"}


def test_long_lines_break_at_the_first_space_past_column_80():
    caption = " ".join(["guitar"] * 30)
    first, *rest = plan_text.field_lines(Plan(caption=caption))["caption"].split("\n")
    assert len(first) > 80 >= len(first.rpartition(" ")[0])
    assert rest and all(line.startswith("  guitar") for line in rest)


@given(plans)
@settings(max_examples=250, deadline=None)
def test_a_plan_survives_the_way_to_text_and_back(plan: Plan):
    assert plan_text.from_text(plan_text.to_text(plan)) == plan


@given(plans)
@settings(max_examples=100, deadline=None)
def test_the_block_is_what_one_dump_of_all_fields_gives(plan: Plan):
    lines = plan_text.field_lines(plan)
    values = {name: yaml.safe_load(line)[name] for name, line in lines.items()}
    assert list(values) == sorted(values)
    block = "\n".join(lines.values())
    assert block == (yaml.dump(values, allow_unicode=True).strip() if values else "")


@given(plans.filter(lambda plan: plan.time_signature is not None), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_a_missing_or_cut_off_close_tag_changes_nothing(plan: Plan, missing: int):
    text = plan_text.to_text(plan)
    assert plan_text.from_text(text[: len(text) - missing]) == plan


def test_a_close_tag_on_the_last_line_is_not_part_of_the_value():
    plan = plan_text.from_text("<think>\nbpm: 90\ntimesignature: 3</think>")
    assert plan == Plan(bpm=90, time_signature=3)


def test_values_that_cannot_be_read_count_as_not_given():
    text = "bpm: 900\ncaption: Fine\nduration: N/A\nkeyscale: H major\nlanguage: xx\nmood: sad\n"
    assert plan_text.from_text(text) == Plan(caption="Fine")


def test_a_time_signature_may_be_written_as_a_fraction():
    assert plan_text.from_text("timesignature: 6/8").time_signature == 6


@pytest.mark.parametrize(
    ("raw", "caption"),
    [
        ("a: b #1", "a: b #1"),
        ("[loud] & fast", "[loud] & fast"),
        ("'never closed", "never closed"),
        ("'it's fine'", "it's fine"),
        ("one\n  two\n\n  three", "one two\nthree"),
    ],
)
def test_a_caption_with_the_quotes_forgotten_is_read_whole(raw: str, caption: str):
    text = f"caption: {raw}\nduration: 20\n"
    assert plan_text.from_text(text) == Plan(caption=caption, duration=20)


def test_a_description_has_genres_and_lyrics_without_their_heading():
    text = (
        "<think>\nbpm: 73\ncaption: Calm\ngenres: Chinese folk\n</think>\n\n"
        "# Lyric\n[Verse]\nHello\n<|im_end|>"
    )
    assert plan_text.describe(text) == plan_text.Description(
        Plan(bpm=73, caption="Calm"), "Chinese folk", "[Verse]\nHello"
    )


@given(st.lists(st.integers(0, 63_999), max_size=50))
def test_codes_survive_the_way_to_text_and_back(codes: list[int]):
    text = plan_text.codes_to_text(codes)
    assert plan_text.codes_from_text(text) == tuple(codes)
    assert re.fullmatch(r"(<\|audio_code_\d+\|>)*", text)


def test_codes_beyond_the_codebook_become_its_last():
    assert plan_text.codes_from_text("x<|audio_code_65534|> <|audio_code_3|>") == (63_999, 3)


@pytest.mark.parametrize(
    ("duration", "count"),
    [(10.0, 50), (12.0, 60), (12.5, 63), (8.2, 41), (32.6, 163), (600.0, 3000)],
)
def test_a_second_has_five_codes_and_a_begun_one_counts(duration: float, count: int):
    assert plan_text.code_count(duration) == count


def test_the_users_values_are_put_back_and_the_rest_is_the_planners():
    request = Text2Music(caption="mine", bpm=96, duration=12.5, vocal_language="unknown")
    chosen = request.given()
    written = Plan(caption="its own", bpm=120, duration=12, vocal_language="en", codes=((7,) * 62,))
    assert plan_text.keep_given(written, chosen) == Plan(
        caption="its own", bpm=96, duration=12.5, vocal_language="en", codes=((7,) * 62,)
    )
