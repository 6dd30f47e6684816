"""A request in which nothing is left open: what the pipeline renders."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from acestep.request.values import WaveletCorrection

if TYPE_CHECKING:
    from acestep.request.music import MusicRequest

Asked = TypeVar("Asked", bound="MusicRequest", covariant=True)


@dataclass(frozen=True)
class ResolvedRequest(Generic[Asked]):
    """A request with every choice made.

    Attributes:
        asked: the request with its open fields filled; its JSON makes the same songs again.
        caption: what the DiT reads.
        seed: of the first take.
        is_turbo: of the checkpoint: its runs are spaced, and end, in a way of their own.
    """

    asked: Asked
    caption: str
    seed: int
    steps: int
    shift: float
    guidance_scale: float
    is_turbo: bool
    dcw: WaveletCorrection
