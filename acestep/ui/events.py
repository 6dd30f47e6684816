"""How the page's events run."""

import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from acestep.engine.engine import Change, Engine
from acestep.engine.jobs import Job

POLL_SECONDS = 0.2
WATCHERS = 20  # callers that can wait for a job at once; the engine runs one after the other

# For what only reads and shows, or only asks: outside of Gradio's queue, which calls wait in.
AT_ONCE: Mapping[str, Any] = MappingProxyType(
    {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
)

Updates = dict[Any, Any]  # what an event changes, by component


def steps_of(engine: Engine, id: str, seconds: float) -> Iterator[Job]:
    """A job each time it has changed, or every so many seconds, and last when it is over.

    Raises:
        Unavailable: there is none with this id.
    """
    changed = threading.Event()

    def hear(change: Change) -> None:
        if isinstance(change, Job) and change.id == id:
            changed.set()

    forget = engine.subscribe(hear)
    try:
        while not (job := engine.job(id)).is_over:
            yield job
            changed.wait(seconds)
            changed.clear()
        yield job
    finally:
        forget()
