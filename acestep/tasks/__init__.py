"""One room per task: what sets text2music, repaint and cover apart.

A new task is one file here, its fields in `acestep.request`, and its line in both tables.
"""

from collections.abc import Mapping
from typing import Any

from acestep.tasks.base import Task
from acestep.tasks.cover import CoverTask
from acestep.tasks.repaint import RepaintTask
from acestep.tasks.text2music import Text2MusicTask

ROOMS: Mapping[str, Task[Any]] = {
    "text2music": Text2MusicTask(),
    "repaint": RepaintTask(),
    "cover": CoverTask(),
}
