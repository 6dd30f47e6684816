"""What sets a task apart from the others, as the pipeline asks for it.

The pipeline knows no task by name: it asks for the timeline, for the conditioning of each step, for
the latents to begin with, for what is held to a source on the way, and for the finished song.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from acestep.diffusion.inpaint import InpaintConstraint
from acestep.errors import InvalidRequest
from acestep.library.report import EditReport
from acestep.library.source import Source
from acestep.request.resolved import ResolvedRequest
from acestep.runtime.codec import Codec
from acestep.tasks.timeline import Timeline
from acestep.types import Context, Latents, Stereo

Resolved = TypeVar("Resolved", bound=ResolvedRequest, contravariant=True)
T = TypeVar("T")


@dataclass(frozen=True)
class Guide:
    """What the DiT is told in a part of the steps.

    Attributes:
        instruction: first line of the caption's prompt; it names what the context holds.
        context: source latents and mask of every take.
        start: the share of the steps after which this guide takes over; 0 for the first.
    """

    instruction: str
    context: Context
    start: float = 0.0


@dataclass(frozen=True)
class Start:
    """Where a run begins: its times, and the state at the first of them."""

    timesteps: tuple[float, ...]
    latents: Latents


class Task(Protocol[Resolved]):
    """One task. `source_latents` are (1, frame, channel), in their place on the timeline."""

    def timeline(self, request: Resolved, source: Source | None) -> Timeline:
        """How long the song is, and which spans of it are edited.

        Raises:
            InvalidRequest: a region does not fit the source.
        """
        ...

    def guides(
        self, request: Resolved, timeline: Timeline, source_latents: Latents | None, codec: Codec
    ) -> Sequence[Guide]:
        """What the DiT is told, in the order of the steps.

        Raises:
            InvalidRequest: the plan was made for another checkpoint.
        """
        ...

    def start(
        self,
        request: Resolved,
        source_latents: Latents | None,
        noise: Latents,
        timesteps: tuple[float, ...],
    ) -> Start:
        """The run's times and first latents; most tasks begin with the noise itself."""
        ...

    def constraint(
        self, request: Resolved, timeline: Timeline, source_latents: Latents | None
    ) -> InpaintConstraint | None:
        """What holds the run to its source outside the edited spans; None holds nothing."""
        ...

    def finish(
        self, request: Resolved, decoded: Stereo, timeline: Timeline, source: Source | None
    ) -> tuple[Stereo, EditReport | None]:
        """From decoded sound to the finished song and, of an edit, what became of its source."""
        ...


def needed(of_source: T | None) -> T:
    """What a task cannot do without.

    Raises:
        InvalidRequest: there is no source.
    """
    if of_source is None:
        raise InvalidRequest("source_audio", "This task changes a song, and there is none.")
    return of_source
