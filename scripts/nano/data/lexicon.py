"""The words of the synthetic songs: lyrics with countable syllables, captions of many forms."""

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

INSTRUMENT_WORDS = {
    "sub": ("sub bass", "deep bass"),
    "chipbass": ("triangle bass", "8-bit bass"),
    "strings": ("strings", "string section", "violins"),
    "upright": ("upright bass", "double bass"),
    "ebass": ("electric bass", "bass guitar"),
    "synthbass": ("synth bass", "rolling bass"),
    "pad": ("synth pad", "warm pads", "ambient pads"),
    "square": ("square wave synth", "pulse lead"),
    "piano": ("piano", "grand piano"),
    "guitar": ("acoustic guitar", "nylon guitar"),
    "epiano": ("electric piano", "rhodes"),
    "distortion": ("distorted electric guitar", "distorted guitars", "power chords"),
    "saw": ("synth lead", "saw synth", "analog synths"),
    "harp": ("harp", "plucked harp"),
    "flute": ("flute", "wooden flute"),
    "brass": ("brass", "horn section", "trumpet"),
    "vibes": ("vibraphone", "vibes"),
    "organ": ("organ", "hammond organ"),
    "pluck": ("synth pluck", "plucks"),
    "voice_high": ("female vocals", "female voice", "airy female vocal"),
    "voice_low": ("male vocals", "male voice", "warm male vocal"),
}
DRUM_WORDS = {
    "808": ("drum machine", "electronic drums", "808 drums"),
    "909": ("four-on-the-floor kick", "909 drums", "pounding drums"),
    "rock": ("drums", "punchy drums", "drum kit"),
    "jazz": ("brushed drums", "soft drums", "light percussion"),
    "lofi": ("dusty drums", "lo-fi drums", "laid-back drums"),
    "chip": ("8-bit drums", "noise drums"),
}
NO_DRUMS = ("no drums", "without drums", "drumless", "no percussion")
NO_VOICE = ("instrumental", "no vocals", "instrumental track")
PACES = {84: ("slow", "downtempo"), 116: ("mid-tempo", "moderate"), 139: ("upbeat", "lively")}
METRE_WORDS = {2: "2/4", 3: "waltz in 3/4", 6: "6/8"}
FAST = ("fast", "high tempo", "energetic tempo")

LYRIC_WORDS = (
    "moon light star night rain fall dream away tonight home heart fire sky blue ocean river "
    "summer shadow city follow feel me you stay go time slow dance free hold on morning open "
    "road sing soul golden memory never ever silver flower kiss day sun love life world wind "
    "sea hand eyes voice song dark bright run walk wait break rise shine burn cold warm deep "
    "high low long lost found again alone forever together somewhere nothing everything "
    "window garden winter mountain island lonely little simple honey paper thunder danger "
    "tender wonder believe remember beautiful tomorrow yesterday we are in the of my your and "
    "to a with for from over under through is it come back down let keep take give know see "
    "hear call turn move fly fade bring leave begin"
).split()  # fmt: skip

T = TypeVar("T")
_CONSONANTS = {
    "s": "s", "c": "s", "z": "s", "x": "s", "sh": "sh", "ch": "sh", "j": "sh",
    "t": "t", "d": "t", "k": "k", "g": "k", "q": "k", "p": "p", "b": "p",
    "f": "f", "v": "f", "th": "f", "h": "h", "m": "m", "n": "m",
}  # fmt: skip


def syllables(text: str) -> list[tuple[str, str]]:
    """The sung syllables of a text as (consonant, vowel) of the voice; tags in brackets are silent.

    English by rule of thumb: one syllable per group of vowels, a final e is silent. Letters of
    other alphabets count as one syllable for each word.
    """
    sung: list[tuple[str, str]] = []
    for word in re.findall(r"[^\W\d_]+", re.sub(r"\[[^\]]*\]", " ", text.lower())):
        core = word[:-1] if re.search(r"[aeiouy].*[^aeiouyl]e$", word) else word
        groups = list(re.finditer(r"[aeiouy]+", core[0].replace("y", "j") + core[1:]))
        start = 0
        for group in groups:
            before = core[start : group.start()]
            consonant = _CONSONANTS.get(before[-2:], _CONSONANTS.get(before[-1:], ""))
            sung.append((consonant, group.group()[0].replace("y", "i")))
            start = group.end()
        if not groups:
            sung.append(("", "a"))
    return sung


def lyric_line(rng: np.random.Generator, count: int) -> str:
    """A line of exactly `count` syllables."""
    line: list[str] = []
    while missing := count - len(syllables(" ".join(line))):
        word = choose(rng, LYRIC_WORDS)
        if len(syllables(word)) <= missing and word not in line[-1:]:
            line.append(word)
    return " ".join(line)


def choose(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def pace(bpm: int) -> tuple[str, ...]:
    return next((words for limit, words in PACES.items() if bpm < limit), FAST)


def write_caption(
    rng: np.random.Generator,
    *,
    names: Sequence[str],
    moods: Sequence[str],
    instruments: Sequence[str],
    kit: str | None,
    bpm: int,
    key_scale: str,
    time_signature: int,
) -> str:
    """One of the many ways to describe a song: other words, other order, with or without numbers.

    Args:
        instruments: names of `INSTRUMENT_WORDS`, the voice among them.
        kit: the drums, None for a song without.
    """

    def pick(choices: Sequence[str]) -> str:
        return choose(rng, choices)

    def sometimes(share: float) -> bool:
        return bool(rng.random() < share)

    name, mood = pick(names), pick(moods)
    details = [pick(INSTRUMENT_WORDS[i]) for i in instruments if sometimes(0.7)]
    if kit is None:
        details += [pick(NO_DRUMS)] if sometimes(0.8) else []
    elif sometimes(0.75):
        details.append(pick(DRUM_WORDS[kit]))
    if not any(i.startswith("voice") for i in instruments) and sometimes(0.4):
        details.append(pick(NO_VOICE))
    if sometimes(0.35):
        details.append(pick(pace(bpm)))
    if sometimes(0.35):
        details.append(pick((f"{bpm} bpm", f"{bpm} BPM", f"tempo {bpm}")))
    if sometimes(0.35):
        details.append(pick((f"in {key_scale}", f"key of {key_scale}", key_scale)))
    if time_signature != 4 and sometimes(0.6):
        details.append(METRE_WORDS[time_signature])
    rng.shuffle(details)
    style = rng.integers(4)
    if style == 0:
        return ", ".join([name, *([mood] if sometimes(0.8) else []), *details])
    if style == 1:
        return ", ".join([f"{mood} {name}", *details])
    if style == 2:
        body = f"A {mood} {name} track"
        return f"{body} with {', '.join(details)}" if details else body
    parts = [name, mood, *details]
    rng.shuffle(parts)
    return ", ".join(parts)
