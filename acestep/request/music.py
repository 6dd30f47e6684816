"""The fields that every task has, and what a checkpoint makes of them."""

import difflib
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import model_validator

from acestep.errors import InvalidRequest
from acestep.request.asked import Asked
from acestep.request.preset import Preset
from acestep.request.resolved import ResolvedRequest
from acestep.request.schema import setting
from acestep.request.values import (
    INSTRUMENTAL,
    MAX_TAKES,
    SECTION_TAGS,
    UNKNOWN_LANGUAGE,
    AudioFormat,
    File,
    GuidanceRule,
    KeyScale,
    Language,
    Lyrics,
    OpenCorrection,
    Seed,
    Solver,
    Text,
    TimeSignature,
    Timesteps,
    Wavelet,
)
from acestep.seeds import MAX_SEED, draw_seed

if TYPE_CHECKING:
    from acestep.request.planned import PlannedRequest


class MusicRequest(Asked):
    """What all tasks share. Use `Text2Music`, `Repaint` or `Cover`.

    Attributes:
        name: the task's name, as the field `task` holds it.
        title: what the task is called on the page.
        verb: what its command is called.
        argument: the field that its command takes by position.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    verb: ClassVar[str]
    argument: ClassVar[str | None] = None

    caption: Text = setting(
        "", "text", "Music Caption", "Genre, instruments, mood, voice.", lines=3, max_length=512
    )
    lyrics: Lyrics = setting(
        INSTRUMENTAL,
        "text",
        "Lyrics",
        "One line per sung line, with [Verse], [Chorus] … above the parts. "
        "Empty or [Instrumental] for no voice.",
        metavar="TEXT|@FILE",
        lines=8,
        max_length=4096,
    )
    vocal_language: Language = setting(
        None, "text", "Vocal Language", "Language code of the lyrics, such as en, zh or ja.",
        widget="language",
    )  # fmt: skip

    bpm: int | None = setting(None, "music", "BPM", "Tempo in beats per minute.", ge=30, le=300)
    key_scale: KeyScale = setting(
        None, "music", "Key", "Root and mode, such as 'C major' or 'F# minor'.", widget="key"
    )
    time_signature: TimeSignature = setting(
        None, "music", "Time Signature", "Beats per bar: 2, 3, 4, or 6 for 6/8.", widget="meter"
    )
    reference_audio: File | None = setting(
        None, "music", "Reference Audio", "A recording whose timbre and mix the song should have.",
        place="more",
    )  # fmt: skip

    steps: int | None = setting(
        None, "rendering", "Steps", "Solver steps: turbo models take up to 20.", ge=1, le=200
    )
    shift: float | None = setting(
        None, "rendering", "Shift", "Spends more of the steps near the noise.", ge=1.0, le=5.0
    )
    timesteps: Timesteps = setting(
        None, "rendering", "Timesteps", "Falling times from 1 (noise); replaces steps and shift.",
        placeholder="auto, or such as 1, 0.75, 0.5, 0.25", max_length=200,
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
    dcw: OpenCorrection = setting(
        None, "rendering", "Wavelet Correction", "Corrects wavelet bands after each step (DCW)."
    )
    dcw_scaler: float = setting(
        0.05, "rendering", "Wavelet Correction Strength",
        "How far the corrected bands move; in mode double, the low band alone.",
        ge=0.0, le=1.0,
    )  # fmt: skip
    dcw_high_scaler: float = setting(
        0.02, "rendering", "Wavelet Correction Strength, High Band",
        "How far the high band moves in mode double.",
        ge=0.0, le=1.0,
    )  # fmt: skip
    dcw_wavelet: Wavelet = setting(
        "haar", "rendering", "Wavelet", "The wavelet whose bands are corrected."
    )
    seed: Seed = setting(
        None, "rendering", "Seed",
        "The same seed gives the same song. Take k of several uses seed + k.",
        placeholder="auto: another each time", ge=0, le=MAX_SEED,
    )  # fmt: skip
    takes: int = setting(
        1,
        "rendering",
        "Takes",
        "Versions rendered together, each with its own seed.",
        place="front",
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
    format: AudioFormat = setting(
        "flac", "output", "Format", "flac (24 bit), wav (16), wav24, wav32 (float), mp3, ogg, opus."
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
        if self.timesteps and any(b >= a for a, b in pairwise(self.timesteps)):
            raise InvalidRequest("timesteps", "Timesteps must fall from one to the next.")
        return self

    def check(self, preset: Preset, *, has_planner: bool) -> None:
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

    def seeded(self) -> Self:
        """The same with a seed, drawn if nobody chose one."""
        return self if self.seed is not None else self.model_copy(update={"seed": draw_seed()})

    def to_plan(self, *, has_planner: bool) -> "PlannedRequest | None":
        """What the planner is to plan first; None when it has no part in this."""
        return None

    def resolve(self, preset: Preset) -> "ResolvedRequest[Self]":
        """Fill every `None` once, from the checkpoint's preset."""
        filled = self.filled(preset)
        return ResolvedRequest(
            asked=self.model_copy(update=filled),
            caption=self.caption,
            seed=filled["seed"],
            steps=filled["steps"],
            shift=filled["shift"],
            guidance_scale=filled["guidance_scale"],
            is_turbo=preset.is_turbo,
            dcw=filled["dcw"],
        )

    def filled(self, preset: Preset) -> dict[str, Any]:
        """Values for all fields that were left open and that somebody must choose."""
        return {
            "seed": self.seeded().seed,
            "vocal_language": self.vocal_language or UNKNOWN_LANGUAGE,
            "steps": len(self.timesteps or ()) or self.steps or preset.steps,
            "shift": self.shift or preset.shift,
            "guidance_scale": self.guidance_scale or preset.guidance_scale,
            "dcw": self.dcw or preset.dcw,
        }

    def warnings(self) -> list[str]:
        """What is allowed but probably not meant, one sentence each."""
        return [*_unknown_tags(self.lyrics)]


class WholeSong(MusicRequest):
    """A song that is new from beginning to end, so that its ends may fade."""

    fade_in: float = setting(
        0.0, "output", "Fade In", "Length of the fade at the start.", unit="s", ge=0.0, le=10.0
    )
    fade_out: float = setting(
        0.0, "output", "Fade Out", "Length of the fade at the end.", unit="s", ge=0.0, le=10.0
    )


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
