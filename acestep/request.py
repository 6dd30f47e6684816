"""Everything a user may ask for: the one place where a field, its default and its range stand.

The page, the command line, JSON files, the Python API and the recipe inside a finished file are
generated from these classes or checked against them. `None` means "you choose": `resolve` fills
every `None` once, from the checkpoint's preset, and the resolved request replays the track.
Knows nothing about tensors, files or models.
"""

import difflib
import random
import re
import unicodedata
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from acestep.errors import InvalidRequest
from acestep.regions import Region, describe, require_forward, settle
from acestep.schema import Schema, setting

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
MAX_SEED = 2**32 - 1
MIN_DURATION, MAX_DURATION = 10.0, 600.0  # seconds
CODE_RATE = 5  # planner codes per second
CODEBOOK_SIZE = 64_000
MAX_TAKES = 8
MAX_REGIONS = 32

AudioFormat = Literal["flac", "wav", "wav24", "wav32", "mp3", "ogg", "opus"]
Solver = Literal["euler", "heun", "sde"]
GuidanceRule = Literal["apg", "cfg", "adg"]
WaveletCorrection = Literal["off", "low", "high", "double", "pix"]
RepaintMode = Literal["balanced", "conservative", "aggressive"]


class Preset(BaseModel):
    """What a checkpoint was made for: fills what a request leaves open, bounds what it sets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    steps: int
    max_steps: int
    shift: float
    guidance_scale: float
    is_turbo: bool
    duration: float  # seconds, when nobody chose one
    longest_plan: float = MAX_DURATION  # seconds; the planner never chooses more by itself


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
    if not isinstance(value, list | tuple):
        return value or None
    times = list(value)
    while times and times[-1] == 0:
        times.pop()
    return times or None


def _file(value: object) -> object:
    return None if value == "" else value


def _rows(value: object) -> object:
    """One row may be written without the brackets around it."""
    is_row = isinstance(value, list | tuple) and value and isinstance(value[0], int)
    return [value] if is_row else value


def _regions(value: object) -> object:
    """Pairs of seconds; one pair may be written without the brackets around it."""
    pairs = [value] if _is_pair(value) else value
    if not isinstance(pairs, list | tuple) or not all(map(_is_pair, pairs)):
        raise PydanticCustomError(
            "sentence",
            "Regions are pairs of seconds, such as [[12, 20], [40.5, 48]] (you gave {value}).",
            {"value": str(value)[:40]},
        )
    return pairs


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(x, int | float) and abs(x) <= 2 * MAX_DURATION for x in value)
    )


Text = Annotated[str, BeforeValidator(_text)]
CodeRow = tuple[Annotated[int, Field(ge=0, lt=CODEBOOK_SIZE)], ...]
File = Annotated[Path, BeforeValidator(_file)]


class Plan(Schema):
    """What the planner decided: metadata, the caption it sang to itself, and 5 codes per second."""

    caption: Text = setting("", "plan", "Caption", "The planner's own description of the song.")
    bpm: int | None = setting(None, "plan", "BPM", "Beats per minute.", ge=30, le=300)
    duration: float | None = setting(
        None, "plan", "Duration", "Length of the song.", unit="s", ge=0.2, le=MAX_DURATION
    )
    key_scale: Annotated[str | None, BeforeValidator(_key_scale)] = setting(
        None, "plan", "Key", "Root and mode."
    )
    time_signature: Annotated[int | None, BeforeValidator(_time_signature)] = setting(
        None, "plan", "Time Signature", "Beats per bar; 6 stands for 6/8."
    )
    vocal_language: Annotated[str | None, BeforeValidator(_language)] = setting(
        None, "plan", "Vocal Language", "Language of the voice."
    )
    codes: Annotated[tuple[CodeRow, ...], BeforeValidator(_rows)] = setting(
        (),
        "plan",
        "Codes",
        "Audio codes, five per second: one row per take, or one row for all takes.",
        max_length=MAX_TAKES,
    )

    @model_validator(mode="after")
    def _whole_song(self) -> Self:
        lengths = {len(row) for row in self.codes}
        shortest, longest = (int(s * CODE_RATE) for s in (MIN_DURATION, MAX_DURATION))
        if len(lengths) > 1:
            raise InvalidRequest("codes", "All rows of a plan's codes must have the same length.")
        if lengths and not shortest <= (count := lengths.pop()) <= longest:
            raise InvalidRequest(
                "codes",
                f"A plan's codes must last {MIN_DURATION:g} to {MAX_DURATION:g} s, which is "
                f"{shortest} to {longest} codes (you gave {count}).",
            )
        return self


class MusicRequest(Schema):
    """What all tasks share. Use `Text2Music`, `Repaint` or `Cover`."""

    can_think: ClassVar[bool] = True  # whether the planner has a part in this task

    caption: Text = setting(
        "", "text", "Music Caption", "Genre, instruments, mood, voice.", max_length=512
    )
    lyrics: Annotated[str, BeforeValidator(_lyrics)] = setting(
        INSTRUMENTAL,
        "text",
        "Lyrics",
        "One line per sung line, with [Verse], [Chorus] … above the parts. "
        "Empty or [Instrumental] for no voice.",
        max_length=4096,
    )
    vocal_language: Annotated[str | None, BeforeValidator(_language)] = setting(
        None, "text", "Vocal Language", "Language code of the lyrics, such as en, zh or ja."
    )

    bpm: int | None = setting(None, "music", "BPM", "Tempo in beats per minute.", ge=30, le=300)
    key_scale: Annotated[str | None, BeforeValidator(_key_scale)] = setting(
        None, "music", "Key", "Root and mode, such as 'C major' or 'F# minor'."
    )
    time_signature: Annotated[int | None, BeforeValidator(_time_signature)] = setting(
        None, "music", "Time Signature", "Beats per bar: 2, 3, 4, or 6 for 6/8."
    )
    duration: float | None = setting(
        None, "music", "Audio Duration", "Length of the song.",
        unit="s", ge=MIN_DURATION, le=MAX_DURATION,
    )  # fmt: skip
    reference_audio: File | None = setting(
        None, "music", "Reference Audio", "A recording whose timbre and mix the song should have."
    )

    think: bool | None = setting(
        None, "planner", "Think",
        "Let the 5Hz language model plan the song first: better structure, slower.",
    )  # fmt: skip
    lm_temperature: float = setting(
        0.85, "planner", "LM Temperature", "Low is safe, high is surprising, 0 is the likeliest.",
        ge=0.0, le=2.0,
    )  # fmt: skip
    lm_cfg_scale: float = setting(
        2.0, "planner", "CFG Scale", "How strictly the language model follows the text; 1 is off.",
        ge=1.0, le=7.0,
    )  # fmt: skip
    lm_top_p: float = setting(
        0.9, "planner", "Top-P", "Keep the likeliest tokens up to this share; 1 is off.",
        gt=0.0, le=1.0,
    )  # fmt: skip
    lm_top_k: int = setting(
        0, "planner", "Top-K", "Keep this many of the likeliest tokens; 0 is off.", ge=0, le=1000
    )
    lm_negative_prompt: Text = setting(
        "", "planner", "Negative Prompt", "What the plan should move away from.", max_length=512
    )

    steps: int | None = setting(
        None, "rendering", "Steps", "Solver steps: turbo models take up to 20.", ge=1, le=200
    )
    shift: float | None = setting(
        None, "rendering", "Shift", "Spends more of the steps near the noise.", ge=1.0, le=5.0
    )
    timesteps: Annotated[
        tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] | None, BeforeValidator(_timesteps)
    ] = setting(
        None, "rendering", "Timesteps", "Falling times from 1 (noise); replaces steps and shift.",
        max_length=200,
    )  # fmt: skip
    guidance_scale: float | None = setting(
        None, "rendering", "Guidance Scale",
        "How strictly the music model follows the text; 1 is off. Base and sft models only.",
        ge=1.0, le=15.0,
    )  # fmt: skip
    guidance_rule: GuidanceRule = setting(
        "apg", "rendering", "Guidance Rule", "How guidance is applied on base and sft models."
    )
    guidance_start: float = setting(
        0.0,
        "rendering",
        "Guidance Start",
        "Guidance acts while t is at least this.",
        ge=0.0,
        le=1.0,
    )
    guidance_end: float = setting(
        1.0, "rendering", "Guidance End", "Guidance acts while t is at most this.", ge=0.0, le=1.0
    )
    solver: Solver = setting(
        "euler", "rendering", "Solver", "euler is the standard; heun is finer; sde adds noise."
    )
    dcw: WaveletCorrection = setting(
        "off", "rendering", "Wavelet Correction", "Corrects wavelet bands after each step (DCW)."
    )
    seed: Annotated[int | None, BeforeValidator(_seed)] = setting(
        None, "rendering", "Seed",
        "The same seed gives the same song. Take k of several uses seed + k.",
        ge=0, le=MAX_SEED,
    )  # fmt: skip
    takes: int = setting(
        1,
        "rendering",
        "Takes",
        "Versions rendered together, each with its own seed.",
        ge=1,
        le=MAX_TAKES,
    )
    normalize: bool = setting(
        True,
        "output",
        "Normalize",
        "Bring the loudest sample to the peak level; a repainted region to the song's own level.",
    )
    peak_db: float = setting(
        -1.0, "output", "Peak Level", "Level of the loudest sample.", unit="dBFS", ge=-10.0, le=0.0
    )
    fade_in: float = setting(
        0.0, "output", "Fade In", "Length of the fade at the start.", unit="s", ge=0.0, le=10.0
    )
    fade_out: float = setting(
        0.0, "output", "Fade Out", "Length of the fade at the end.", unit="s", ge=0.0, le=10.0
    )
    format: AudioFormat = setting(
        "flac", "output", "Format", "flac (24 bit), wav (16), wav24, wav32 (float), mp3, ogg, opus."
    )
    plan: Plan | None = setting(
        None, "plan", "Plan", "A plan made before; the planner is then skipped."
    )

    @property
    def is_instrumental(self) -> bool:
        return self.lyrics == INSTRUMENTAL

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.guidance_start > self.guidance_end:
            raise InvalidRequest(
                "guidance_start",
                f"Guidance Start ({self.guidance_start:g}) must not be above "
                f"Guidance End ({self.guidance_end:g}).",
            )
        if self.plan is not None and len(self.plan.codes) not in (0, 1, self.takes):
            raise InvalidRequest(
                "plan",
                f"The plan has {len(self.plan.codes)} rows of codes for {self.takes} takes: "
                "give one row, or one for each.",
            )
        if self.timesteps and any(b >= a for a, b in pairwise(self.timesteps)):
            raise InvalidRequest("timesteps", "Timesteps must fall from one to the next.")
        return self

    def begin(self, preset: Preset, *, has_planner: bool) -> Self:
        """Refuse what this checkpoint cannot do; draw the seed; decide whether to think.

        What is left open afterwards is the planner's to choose, or the preset's (`resolve`).

        Raises:
            InvalidRequest: a value is off this checkpoint's preset, or Think has no planner.
        """
        if self.think and not has_planner and self.plan is None:
            raise InvalidRequest(
                "think", "Think needs a 5Hz LM. Choose one in Service Configuration (or --lm)."
            )
        if self.steps is not None and self.steps > preset.max_steps:
            kind = "Turbo models" if preset.is_turbo else f"{preset.name} models"
            raise InvalidRequest(
                "steps", f"{kind} take 1–{preset.max_steps} steps (you gave {self.steps})."
            )
        if self.timesteps is not None and len(self.timesteps) > preset.max_steps:
            raise InvalidRequest(
                "timesteps",
                f"{preset.name} takes at most {preset.max_steps} timesteps "
                f"(you gave {len(self.timesteps)}).",
            )
        if preset.is_turbo and (self.guidance_scale or 1.0) != 1.0:
            raise InvalidRequest(
                "guidance_scale",
                f"Guidance Scale has no effect on turbo models (you gave {self.guidance_scale:g}): "
                "leave it out, or choose a base or sft model.",
            )
        return self.model_copy(
            update={
                "think": self.can_think and has_planner if self.think is None else self.think,
                "seed": draw_seed() if self.seed is None else self.seed,
            }
        )

    def resolve(self, preset: Preset, *, has_planner: bool) -> Self:
        """Fill every `None` once: from the plan where there is one, else from the preset.

        The seed is among them, so the resolved request replays the track.

        Raises:
            InvalidRequest: as `begin`.
        """
        begun = self.begin(preset, has_planner=has_planner)
        plan = self.plan or Plan()
        return begun.model_copy(
            update={
                "vocal_language": self.vocal_language or plan.vocal_language or UNKNOWN_LANGUAGE,
                "bpm": self.bpm or plan.bpm,
                "key_scale": self.key_scale or plan.key_scale,
                "time_signature": self.time_signature or plan.time_signature,
                "duration": self._length(preset),
                "steps": len(self.timesteps or ()) or self.steps or preset.steps,
                "shift": self.shift or preset.shift,
                "guidance_scale": self.guidance_scale or preset.guidance_scale,
            }
        )

    def _length(self, preset: Preset) -> float | None:
        """The user's length; else the codes', each a fifth of a second; else the plan's.

        Raises:
            InvalidRequest: there are codes for a song of another length than the user's.
        """
        if self.plan is None or not self.plan.codes:
            planned = None if self.plan is None else self.plan.duration
            return self.duration or planned or preset.duration
        written = len(self.plan.codes[0]) / CODE_RATE
        if self.duration is not None and abs(written - self.duration) >= 1 / CODE_RATE:
            raise InvalidRequest(
                "duration",
                f"The plan's codes last {written:g} s, but Audio Duration is {self.duration:g} s: "
                "leave the duration out, or plan again.",
            )
        return self.duration or written

    def warnings(self) -> list[str]:
        """What is allowed but probably not meant, one sentence each."""
        return [*_unknown_tags(self.lyrics)]


class Text2Music(MusicRequest):
    """A caption and lyrics become a song."""

    task: Literal["text2music"] = "text2music"

    @model_validator(mode="after")
    def _describes_something(self) -> Self:
        if not self.caption and self.is_instrumental and self.plan is None:
            raise InvalidRequest("caption", "Describe the music you want, or write lyrics.")
        return self


class Edit(MusicRequest):
    """What repaint and cover share: the source gives the length and takes the planner's place."""

    can_think: ClassVar[bool] = False

    @model_validator(mode="after")
    def _follows_its_source(self) -> Self:
        if self.duration is not None:
            raise InvalidRequest(
                "duration", "The source decides how long the song is: leave Audio Duration out."
            )
        if self.think or self.plan is not None:
            raise InvalidRequest(
                "think" if self.think else "plan",
                "The 5Hz LM plans new songs only; this one follows its source. Leave "
                + ("Think off." if self.think else "the plan out."),
            )
        return self

    def _length(self, preset: Preset) -> None:
        """Known when the source is read."""


