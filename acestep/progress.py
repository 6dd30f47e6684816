"""What a run tells its caller while it works, and how the caller stops it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from acestep.errors import Cancelled

Stage = Literal[
    "loading", "reading", "planning", "conditioning", "rendering", "decoding", "checking", "saving"
]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of a stage: solver steps when rendering, hundredths when decoding."""

    stage: Stage
    done: int
    total: int


class CancelToken:
    """Set from any thread; the run notices at its next step, layer of the VAE or token."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()


class Reporter:
    """The run's side of both: every report is also a place where the run can be cancelled."""

    def __init__(
        self,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self._on_progress = on_progress
        self._cancel = cancel

    def __call__(self, stage: Stage, done: int, total: int) -> None:
        """Tell the caller where the run is.

        Raises:
            Cancelled: the token was set since the last report.
        """
        if self._cancel is not None and self._cancel.cancelled:
            raise Cancelled("Cancelled. Nothing was written.")
        if self._on_progress is not None:
            self._on_progress(Progress(stage, done, total))
