"""Who may be spoken to (Host) and who may speak (Origin), for every request of the page."""

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from acestep.ui.app import guards
from acestep.ui.guard import LOOPBACK_HOSTS, HostGuard


async def _echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse("reached")


def client(**options: Any) -> TestClient:
    options = {"host": "127.0.0.1", "share": False, **options}
    app = Starlette(
        routes=[Route("/", _echo, methods=["GET", "POST", "DELETE"])], middleware=guards(**options)
    )
    return TestClient(app, base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "127.0.0.1"]
)
def test_this_machines_own_names_are_served(host: str) -> None:
    assert client().get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example@localhost",
        "localhost@evil.example",
        "localhost/evil",
        "10.0.0.7",
        "0.0.0.0",
        "[::2]",
        "[localhost]",
        "localhost:port",
        "",
    ],
)
def test_a_foreign_host_name_is_answered_400(host: str) -> None:
    answer = client().get("/", headers={"host": host})
    assert (answer.status_code, answer.text) == (400, "This host name is not served here.")


def test_a_page_open_to_a_network_is_reached_by_number_but_not_by_a_foreign_name() -> None:
    page = client(host="0.0.0.0")
    assert page.get("/", headers={"host": "192.168.1.5:7860"}).status_code == 200
    assert page.get("/", headers={"host": "evil.example"}).status_code == 400


def test_names_that_were_allowed_and_the_shared_domain_are_served() -> None:
    page = client(allowed_hosts=["studio.example"], share=True)
    assert page.get("/", headers={"host": "studio.example"}).status_code == 200
    assert page.get("/", headers={"host": "1234abcd.gradio.live"}).status_code == 200
    assert page.get("/", headers={"host": "gradio.live.evil.example"}).status_code == 400
    assert client().get("/", headers={"host": "1234abcd.gradio.live"}).status_code == 400


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_another_sites_page_cannot_change_anything(method: str, headers: dict[str, str]) -> None:
    answer = client().request(method, "/", headers=headers)
    assert (answer.status_code, answer.text) == (403, "Cross-origin request refused.")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
def test_the_page_itself_and_programs_may_post(headers: dict[str, str]) -> None:
    assert client().post("/", headers=headers).status_code == 200


def test_a_link_from_another_site_may_open_the_page() -> None:
    headers = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert client().get("/", headers=headers).status_code == 200


def test_the_host_guard_leaves_the_servers_start_and_stop_alone() -> None:
    started = []

    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        started.append(scope["type"])

    guard: Any = HostGuard(lifespan, LOOPBACK_HOSTS)
    asyncio.run(guard({"type": "lifespan"}, None, None))
    assert started == ["lifespan"]
