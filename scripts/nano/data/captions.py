"""The many ways in which users ask for one song: other words, shorter, odd spelling, odd lyrics.

Everything said stays true of the score.
"""

import re
from typing import NamedTuple

import numpy as np

from acestep.request import Text2Music
from scripts.nano.data.genres import GENRES
from scripts.nano.data.lexicon import LYRIC_WORDS, choose
from scripts.nano.data.score import Score, describe

FLATS = {"C#": "Db", "Eb": "D#", "F#": "Gb", "Ab": "G#", "Bb": "A#"}
# Styles that no score is written in, beside the one that comes closest.
NEAR_STYLES = {
    "ambient": ("new age", "drone", "soundscape", "sleep music"),
    "chiptune": ("8bit", "arcade music", "retro game soundtrack"),
    "classical": ("orchestral", "piano sonata", "cinematic score", "string quartet"),
    "folk": ("country", "indie folk", "americana", "acoustic pop"),
    "funk": ("disco", "soul", "groove", "motown"),
    "hiphop": ("trap", "rap", "r&b", "hiphop"),
    "jazz": ("blues", "swing", "lounge jazz", "big band"),
    "lofi": ("study beats", "lofi", "lo-fi chill", "chill beats"),
    "rock": ("metal", "punk", "grunge", "pop rock"),
    "synthpop": ("pop", "electropop", "dance pop", "new wave"),
    "techno": ("house", "trance", "edm", "electronic dance music", "electronic"),
}
# Words that say nothing about a score: a model must carry them along, not stumble over them.
STRANGE_WORDS = (
    "epic tense heroic spooky tender sunny rainy midnight summer winter podcast intro lullaby love "
    "melancholic uplifting hopeful trailer vintage modern lush sparse crisp muddy tape vinyl wide "
    "stereo reverb delay catchy hook anthem ballad texture layers staccato legato crescendo theme "
    "marimba kalimba ukulele banjo cello saxophone clarinet accordion harmonica sitar theremin for "
    "studying background gaming workout coffee shop road trip song breakup celebration christmas "
    "happy sad angry bittersweet mysterious magical romantic soft loud beautiful simple clean of"
).split()


class Captions(NamedTuple):
    """One song in words.

    Attributes:
        caption: as a user might type it; true, but not complete.
        detailed: what a planner should make of the caption: all that it says, and more.
        lyrics: with the habits of users: tags or none, capitals, commas.
        key_scale: the score's, perhaps by its other name.
    """

    caption: str
    detailed: str
    lyrics: str
    key_scale: str


def write_captions(score: Score, rng: np.random.Generator) -> Captions:
    """One of the ways in which a score may be asked for."""
    key_scale = _respelled(score.key_scale, rng) if rng.random() < 0.25 else score.key_scale
    detailed = describe(score, rng).replace(score.key_scale, key_scale)
    if rng.random() < 0.2:
        detailed = _renamed(detailed, score.genre, rng)
    if rng.random() < 0.3:
        detailed = _with_strange_words(detailed, rng)
    caption = detailed if rng.random() < 0.5 else _shortened(detailed, rng)
    lyrics = score.lyrics if score.language == "unknown" else _habits(score.lyrics, rng)
    return Captions(_spelled(caption, score.bpm, rng), detailed, lyrics, key_scale)


def request_for(score: Score, rng: np.random.Generator) -> Text2Music:
    """A request for the score in which everything is known, as the DiT's prompts are made from.

    Bpm, key and time signature are left out now and then, each by itself: nobody fills them in
    when there is no planner.
    """
    captions = write_captions(score, rng)
    given = rng.random(3) < 0.85
    return Text2Music(
        caption=captions.caption if rng.random() < 0.5 else captions.detailed,
        lyrics=captions.lyrics,
        vocal_language=score.language,
        bpm=score.bpm if given[0] else None,
        key_scale=captions.key_scale if given[1] else None,
        time_signature=score.time_signature if given[2] else None,
        duration=score.duration,
    )


def _respelled(key_scale: str, rng: np.random.Generator) -> str:
    """The same key by its enharmonic name, or with the proper signs."""
    note, mode = key_scale.split(" ")
    if rng.random() < 0.7:
        note = FLATS.get(note, note)
    if rng.random() < 0.3:
        note = note.replace("#", "♯").replace("b", "♭")
    return f"{note} {mode}"


def _renamed(caption: str, genre: str, rng: np.random.Generator) -> str:
    """The style by a name that is only close to it."""
    for name in sorted(GENRES[genre].names, key=len, reverse=True):
        if name in caption:
            return caption.replace(name, choose(rng, NEAR_STYLES[genre]), 1)
    return caption


def _shortened(caption: str, rng: np.random.Generator) -> str:
    """Some of its parts, in their order."""
    parts = caption.split(", ")
    kept = [part for part in parts if rng.random() < 0.6]
    return ", ".join(kept or [choose(rng, parts)])


def _with_strange_words(caption: str, rng: np.random.Generator) -> str:
    """One to three words more, known ones and invented ones."""
    parts = caption.split(", ")
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(parts) + 1))
        parts.insert(at, strange_word(rng))
    return ", ".join(parts)


def strange_word(rng: np.random.Generator) -> str:
    """A word that says nothing about a score, or pieces of two that nobody knows."""
    if rng.random() < 0.7:
        return choose(rng, STRANGE_WORDS)
    first, second = choose(rng, LYRIC_WORDS), choose(rng, STRANGE_WORDS)
    return first[: rng.integers(1, len(first) + 1)] + second[rng.integers(len(second)) :]


def _spelled(caption: str, bpm: int, rng: np.random.Generator) -> str:
    """Bpm, capitals and the full stop as people write them."""
    if rng.random() < 0.3:
        ways = ("{} bpm", "{} BPM", "{}bpm", "{} beats per minute", "at {} bpm", "bpm {}")
        tempo = rf"\b(?:tempo {bpm}|{bpm} bpm)\b"
        caption = re.sub(tempo, choose(rng, ways).format(bpm), caption, flags=re.IGNORECASE)
    habit = rng.integers(6)
    if habit == 0:
        caption = caption.lower()
    elif habit == 1:
        caption = caption[:1].upper() + caption[1:] + "."
    elif habit == 2:
        caption = " ".join(caption.split(", "))
    elif habit == 3:
        caption = " and ".join(caption.rsplit(", ", 1))
    return caption


def _habits(lyrics: str, rng: np.random.Generator) -> str:
    """Other tags, capitals, commas and blank lines: the same syllables in the same lines."""
    lines = lyrics.split("\n")
    if rng.random() < 0.15:
        lines = [line for line in lines if not line.startswith("[")]
    if rng.random() < 0.2:
        lines = [re.sub(r"\[(\w+)\]", r"[\1 1]", line) for line in lines]
    if rng.random() < 0.5:
        lines = [line[:1].upper() + line[1:] for line in lines]
    if rng.random() < 0.3:
        end = choose(rng, (",", ".", "!"))
        lines = [line if line.startswith("[") else line + end for line in lines]
    text = "\n".join(lines)
    return text.replace("\n[", "\n\n[") if rng.random() < 0.4 else text
