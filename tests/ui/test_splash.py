"""What answers on the port while the page is built, and how the page takes its place."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from acestep.ui.splash import Doorway

SOON = 20.0


class Building:
    """A page whose building a test lets end."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.gate = threading.Event()
        self.is_served = False

    def __call__(self):
        assert self.gate.wait(SOON)
        if self.failure is not None:
            raise self.failure
        return Starlette(routes=[Route("/", _page), Route("/stream", _stream)]), self._lifespan()

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        self.is_served = True
        yield
        self.is_served = False


async def _page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("the page")


async def _stream(request: Request) -> StreamingResponse:
    """An answer that ends when the caller has gone, as Gradio's streams do."""

    async def words() -> AsyncIterator[bytes]:
        yield b"begun"
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)

    return StreamingResponse(words())


def test_the_splash_answers_until_the_page_does() -> None:
    building = Building()
    doorway = Doorway(building)
    with TestClient(doorway) as client:
        splash = client.get("/?__theme=dark")
        assert splash.status_code == 200 and "The page is being built" in splash.text
        assert client.get("/_boot").json() == {"ready": False, "error": None}
        assert client.get("/favicon.ico").status_code == 204
        assert client.get("/config").status_code == 503
        assert client.post("/live/cancel").status_code == 503
        building.gate.set()
        assert doorway.decided.wait(SOON)
        assert client.get("/_boot").json() == {"ready": True, "error": None}
        assert client.get("/").text == "the page"
        assert building.is_served
    assert not building.is_served


def test_a_page_that_cannot_be_built_is_said_and_kept_for_who_waits() -> None:
    building = Building(ImportError("no gradio"))
    doorway = Doorway(building)
    with TestClient(doorway) as client:
        building.gate.set()
        assert doorway.decided.wait(SOON)
        assert client.get("/_boot").json()["error"].startswith("The page could not be built.")
        assert client.get("/").status_code == 200
    assert str(doorway.error) == "no gradio"


def test_a_server_that_ends_while_the_page_is_built_does_not_wait_for_it() -> None:
    building = Building()
    doorway = Doorway(building)
    with TestClient(doorway) as client:
        client.get("/")
    assert doorway.decided.is_set() and doorway.error is None
    building.gate.set()


def test_an_answer_without_an_end_ends_with_the_server() -> None:
    building = Building()
    building.gate.set()
    doorway = Doorway(building)
    with TestClient(doorway) as client:
        assert doorway.decided.wait(SOON)
        timer = threading.Timer(0.2, doorway.hang_up)
        timer.start()
        assert client.get("/stream").text == "begun"
        timer.join()
