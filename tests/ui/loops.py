"""Gradio outside of an event loop leaks one; tests treat that as an error."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_loop(make: Callable[[], T]) -> T:
    """Build something of Gradio's inside a running event loop that is closed afterwards.

    Outside of one, `gr.Blocks` and its server open loops that they never close, which is a
    ResourceWarning at some later test.
    """

    async def call() -> T:
        return make()

    try:
        asyncio.get_running_loop()  # Playwright's, in the browser tests
    except RuntimeError:
        return asyncio.run(call())
    return make()
