"""Everything a user may ask for: the one place where a field, its default and its range stand.

The page, the command line, JSON files, the Python API and the recipe inside a finished file are
generated from these classes or checked against them. `None` means "you choose". Knows nothing about
tensors, files or models.
"""

from collections.abc import Mapping
from typing import Any

from acestep.errors import InvalidRequest
from acestep.request.cover import Cover
from acestep.request.music import MusicRequest
from acestep.request.plan import Plan
from acestep.request.preset import Preset
from acestep.request.repaint import Repaint
from acestep.request.text2music import Text2Music

__all__ = [
    "TASKS",
    "Cover",
    "MusicRequest",
    "Plan",
    "Preset",
    "Repaint",
    "Text2Music",
    "parse_request",
]

TASKS: Mapping[str, type[MusicRequest]] = {
    request.name: request for request in (Text2Music, Repaint, Cover)
}


def parse_request(data: Mapping[str, Any]) -> MusicRequest:
    """A request from JSON data; `task` chooses the class and is text2music when left out.

    Raises:
        InvalidRequest: with one sentence naming field, value and range.
    """
    task = data.get("task", "text2music")
    if task not in TASKS:
        raise InvalidRequest("task", f"Task must be one of {', '.join(TASKS)} (you gave '{task}').")
    return TASKS[task].model_validate(dict(data))
