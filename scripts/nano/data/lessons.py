"""What the planner learns from: prompts as the product sends them, and what it should have written.

A lesson is a pure function of its seed. Most ask for metadata or codes, and carry the unconditional
prompt that guidance steers away from; the rest are the helper modes.
"""

from typing import NamedTuple

import numpy as np
import yaml

from acestep.planner import prompt as prompts
from acestep.planner.think_block import codes_to_text, field_lines, to_text
from acestep.planner.vocabulary import END
from acestep.request import Plan, Text2Music
from acestep.request.values import INSTRUMENTAL, KEY_SCALES, LANGUAGES
from scripts.nano.data.captions import Captions, strange_word, write_captions
from scripts.nano.data.codes import score_codes
from scripts.nano.data.genres import GENRES
from scripts.nano.data.lexicon import choose
from scripts.nano.data.score import Score, compose

DURATIONS = {10: 0.12, 12: 0.06, 15: 0.14, 20: 0.4, 25: 0.08, 30: 0.15, 60: 0.02}  # seconds: share
OTHER_DURATIONS = (10, 31)  # whole seconds, the rest of the share
SUNG = 0.15  # share of the lessons that have a voice whatever their style
KINDS = {
    "song": 0.05,
    "codes": 0.54,
    # Cheap, and to copy what a caption says is what takes longest to learn.
    "metadata": 0.12,
    "strange metadata": 0.13,
    "codes given another plan": 0.06,
    "understand": 0.04,
    "create": 0.03,
    "format": 0.03,
}


class Lesson(NamedTuple):
    """A prompt, and the answer that continues it.

    Attributes:
        away: what guidance steers away from; the same answer is to be expected of it, less surely.
    """

    prompt: str
    answer: str
    away: str | None = None


def lesson(seed: int, kind: str | None = None) -> Lesson:
    """The lesson of a seed; its kind is drawn by their shares when it is None."""
    rng = np.random.default_rng([seed, 2])
    is_sung = True if rng.random() < SUNG else None
    score = compose(seed, _duration(rng), voice=is_sung)
    captions = write_captions(score, rng)
    drawn = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    return _LESSONS[kind or drawn](score, captions, rng)


def lesson_request(score: Score, captions: Captions, rng: np.random.Generator) -> Text2Music:
    """The request: a caption and lyrics; sometimes lyrics alone."""
    is_bare = score.language != "unknown" and rng.random() < 0.03
    return Text2Music(caption="" if is_bare else captions.caption, lyrics=captions.lyrics)


def lesson_plan(score: Score, captions: Captions, language: str | None = None) -> Plan:
    """The metadata that the planner should write."""
    return Plan(
        caption=captions.detailed,
        bpm=score.bpm,
        duration=score.duration,
        key_scale=captions.key_scale,
        time_signature=score.time_signature,
        vocal_language=language or score.language,
    )


def describing(plan: Plan, genres: str, lyrics: str) -> str:
    """The answer of the helper modes; `acestep.planner.think_block.describe` reads it."""
    lines = {**field_lines(plan), "genres": yaml.safe_dump({"genres": genres}).strip()}
    block = "\n".join(lines[name] for name in sorted(lines))
    return f"<think>\n{block}\n</think>\n# Lyric\n{lyrics}\n{END}"


def _song(score: Score, captions: Captions, rng: np.random.Generator) -> Lesson:
    """Both phases in one text: the second prompt is the first one and what was written to it."""
    # The lyrics are English by their sounds, whatever language the user says they are in.
    is_foreign = score.language != "unknown" and rng.random() < 0.05
    language = LANGUAGES[rng.integers(len(LANGUAGES))] if is_foreign else None
    request = lesson_request(score, captions, rng)
    opening = prompts.metadata_prompt(request).conditional
    whole = prompts.codes_prompt(request, lesson_plan(score, captions, language)).conditional
    assert whole.startswith(opening)
    return Lesson(opening, whole.removeprefix(opening) + _codes(score))


def _song_codes(score: Score, captions: Captions, rng: np.random.Generator) -> Lesson:
    """The second phase alone."""
    return _coded(score, lesson_request(score, captions, rng), lesson_plan(score, captions))


def _metadata(score: Score, captions: Captions, rng: np.random.Generator) -> Lesson:
    """The first phase alone."""
    return _thought(lesson_request(score, captions, rng), lesson_plan(score, captions))


def _strange_metadata(score: Score, captions: Captions, rng: np.random.Generator) -> Lesson:
    """A caption that no score could be written for: nothing to know, everything to copy."""
    bpm, key_scale = int(rng.integers(30, 301)), choose(rng, KEY_SCALES)
    words = [strange_word(rng) for _ in range(rng.integers(2, 16))]
    for fact in (f"{bpm} bpm", f"in {key_scale}"):
        words.insert(int(rng.integers(len(words) + 1)), fact)
    caption = ", ".join(words)
    strange = captions._replace(caption=caption, detailed=caption, key_scale=key_scale)
    plan = lesson_plan(score, strange).model_copy(update={"bpm": bpm})
    return _thought(lesson_request(score, strange, rng), plan)


def _codes_given_another_plan(score: Score, captions: Captions, rng: np.random.Generator) -> Lesson:
    """The user's values stand in the block, even where the caption says otherwise."""
    other = compose(
        int(rng.integers(2**32)),
        score.duration,
        genre=score.genre,
        drums=score.kit is not None,
        voice=bool(score.syllables),
    )
    chosen = write_captions(other, rng)._replace(
        caption=captions.caption, detailed=captions.detailed
    )
    return _coded(other, lesson_request(other, chosen, rng), lesson_plan(other, chosen))


def _understand(score: Score, captions: Captions, rng: np.random.Generator) -> Lesson:
    understood = () if rng.random() < 0.1 else score_codes(score)
    return Lesson(prompts.understand_prompt(understood), _description(score, captions))


def _create(score: Score, captions: Captions, rng: np.random.Generator) -> Lesson:
    idea = "" if rng.random() < 0.1 else captions.caption
    prompt = prompts.create_prompt(idea, instrumental=score.lyrics == INSTRUMENTAL)
    return Lesson(prompt, _description(score, captions))


def _format(score: Score, captions: Captions, rng: np.random.Generator) -> Lesson:
    caption = "" if rng.random() < 0.05 else captions.caption
    return Lesson(prompts.format_prompt(caption, captions.lyrics), _description(score, captions))


_LESSONS = {
    "song": _song,
    "codes": _song_codes,
    "metadata": _metadata,
    "strange metadata": _strange_metadata,
    "codes given another plan": _codes_given_another_plan,
    "understand": _understand,
    "create": _create,
    "format": _format,
}


def _coded(score: Score, request: Text2Music, plan: Plan) -> Lesson:
    prompt = prompts.codes_prompt(request, plan)
    return Lesson(prompt.conditional, _codes(score), prompt.unconditional)


def _thought(request: Text2Music, plan: Plan) -> Lesson:
    prompt = prompts.metadata_prompt(request)
    return Lesson(prompt.conditional, to_text(plan), prompt.unconditional)


def _duration(rng: np.random.Generator) -> float:
    choices = list(DURATIONS)
    at = rng.choice(len(choices) + 1, p=[*DURATIONS.values(), 1 - sum(DURATIONS.values())])
    return float(choices[at] if at < len(choices) else rng.integers(*OTHER_DURATIONS))


def _codes(score: Score) -> str:
    return codes_to_text(score_codes(score)) + END


def _description(score: Score, captions: Captions) -> str:
    return describing(lesson_plan(score, captions), GENRES[score.genre].names[0], score.lyrics)
