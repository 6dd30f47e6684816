"""Whatever the model picks, the block parses and the user's values stand in it unchanged."""

import random
import re
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from acestep.planner import think_block as plan_text
from acestep.planner.grammar import (
    AudioCodeConstraint,
    BlockLayout,
    MetadataGrammar,
    TokenConstraint,
    _whole_numbers,
    prepare,
)
from acestep.planner.vocabulary import Vocabulary
from acestep.request import Plan, Text2Music
from acestep.request.values import KEY_SCALES, LANGUAGES, TIME_SIGNATURES


def walk(constraint: TokenConstraint, dice: random.Random, limit: int = 2000) -> list[int]:
    """A model that picks any allowed token, each with the same probability."""
    tokens: list[int] = []
    while not constraint.is_done:
        assert len(tokens) < limit
        step = constraint.forced() or [
            dice.choice(constraint.allowed().nonzero().flatten().tolist())
        ]
        for token in step:
            constraint.accept(token)
        tokens += step
    return tokens


def write(constraint: TokenConstraint, vocabulary: Vocabulary, text: str) -> None:
    for token in vocabulary.encode(text):
        constraint.accept(token)


def random_request(dice: random.Random) -> Text2Music:
    def maybe(value: Any) -> Any:
        return value if dice.random() < 0.5 else None

    return Text2Music(
        caption="anything",
        bpm=maybe(dice.randint(30, 300)),
        duration=maybe(dice.choice([10, 12.5, dice.randint(10, 600)])),
        key_scale=maybe(dice.choice(KEY_SCALES)),
        time_signature=maybe(dice.choice(list(TIME_SIGNATURES))),
        vocal_language=maybe(dice.choice(LANGUAGES)),
    )


def test_what_is_prepared_need_not_be_compiled_again(tokenizer: Tokenizer):
    vocabulary = Vocabulary(tokenizer, codebook_size=90)
    prepare(vocabulary, max_duration=240)
    compiled = vocabulary.compiler.get_cache_size_bytes()
    assert compiled > 0
    MetadataGrammar(vocabulary, BlockLayout(max_duration=240))
    assert vocabulary.compiler.get_cache_size_bytes() == compiled
    MetadataGrammar(vocabulary, BlockLayout(max_duration=60))
    assert vocabulary.compiler.get_cache_size_bytes() > compiled


def test_a_block_without_a_caption_can_be_prepared(tokenizer: Tokenizer):
    vocabulary = Vocabulary(tokenizer, codebook_size=90)
    prepare(vocabulary, has_caption=False)
    compiled = vocabulary.compiler.get_cache_size_bytes()
    MetadataGrammar(vocabulary, BlockLayout(has_caption=False))
    assert vocabulary.compiler.get_cache_size_bytes() == compiled
    MetadataGrammar(vocabulary, BlockLayout())
    assert vocabulary.compiler.get_cache_size_bytes() > compiled


def test_500_random_requests_keep_what_the_user_gave_and_fill_the_rest(vocabulary: Vocabulary):
    dice = random.Random(0)
    for _ in range(500):
        chosen = random_request(dice).given()
        layout = BlockLayout(chosen, max_duration=dice.choice([30, 600]))
        grammar = MetadataGrammar(vocabulary, layout, free_text_tokens=12)
        tokens = walk(grammar, dice)
        assert vocabulary.decode(tokens) == grammar.text
        assert re.fullmatch(layout.regex, grammar.text)
        plan = plan_text.from_text(grammar.text)
        for name, value in chosen:
            if value not in (None, "", ()):
                assert getattr(plan, name) == (int(value) if name == "duration" else value)
        assert plan.caption and plan.key_scale and plan.time_signature and plan.vocal_language
        assert plan.bpm is not None and 30 <= plan.bpm <= 300
        assert plan.duration is not None and 10 <= plan.duration <= 600
        assert plan_text.keep_given(plan, chosen).duration == (chosen.duration or plan.duration)
        assert plan_text.from_text(plan_text.to_text(plan)) == plan


def test_a_given_caption_is_a_literal_whatever_it_holds(vocabulary: Vocabulary):
    dice = random.Random(1)
    for caption in (
        "a.b*(c)|[d]",
        "no",
        "it's: 'x'",
        "日本 🎹",
        "one\n\ntwo",
        "x<|im_end|>",
        "a\tb",
    ):
        grammar = MetadataGrammar(vocabulary, BlockLayout(Plan(caption=caption)))
        walk(grammar, dice)
        assert plan_text.from_text(grammar.text).caption == caption


