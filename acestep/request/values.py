"""What the fields of a request may hold: languages, keys, meters, limits, and the types that read
them as people write them."""

import difflib
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

INSTRUMENTAL = "[Instrumental]"
UNKNOWN_LANGUAGE = "unknown"
LANGUAGES = tuple(
    "ar az bg bn ca cs da de el en es fa fi fr he hi hr ht hu id is it ja ko la lt ms ne nl no pa "
    "pl pt ro ru sa sk sr sv sw ta te th tl tr uk ur vi yue zh unknown".split()
)
KEY_SCALES = tuple(
    f"{note}{accidental} {mode}"
    for note in "ABCDEFG"
    for accidental in ("", "#", "b", "♯", "♭")
    for mode in ("major", "minor")
)
TIME_SIGNATURES = {2: "2/4", 3: "3/4", 4: "4/4", 6: "6/8"}
SECTION_TAGS = (
    "Intro", "Verse", "Pre-Chorus", "Chorus", "Bridge", "Outro", "Build", "Drop", "Breakdown",
    "Instrumental", "Guitar Solo", "Piano Interlude", "Fade Out", "Silence",
)  # fmt: skip
MIN_DURATION, MAX_DURATION = 10.0, 600.0  # seconds
CODE_RATE = 5  # planner codes per second
CODEBOOK_SIZE = 64_000
MAX_TAKES = 8
MAX_REGIONS = 32

AudioFormat = Literal["flac", "wav", "wav24", "wav32", "mp3", "ogg", "opus"]
Solver = Literal["euler", "heun", "sde"]
GuidanceRule = Literal["apg", "cfg", "adg"]
WaveletCorrection = Literal["off", "low", "high", "double", "pix"]
Wavelet = Literal["haar", "db2", "db3", "db4"]
RepaintMode = Literal["balanced", "conservative", "aggressive"]


def suffix(format: AudioFormat) -> str:
    """The file name's ending: the three kinds of WAV share one."""
    return ".wav" if format.startswith("wav") else f".{format}"


def _text(value: object) -> object:
    """NFC, no control characters but newline and tab, one kind of newline."""
    if not isinstance(value, str):
        return value
    value = unicodedata.normalize("NFC", value.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(c for c in value if c in "\n\t" or unicodedata.category(c) != "Cc").strip()


def _lyrics(value: object) -> object:
    value = _text(value)
    bare = isinstance(value, str) and value.lower() in ("", "[inst]", "[instrumental]")
    return INSTRUMENTAL if value is None or bare else value


def _language(value: object) -> object:
    if value is None or value == "":
        return None
    if value not in LANGUAGES:
        raise PydanticCustomError("sentence", "Unknown language code '{code}'.", {"code": value})
    return value


def _key_scale(value: object) -> object:
    if value is None or value == "":
        return None
    text = re.sub(r"\s+", " ", str(value)).strip()
    key = next((k for k in KEY_SCALES if k.lower() == text.lower()), None)
    if key is None:
        near = difflib.get_close_matches(text, KEY_SCALES[::-1], n=1, cutoff=0)[0]
        if text[:1].lower() == "h":  # the German name of B
            near = "B minor" if "min" in text.lower() else "B major"
        raise PydanticCustomError(
            "sentence", "Key '{key}' is not known. Try '{near}'.", {"key": text, "near": near}
        )
    return key


def _time_signature(value: object) -> object:
    if value is None or value == "":
        return None
    numerator = {written: n for n, written in TIME_SIGNATURES.items()}.get(str(value), value)
    try:
        if int(str(numerator)) in TIME_SIGNATURES:
            return int(str(numerator))
    except ValueError:
        pass
    raise PydanticCustomError(
        "sentence", "Choose 2/4, 3/4, 4/4 or 6/8 (you gave '{value}').", {"value": str(value)}
    )


def _seed(value: object) -> object:
    """−1 is the old way to say "you choose"."""
    return None if value in (-1, "-1", "") else value


def _timesteps(value: object) -> object:
    """Lists that end at 0 and lists that end before it mean the same: the run ends at 0."""
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if not isinstance(value, list | tuple):
        return value or None
    times = list(value)
    while times and times[-1] in (0, "0", "0.0"):
        times.pop()
    return times or None


def _choice(value: object) -> object:
    return None if value == "" else value


def _file(value: object) -> object:
    return None if value == "" else value


def _rows(value: object) -> object:
    """One row may be written without the brackets around it."""
    is_row = isinstance(value, list | tuple) and value and isinstance(value[0], int)
    return [value] if is_row else value


Text = Annotated[str, BeforeValidator(_text)]
CodeRow = tuple[Annotated[int, Field(ge=0, lt=CODEBOOK_SIZE)], ...]
File = Annotated[Path, BeforeValidator(_file)]
CodeRows = Annotated[tuple[CodeRow, ...], BeforeValidator(_rows)]
Lyrics = Annotated[str, BeforeValidator(_lyrics)]
Language = Annotated[str | None, BeforeValidator(_language)]
KeyScale = Annotated[str | None, BeforeValidator(_key_scale)]
TimeSignature = Annotated[int | None, BeforeValidator(_time_signature)]
Timesteps = Annotated[
    tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] | None, BeforeValidator(_timesteps)
]
OpenCorrection = Annotated[WaveletCorrection | None, BeforeValidator(_choice)]
Seed = Annotated[int | None, BeforeValidator(_seed)]
