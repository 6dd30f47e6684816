"""Requests that the 5Hz LM can plan: what steers it, and what it decided."""

from typing import Any, Self

from pydantic import model_validator

from acestep.errors import InvalidRequest
from acestep.request.music import WholeSong
from acestep.request.plan import Plan
from acestep.request.preset import Preset
from acestep.request.schema import setting
from acestep.request.values import (
    CODE_RATE,
    MAX_DURATION,
    MIN_DURATION,
    UNKNOWN_LANGUAGE,
    Text,
)


class PlannedRequest(WholeSong):
    """A song whose length and outline the planner may choose."""

    duration: float | None = setting(
        None, "music", "Audio Duration", "Length of the song.",
        unit="s", ge=MIN_DURATION, le=MAX_DURATION,
    )  # fmt: skip
    think: bool | None = setting(
        None, "planner", "Think",
        "Let the 5Hz language model plan the song first: better structure, slower.",
        widget="opt-out",
    )  # fmt: skip
    rewrite_caption: bool | None = setting(
        None, "planner", "Rewrite Caption",
        "Let the language model describe the song in its own words, which take the place of the "
        "caption.",
    )  # fmt: skip
    lm_temperature: float = setting(
        0.85, "planner", "LM Temperature", "Low is safe, high is surprising, 0 is the likeliest.",
        ge=0.0, le=2.0,
    )  # fmt: skip
    lm_cfg_scale: float = setting(
        2.0, "planner", "CFG Scale",
        "How strictly the codes that the language model writes follow the text; 1 is off.",
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
        "", "planner", "Negative Prompt", "What the codes should move away from.",
        lines=2, max_length=512,
    )  # fmt: skip
    plan: Plan | None = setting(
        None, "plan", "Plan", "A plan made before; the planner is then skipped."
    )

    @model_validator(mode="after")
    def _fits_its_plan(self) -> Self:
        if self.plan is not None and len(self.plan.codes) not in (0, 1, self.takes):
            raise InvalidRequest(
                "plan",
                f"The plan has {len(self.plan.codes)} rows of codes for {self.takes} takes: "
                "give one row, or one for each.",
            )
        return self

    def check(self, preset: Preset, *, has_planner: bool) -> None:
        super().check(preset, has_planner=has_planner)
        if self.think and not has_planner and self.plan is None:
            raise InvalidRequest(
                "think",
                "Think needs a 5Hz LM, and none is loaded: choose one as 5Hz LM Model Path (--lm), "
                "or leave Think off.",
            )

    def to_plan(self, *, has_planner: bool) -> "PlannedRequest | None":
        """The request itself, unless it has a plan or is to be rendered from its words alone."""
        thinks = has_planner if self.think is None else self.think
        return self if thinks and self.plan is None else None

    def with_plan(self, plan: Plan) -> Self:
        return self.model_copy(update={"think": True, "plan": plan})

    def rewrites(self, preset: Preset) -> bool:
        """Whether the planner's own caption takes the place of the user's."""
        return preset.rewrite_caption if self.rewrite_caption is None else self.rewrite_caption

    def given(self) -> Plan:
        """The metadata the user chose, which the planner must keep as they are.

        The caption is not among them: what the planner writes is its own, and the request keeps the
        user's.
        """
        language = self.vocal_language
        return Plan(
            bpm=self.bpm,
            duration=self.duration,
            key_scale=self.key_scale,
            time_signature=self.time_signature,
            vocal_language=None if language == UNKNOWN_LANGUAGE else language,
        )

    def filled(self, preset: Preset) -> dict[str, Any]:
        plan = self.plan or Plan()
        return {
            **super().filled(preset),
            "think": bool(self.think),
            "rewrite_caption": self.rewrites(preset),
            "vocal_language": self.vocal_language or plan.vocal_language or UNKNOWN_LANGUAGE,
            "bpm": self.bpm or plan.bpm,
            "key_scale": self.key_scale or plan.key_scale,
            "time_signature": self.time_signature or plan.time_signature,
            "duration": self.length(preset),
        }

    def length(self, preset: Preset) -> float:
        """Seconds: the user's; else the codes', each a fifth of a second; else the plan's; else the
        preset's.

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
