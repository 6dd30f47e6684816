"""Two ASGI middlewares that make localhost a border: who is spoken to, and who speaks.

A web page open in the same browser can reach 127.0.0.1. `HostGuard` stops DNS rebinding (a foreign
name that resolves to this machine); `OriginGuard` stops a foreign page's forms and uploads.
"""

import ipaddress
import re
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(:[0-9]{1,5})?")


class HostGuard:
    """Answers 400 unless the Host header is one of `allowed_hosts`.

    Args:
        allowed_hosts: names without port; `.example.org` allows every name under it.
        allow_addresses: also any IP address as host. Rebinding needs a name, so a page that is
            open to a network can be reached by its number.
    """

    def __init__(
        self, app: ASGIApp, allowed_hosts: Collection[str], allow_addresses: bool = False
    ) -> None:
        self.app = app
        self.allowed_hosts = tuple(host.lower().strip("[]") for host in allowed_hosts)
        self.allow_addresses = allow_addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self.allows(_header(scope, "host")):
            await self.app(scope, receive, send)
        else:
            await _refuse(scope, receive, send, "This host name is not served here.", 400)

    def allows(self, host: str) -> bool:
        """Whether a Host header (with or without port) names this machine."""
        name = _host_name(host)
        if self.allow_addresses and _is_address(name):
            return True
        return any(
            name == allowed or (allowed.startswith(".") and name.endswith(allowed))
            for allowed in self.allowed_hosts
        )


class OriginGuard:
    """Answers 403 to anything that changes state when it comes from another site's page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        changes_state = scope["type"] == "websocket" or (
            scope["type"] == "http" and scope["method"] not in SAFE_METHODS
        )
        if changes_state and _is_foreign(scope):
            await _refuse(scope, receive, send, "Cross-origin request refused.", 403)
        else:
            await self.app(scope, receive, send)


def _is_foreign(scope: Scope) -> bool:
    """Browsers send Origin with every POST; programs such as gradio_client send none."""
    if _header(scope, "sec-fetch-site").lower() == "cross-site":
        return True
    origin = _header(scope, "origin")
    return bool(origin) and urlsplit(origin).netloc.lower() != _header(scope, "host").lower()


def _header(scope: Scope, name: str) -> str:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return next((v.decode("latin-1") for k, v in headers if k.lower() == name.encode()), "")


def _host_name(host: str) -> str:
    """`[::1]:7860` → `::1`, `LocalHost:7860` → `localhost`; empty when it is not a host."""
    match = HOST.fullmatch(host.lower())
    return (match["address"] or match["name"]) if match else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _refuse(scope: Scope, receive: Receive, send: Send, sentence: str, status: int) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": sentence})
    else:
        await PlainTextResponse(sentence, status)(scope, receive, send)