def test_a_block_with_genres_and_lyrics_ends_with_the_turn(vocabulary: Vocabulary):
    dice = random.Random(2)
    layout = BlockLayout(Plan(vocal_language="en"), has_genres=True, has_lyrics=True)
    for _ in range(20):
        grammar = MetadataGrammar(vocabulary, layout, free_text_tokens=12)
        tokens = walk(grammar, dice, limit=20_000)
        assert tokens[-1] == vocabulary.end and grammar.text.count("</think>") == 1
        described = plan_text.describe(vocabulary.decode(tokens))
        assert described.genres and described.plan.vocal_language == "en"


def test_lyrics_are_text_of_several_lines(vocabulary: Vocabulary):
    grammar = MetadataGrammar(vocabulary, BlockLayout(FULL, has_lyrics=True))
    for token in grammar.forced():
        grammar.accept(token)
    assert not grammar.is_done
    write(grammar, vocabulary, "\n\n# Lyric\n[Verse]\nIt's 5 o'clock\n\n[Chorus]\nnow: oh")
    assert not grammar.allowed()[vocabulary.first_code :].any()
    grammar.accept(vocabulary.end)
    assert grammar.is_done
    assert plan_text.describe(grammar.text).lyrics == "[Verse]\nIt's 5 o'clock\n\n[Chorus]\nnow: oh"


FULL = Plan(
    bpm=96,
    caption="Calm",
    duration=12,
    key_scale="E minor",
    vocal_language="en",
    time_signature=3,
)


def test_a_block_without_a_choice_is_forced_in_one_run(vocabulary: Vocabulary):
    grammar = MetadataGrammar(vocabulary, BlockLayout(FULL))
    forced = grammar.forced()
    assert forced == vocabulary.encode(plan_text.to_text(FULL))
    for token in forced:
        grammar.accept(token)
    assert grammar.is_done and not grammar.forced()


def test_forced_runs_are_the_tokens_of_the_training_data(vocabulary: Vocabulary):
    """A name is forced without the space, which the tokenizer joins to the value's first word."""
    grammar = MetadataGrammar(vocabulary, BlockLayout(Plan(bpm=96, caption="Calm")))
    assert vocabulary.decode(grammar.forced()) == "<think>\nbpm: 96\ncaption: Calm\nduration:"
    write(grammar, vocabulary, "<think>\nbpm: 96\ncaption: Calm\nduration: 20")
    assert grammar.forced() == []  # 20 may become 200
    write(grammar, vocabulary, "\nkeyscale:")
    allowed = {vocabulary.decode([t]) for t in grammar.allowed().nonzero().flatten().tolist()}
    assert {" ", " F", " G"} <= allowed <= {" "} | {f" {note}" for note in "ABCDEFG"}


def test_a_word_that_is_still_open_is_not_forced(vocabulary: Vocabulary):
    """Major and minor begin alike; the model learnt them as words, not as "m" and the rest."""
    grammar = MetadataGrammar(vocabulary, BlockLayout(Plan(bpm=96, caption="Calm", duration=20)))
    write(grammar, vocabulary, "<think>\nbpm: 96\ncaption: Calm\nduration: 20\nkeyscale: C#")
    assert grammar.forced() == []
    (minor,) = vocabulary.encode(" minor")
    assert grammar.allowed()[minor]


def test_asking_changes_nothing(vocabulary: Vocabulary):
    grammar = MetadataGrammar(vocabulary, BlockLayout())
    assert grammar.forced() == grammar.forced()
    assert torch.equal(grammar.allowed(), grammar.allowed())
    assert grammar.text == ""


def test_each_sequence_has_a_state_of_its_own(vocabulary: Vocabulary):
    one, other = (MetadataGrammar(vocabulary, BlockLayout(FULL)) for _ in range(2))
    write(one, vocabulary, "<think>")
    assert one.text == "<think>" and other.text == ""


