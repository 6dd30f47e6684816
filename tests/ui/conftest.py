"""Pages and tabs that are closed after the test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Visit, chromium, visiting
from fake_engine import FakeService
from pages import OpenPage, open_one
from playwright.sync_api import Browser

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


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, open_page: OpenPage) -> Iterator[Visit]:
    """A tab that must end without console errors and without a request to another host.

    It asks for `open_page` so that the tab is closed before its server is.
    """
    with visiting(browser) as tab:
        yield tab