class Repaint(Edit):
    """Regions of a song are made anew; the rest stays bit-identical."""

    task: Literal["repaint"] = "repaint"
    source_audio: File = setting(
        ..., "source", "Source Audio", "The song to change.",
        missing="Choose the song to change first.",
    )  # fmt: skip
    repainting_start: float = setting(
        0.0, "source", "Repainting Start",
        "Where the region begins; below 0 adds music before the song.",
        unit="s", ge=-MAX_DURATION, le=MAX_DURATION,
    )  # fmt: skip
    repainting_end: float | None = setting(
        None, "source", "Repainting End",
        "Where the region ends (empty: the end of the song, or its beginning when the region "
        "begins before it); past the song adds music after it.",
        unit="s", ge=0.0, le=2 * MAX_DURATION,
    )  # fmt: skip
    regions: Annotated[tuple[Region, ...], BeforeValidator(_regions)] = setting(
        (), "source", "Regions",
        "Several regions at once, as pairs of seconds, instead of Repainting Start and End.",
        max_length=MAX_REGIONS,
    )  # fmt: skip
    mode: RepaintMode = setting(
        "balanced", "source", "Repaint Mode",
        "balanced goes by Strength; conservative joins most smoothly; aggressive is freest.",
    )  # fmt: skip
    strength: float = setting(
        0.5, "source", "Strength",
        "0 keeps closest to the original at the borders, 1 is free; for the balanced mode.",
        ge=0.0, le=1.0,
    )  # fmt: skip
    crossfade: float = setting(
        0.04, "source", "Crossfade", "Blend at both borders, inside the region.",
        unit="s", ge=0.0, le=2.0,
    )  # fmt: skip

    @model_validator(mode="after")
    def _has_one_kind_of_region(self) -> Self:
        if self.regions and (self.repainting_start, self.repainting_end) != (0.0, None):
            raise InvalidRequest(
                "regions", "Give either Regions or Repainting Start and End, not both."
            )
        if self.regions:
            require_forward(self.regions, "regions")
        elif self.repainting_end is not None:
            region = (self.repainting_start, self.repainting_end)
            require_forward([region], "repainting_end")
        return self

    @model_validator(mode="after")
    def _leaves_the_rest_alone(self) -> Self:
        if self.fade_in or self.fade_out:
            raise InvalidRequest(
                "fade_in" if self.fade_in else "fade_out",
                "A repaint keeps everything outside its region, so it cannot fade the song: "
                "leave Fade In and Fade Out at 0.",
            )
        return self

    def regions_of(self, source_seconds: float) -> tuple[Region, ...]:
        """The regions on a source of this length: sorted, apart, in seconds of the source.

        Raises:
            InvalidRequest: a region lies past the song, or the song would become too long.
        """
        wanted = self.regions or [(self.repainting_start, self._end(source_seconds))]
        field = "regions" if self.regions else "repainting_start"
        return settle(wanted, source_seconds, MAX_DURATION, field)

    def summary(self, source_seconds: float) -> str:
        """What a run would do to a source of this length, in words.

        Raises:
            InvalidRequest: what the run would say, in the same sentence.
        """
        return describe(self.regions_of(source_seconds), source_seconds)

    def _end(self, source_seconds: float) -> float:
        if self.repainting_end is not None:
            return self.repainting_end
        # A beginning before the song, and nothing else, asks for an introduction.
        return 0.0 if self.repainting_start < 0 else source_seconds


