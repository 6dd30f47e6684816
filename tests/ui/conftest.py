"""A real page around a fake service, on a free port."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_service import FakeService
from loops import in_loop

from acestep.ui.app import RunningPage, launch

OpenPage = Callable[..., RunningPage]


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[OpenPage]:
    """A way to open pages that are closed after the test; they save below the test's folder."""
    pages: list[RunningPage] = []

    def open_one(service: FakeService | None = None, **options: Any) -> RunningPage:
        options = {
            "load_service": lambda: service or FakeService(),
            "output_dir": tmp_path / "songs",
            **options,
        }
        pages.append(in_loop(lambda: launch(**options)))
        return pages[-1]

    yield open_one
    for page in pages:
        page.close()
