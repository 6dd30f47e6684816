"""What answers on the port until the page is built, and steps aside then.

Importing gradio takes seconds. Until it is there a small page says so, asks `/_boot` how far
things are, and opens the real page as soon as that answers.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Build = Callable[[], tuple[ASGIApp, AbstractAsyncContextManager[object]]]

SPLASH = Path(__file__).with_name("splash.html")


class _Closed(Exception):
    """The server ended before the page was built."""


class Doorway:
    """The application on the port: the splash, then what `build` makes.

    Args:
        build: called in a thread of its own once the port answers; gives the page and its
            lifespan, which is entered before the page is served and left after.

    Attributes:
        decided: set once the page is ready, or could not be built.
        error: why it could not be built.
    """

    def __init__(self, build: Build) -> None:
        self._build = build
        self._page: ASGIApp | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        self.decided = threading.Event()
        self.error: BaseException | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http" and scope["path"] == "/_boot":
            await JSONResponse(self._state())(scope, receive, send)
        elif self._page is not None:
            await self._page(scope, self._until_closing(receive), send)
        elif scope["type"] == "http":
            await _splash(scope["path"])(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1013})

    def _state(self) -> dict[str, object]:
        failed = "The page could not be built. The terminal says why." if self.error else None
        return {"ready": self._page is not None, "error": failed}

    async def _live(self, receive: Receive, send: Send) -> None:
        """Build the page while the server runs, and leave its lifespan when that ends."""
        self._loop = asyncio.get_running_loop()
        await receive()
        serving = asyncio.create_task(self._serve())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._closing.set()
        await serving
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self) -> None:
        try:
            page, lifespan = await self._built()
            async with lifespan:
                self._page = page
                self.decided.set()
                await self._closing.wait()
        except _Closed:
            pass
        except BaseException as error:  # whoever waits for the page gets it
            self.error = error
        finally:
            self._page = None
            self.decided.set()

    async def _built(self) -> tuple[ASGIApp, AbstractAsyncContextManager[object]]:
        """What `build` makes, in a thread that does not keep a program which ends early.

        Raises:
            _Closed: the server ends first.
        """
        building: Future[tuple[ASGIApp, AbstractAsyncContextManager[object]]] = Future()

        def work() -> None:
            if not building.set_running_or_notify_cancel():
                return
            try:
                building.set_result(self._build())
            except BaseException as error:
                building.set_exception(error)

        threading.Thread(target=work, name="acestep-page", daemon=True).start()
        built = asyncio.wrap_future(building)
        closing = asyncio.ensure_future(self._closing.wait())
        await asyncio.wait((built, closing), return_when=asyncio.FIRST_COMPLETED)
        if not built.done():
            built.cancel()
            raise _Closed
        closing.cancel()
        return built.result()

    def hang_up(self) -> None:
        """Let answers that would never end, such as Gradio's streams, end now. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._closing.set)

    def _until_closing(self, receive: Receive) -> Receive:
        """What the client sends; once the server closes, that it has gone."""

        async def next_message() -> Message:
            if self._closing.is_set():
                return {"type": "http.disconnect"}
            coming = asyncio.ensure_future(receive())
            closing = asyncio.ensure_future(self._closing.wait())
            done, pending = await asyncio.wait(
                (coming, closing), return_when=asyncio.FIRST_COMPLETED
            )
            for task in pending:
                task.cancel()
            return coming.result() if coming in done else {"type": "http.disconnect"}

        return next_message


def _splash(path: str) -> Response:
    if path == "/":
        return HTMLResponse(SPLASH.read_text("utf-8"), headers={"Cache-Control": "no-store"})
    if path == "/favicon.ico":
        return Response(status_code=204)
    return PlainTextResponse("The page is being built.", 503, headers={"Retry-After": "1"})
