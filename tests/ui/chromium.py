"""Chromium, and a tab of it as a person uses it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

FLAGS = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-quic"
).split()
SOON = 30_000  # milliseconds, on a busy machine
SETTLE = 300  # milliseconds


@dataclass
class Visit:
    """One tab, and what went wrong behind the person's back."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def hear(self, message: ConsoleMessage) -> None:
        # Gradio 6.31 says this of its own stream after every upload.
        is_gradios = message.text == "Method not implemented."
        if message.type in ("error", "warning") and not is_gradios:
            self.complaints.append(message.text)

    def follow(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme in ("http", "https", "ws", "wss") and address.hostname != "127.0.0.1":
            self.foreign.append(request.url)

    def box(self, elem_id: str) -> str:
        return f"#{elem_id} textarea, #{elem_id} input"

    def fill(self, elem_id: str, text: str) -> None:
        """Type, look, and type again if it is gone.

        Gradio mounts what an accordion holds after it has opened, and drops what was typed in that
        instant; a person is slower, and sees it.
        """
        box = self.page.locator(self.box(elem_id)).first
        for _ in range(5):
            box.fill(text)
            self.page.wait_for_timeout(SETTLE)
            if box.input_value() == text:
                return
        raise AssertionError(f"{elem_id} does not keep what is typed.")

    def ready(self) -> None:
        expect(self.page.locator("#status")).to_contain_text("Ready", timeout=SOON)

    def open_rendering(self) -> None:
        self.page.get_by_role("button", name="Rendering").click()
        expect(self.page.locator(self.box("steps")).first).to_be_visible(timeout=SOON)
        self.page.wait_for_timeout(SETTLE)

    def press_generate(self) -> None:
        self.page.locator("#generate").click()

    def go(self, url: str) -> None:
        self.page.goto(url)
        self.ready()


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser. Only one can be open: Playwright's loop is the thread's."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "Chromium is not installed (apt-get install chromium)."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visiting(browser: Browser) -> Iterator[Visit]:
    """A tab that must end without console errors and without a request to another host."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    tab = Visit(page)
    page.on("console", tab.hear)
    page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    page.on("request", tab.follow)
    yield tab
    context.close()
    assert tab.foreign == []
    assert tab.complaints == [], tab.complaints