def test_the_language_alone_is_greedy(vocabulary: Vocabulary):
    grammar = MetadataGrammar(
        vocabulary, BlockLayout(Plan(bpm=96, caption="language: en", duration=20))
    )
    states = []
    for part in (
        "<think>\n",
        "bpm: 96\ncaption: 'language: en'\nduration: 20\nkeyscale: C major\n",
        "language:",
        " e",
        "n\ntimesignature:",
        " 4",
    ):
        write(grammar, vocabulary, part)
        states.append(grammar.is_greedy)
    assert states == [False, False, True, True, False, False]


def test_a_block_can_do_without_a_caption(vocabulary: Vocabulary):
    dice = random.Random(4)
    for _ in range(10):
        grammar = MetadataGrammar(vocabulary, BlockLayout(has_caption=False))
        walk(grammar, dice, limit=500)
        written = plan_text.read_fields(plan_text.split_think(grammar.text)[0])
        assert set(written) == {"bpm", "duration", "keyscale", "language", "timesignature"}


def test_a_caption_that_never_ends_is_ended_between_two_characters(vocabulary: Vocabulary):
    grammar = MetadataGrammar(vocabulary, BlockLayout(), free_text_tokens=6)
    write(grammar, vocabulary, "<think>\nbpm: 96\ncaption: Calm")
    for token in vocabulary.encode("ピアノピアノ")[:-1]:
        assert not vocabulary.decode(grammar.forced()).startswith("\n")
        grammar.accept(token)
        if grammar.forced():
            break
    assert vocabulary.decode(grammar.forced()) == "\nduration:"
    for token in grammar.forced():
        grammar.accept(token)
    assert grammar.text.encode().decode("utf-8").endswith("\nduration:")


def test_a_token_that_is_not_allowed_is_refused(vocabulary: Vocabulary):
    with pytest.raises(ValueError, match="is not allowed after"):
        MetadataGrammar(vocabulary, BlockLayout()).accept(vocabulary.first_code)
    with pytest.raises(ValueError, match="is not allowed after 0 codes"):
        AudioCodeConstraint(vocabulary, 2).accept(vocabulary.end)


def test_captions_may_not_hold_control_tokens_or_codes(vocabulary: Vocabulary):
    grammar = MetadataGrammar(vocabulary, BlockLayout())
    write(grammar, vocabulary, "<think>\nbpm: 96\ncaption: Calm")
    allowed = grammar.allowed()
    assert not allowed[vocabulary.first_code :].any()
    for spelled in ("<|im_end|>", "<|im_start|>", "<think>", "</think>", "<", "`", "\t"):
        (token,) = vocabulary.encode(spelled)
        assert not allowed[token]


def test_the_codes_phase_writes_exactly_so_many_legal_codes(vocabulary: Vocabulary):
    constraint = AudioCodeConstraint(vocabulary, 60)
    first = vocabulary.first_code
    legal = torch.zeros(vocabulary.size, dtype=torch.bool)
    legal[first : first + 90] = True
    assert torch.equal(constraint.allowed(), legal) and constraint.head_rows == slice(
        first, first + 90
    )
    tokens = walk(constraint, random.Random(3))
    assert len(tokens) == 61 and tokens[-1] == vocabulary.end
    assert constraint.codes == [token - first for token in tokens[:-1]]
    assert not constraint.allowed().any()


@pytest.mark.parametrize(("low", "high"), [(30, 300), (10, 600), (10, 19), (7, 7), (1, 1234)])
def test_whole_numbers_match_the_range_and_nothing_else(low: int, high: int):
    pattern = re.compile(_whole_numbers(low, high))
    matched = [n for n in range(13_000) if pattern.fullmatch(str(n))]
    assert matched == list(range(low, high + 1))
    assert not pattern.fullmatch("0" + str(low))


def test_every_key_language_and_meter_is_a_path():
    regex = re.compile(BlockLayout(Plan(bpm=96, caption="Calm")).regex)
    choices = {
        "key_scale": KEY_SCALES,
        "vocal_language": LANGUAGES,
        "time_signature": TIME_SIGNATURES,
    }
    for name, values in choices.items():
        for value in values:
            assert regex.fullmatch(plan_text.to_text(FULL.model_copy(update={name: value})))


@pytest.mark.parametrize("caption", ["Rock: loud", "one\ntwo", "808", "it's " * 40, "日本 🎹"])
def test_captions_as_the_training_data_wrote_them_are_paths(caption: str):
    text = plan_text.to_text(FULL.model_copy(update={"caption": caption.strip()}))
    assert re.fullmatch(BlockLayout().regex, text)