class Cover(Edit):
    """A song in another style, with its structure kept."""

    task: Literal["cover"] = "cover"
    source_audio: File = setting(
        ..., "source", "Source Audio", "The song to cover.",
        missing="Choose the song to cover first.",
    )  # fmt: skip
    audio_cover_strength: float = setting(
        1.0, "source", "Audio Cover Strength",
        "The share of the steps that follow the source: high is the same song in new clothes.",
        ge=0.0, le=1.0,
    )  # fmt: skip
    cover_noise_strength: float = setting(
        0.0, "source", "Cover Noise Strength", "Starts closer to the source's own sound.",
        ge=0.0, le=1.0,
    )  # fmt: skip
    quantize: bool = setting(
        True, "source", "Quantize",
        "Follow the source through its 5 Hz codes, which keep structure and melody. Off follows "
        "its sound itself: very close, so choose an Audio Cover Strength of 0.2 to 0.5.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _says_what_to_become(self) -> Self:
        if not self.caption:
            raise InvalidRequest("caption", "Say what it should become, e.g. 'jazz trio'.")
        return self


TASKS: Mapping[str, type[MusicRequest]] = {
    "text2music": Text2Music,
    "repaint": Repaint,
    "cover": Cover,
}


def draw_seed() -> int:
    """A seed nobody chose."""
    return random.SystemRandom().randrange(MAX_SEED + 1)


def parse_request(data: Mapping[str, Any]) -> MusicRequest:
    """A request from JSON data; `task` chooses the class and is text2music when left out.

    Raises:
        InvalidRequest: with one sentence naming field, value and range.
    """
    task = data.get("task", "text2music")
    if task not in TASKS:
        raise InvalidRequest("task", f"Task must be one of {', '.join(TASKS)} (you gave '{task}').")
    return TASKS[task].model_validate(dict(data))


def _unknown_tags(lyrics: str) -> list[str]:
    """Misspelt section tags, which the models would sing or ignore."""
    known = {tag.lower(): tag for tag in SECTION_TAGS}
    sentences = []
    for tag in dict.fromkeys(re.findall(r"\[([^\[\]\n]{1,40})\]", lyrics)):
        name = re.split(r"\s*-\s+|\s+\d+$", tag)[0].strip().lower()
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        if name not in known and near:
            sentences.append(f"Unknown tag [{tag}] — did you mean [{known[near[0]]}]?")
    return sentences
