"""A real page around a fake engine, on a free port."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_engine import FakeEngine, FakeService

from acestep.ui.app import RunningPage, launch

OpenPage = Callable[..., RunningPage]
BUILT = 60.0  # seconds, on a busy machine


def free_port() -> int:
    """A port that no other test process is likely to take."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def open_one(
    folder: Path, service: FakeService | None = None, *, is_built: bool = True, **options: Any
) -> RunningPage:
    """A page around a fake engine."""
    options = {"output_dir": folder, "port": free_port(), **options}
    page = launch(lambda: FakeEngine(folder, service), **options)
    if is_built:
        page.until_ready(BUILT)
    return page
