"""How the page's events run."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

POLL_SECONDS = 0.2
WATCHERS = 20  # browser tabs that can watch a run at once; the worker runs one request at a time

# For what only reads and shows: outside of the queue, which runs wait in.
AT_ONCE: Mapping[str, Any] = MappingProxyType(
    {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
)

Updates = dict[Any, Any]  # what an event changes, by component
