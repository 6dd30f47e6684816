"""A real page around a fake service, on a free port."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_service import FakeService
from loops import in_loop

from acestep.ui.app import RunningPage, launch

OpenPage = Callable[..., RunningPage]


def free_port() -> int:
    """A port that no other test process is likely to take."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[OpenPage]:
    """A way to open pages that are closed after the test; they save below the test's folder."""
    pages: list[RunningPage] = []

    def open_one(service: FakeService | None = None, **options: Any) -> RunningPage:
        options = {
            "load_service": lambda: service or FakeService(),
            "output_dir": tmp_path / "songs",
            "port": free_port(),
            **options,
        }
        pages.append(in_loop(lambda: launch(**options)))
        return pages[-1]

    yield open_one
    for page in pages:
        page.close()
