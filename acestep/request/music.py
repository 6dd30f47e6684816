"""The fields that every task has, and what a checkpoint makes of them."""

import difflib
import re
from itertools import pairwise
from typing import ClassVar, Self

from pydantic import model_validator

from acestep.errors import InvalidRequest
from acestep.request.plan import Plan
from acestep.request.preset import Preset
from acestep.request.schema import Schema, setting
from acestep.request.values import (
    CODE_RATE,
    INSTRUMENTAL,
    MAX_DURATION,
    MAX_TAKES,
    MIN_DURATION,
    SECTION_TAGS,
    UNKNOWN_LANGUAGE,
    AudioFormat,
    File,
    GuidanceRule,
    KeyScale,
    Language,
    Lyrics,
    Seed,
    Solver,
    Text,
    TimeSignature,
    Timesteps,
    WaveletCorrection,
)
from acestep.seeds import MAX_SEED, draw_seed


class MusicRequest(Schema):
    """What all tasks share. Use `Text2Music`, `Repaint` or `Cover`."""

    can_think: ClassVar[bool] = True  # whether the planner has a part in this task

    caption: Text = setting(
        "", "text", "Music Caption", "Genre, instruments, mood, voice.", lines=3, max_length=512
    )
    lyrics: Lyrics = setting(
        INSTRUMENTAL,
        "text",
        "Lyrics",
        "One line per sung line, with [Verse], [Chorus] … above the parts. "
        "Empty or [Instrumental] for no voice.",
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
    duration: float | None = setting(
        None, "music", "Audio Duration", "Length of the song.",
        unit="s", ge=MIN_DURATION, le=MAX_DURATION,
    )  # fmt: skip
    reference_audio: File | None = setting(
        None, "music", "Reference Audio", "A recording whose timbre and mix the song should have.",
        place="more",
    )  # fmt: skip

    think: bool | None = setting(
        None, "planner", "Think",
        "Let the 5Hz language model plan the song first: better structure, slower.",
        widget="opt-out",
    )  # fmt: skip
    lm_temperature: float = setting(
        0.85, "planner", "LM Temperature", "Low is safe, high is surprising, 0 is the likeliest.",
        ge=0.0, le=2.0,
    )  # fmt: skip
    lm_cfg_scale: float = setting(
        2.0, "planner", "CFG Scale", "How strictly the language model follows the text; 1 is off.",
        flags=("--cfg-scale",), ge=1.0, le=7.0,
    )  # fmt: skip
    lm_top_p: float = setting(
        0.9, "planner", "Top-P", "Keep the likeliest tokens up to this share; 1 is off.",
        gt=0.0, le=1.0,
    )  # fmt: skip
    lm_top_k: int = setting(
        0, "planner", "Top-K", "Keep this many of the likeliest tokens; 0 is off.", ge=0, le=1000
    )
    lm_negative_prompt: Text = setting(
        "", "planner", "Negative Prompt", "What the plan should move away from.",
        lines=2, max_length=512,
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
    dcw: WaveletCorrection = setting(
        "off", "rendering", "Wavelet Correction", "Corrects wavelet bands after each step (DCW)."
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
