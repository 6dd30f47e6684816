"""What a checkpoint was made for (`configs/presets.toml`)."""

from pydantic import BaseModel, ConfigDict

from acestep.request.values import MAX_DURATION, WaveletCorrection


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
    rewrite_caption: bool
    dcw: WaveletCorrection
