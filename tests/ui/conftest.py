"""Pages that are closed after the test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeService
from pages import OpenPage, open_one

from acestep.ui.app import RunningPage


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[OpenPage]:
    """A way to open pages that are closed after the test; they save below the test's folder."""
    pages: list[RunningPage] = []

    def open_here(service: FakeService | None = None, **options: Any) -> RunningPage:
        pages.append(open_one(tmp_path / "songs", service, **options))
        return pages[-1]

    yield open_here
    for page in pages:
        page.close()
