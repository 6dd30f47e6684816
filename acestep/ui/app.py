"""Opens the page on a port: the port first, then the engine, then the page, which takes seconds.

Imports no gradio: something truthful answers on the port at once. Prints nothing and reads no
environment.
"""

import errno
import os
import secrets
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvicorn
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from acestep.config import ServiceConfig
from acestep.engine.engine import Engine
from acestep.errors import PortBusy, Unavailable
from acestep.ui import DEFAULT_HOST, DEFAULT_PORT
from acestep.ui.guard import LOOPBACK_HOSTS, HostGuard, OriginGuard
from acestep.ui.splash import Doorway

PORTS_TRIED = 100  # from the default one up, when nobody named a port
BACKLOG = 128
SHARE_DOMAIN = ".gradio.live"
HANGING_UP = 3  # seconds that open connections get to end in
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class RunningPage:
    """A page that is up at `url` until it is closed."""

    url: str
    engine: Engine
    _doorway: Doorway
    _server: uvicorn.Server
    _thread: threading.Thread
    _closed: threading.Event = field(default_factory=threading.Event)

    def until_ready(self, seconds: float) -> None:
        """Block until the page has taken the splash's place.

        Raises:
            TimeoutError: it takes longer.
        """
        if not self._doorway.decided.wait(seconds):
            raise TimeoutError(f"The page was not built within {seconds:g} s.")
        if self._doorway.error is not None:
            raise self._doorway.error

    def wait(self) -> None:
        """Block until another thread closes the page, or Ctrl+C does. What kept the page from
        being built is raised here."""
        try:
            while not self._closed.wait(1.0):  # a bounded wait lets Windows deliver Ctrl+C
                if self._doorway.error is not None:
                    raise self._doorway.error
        finally:
            self.close()

    def close(self) -> None:
        """Free the port and cancel what runs."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._server.should_exit = True
        self._doorway.hang_up()
        self._thread.join()
        self.engine.close()


def launch(
    make_engine: Callable[[], Engine],
    *,
    output_dir: Path,
    config_class: type[ServiceConfig] = ServiceConfig,
    host: str = DEFAULT_HOST,
    port: int | None = None,
    share: bool = False,
    auth: tuple[str, str] | None = None,
    allowed_hosts: Collection[str] = (),
    open_browser: bool = False,
) -> RunningPage:
    """Open the page on a port, around an engine that is made beside it.

    Args:
        make_engine: called once the port is ours, before anything slow, so that the engine's
            process starts while the page is built.
        config_class: the settings that Service Configuration shows.
        port: None takes 7860 or, when that is busy, the next free one.
        auth: user and password; required as soon as others can reach the page.
        allowed_hosts: further names the page may be called by (a reverse proxy's, say).

    Raises:
        PortBusy: the named port is taken, or all of the default ones.
        Unavailable: the page would be open to others without a password, cannot listen on this
            address, or no public link could be made.
    """
    if auth is None and (share or not _is_loopback(host)):
        raise Unavailable(
            "Others could reach this page and it has no password. Add --auth USER:PASSWORD."
        )
    output_dir = output_dir.resolve()
    listener = _listen(host, port)
    number: int = listener.getsockname()[1]
    try:
        engine = make_engine()
        engine.configure(engine.state.config)  # loads, for the first song not to wait for it
    except BaseException:
        listener.close()
        raise

    def build() -> tuple[ASGIApp, AbstractAsyncContextManager[object]]:
        from acestep.ui import page  # imports gradio

        return page.mount(engine, config_class, output_dir, auth)

    doorway = Doorway(build)
    app: ASGIApp = doorway
    for guard in reversed(guards(host, allowed_hosts, share=share)):
        app = guard.cls(app, *guard.args, **guard.kwargs)
    server = uvicorn.Server(
        uvicorn.Config(
            app, lifespan="on", log_level="warning", timeout_graceful_shutdown=HANGING_UP
        )
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="acestep-server", daemon=True
    )
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(POLL_SECONDS)
    running = RunningPage(_url(host, number), engine, doorway, server, thread)
    if share:
        try:
            running = replace(running, url=public_link(host, number))
        except Unavailable:
            running.close()
            raise
    if open_browser:
        webbrowser.open(running.url)
    return running


def guards(host: str, allowed_hosts: Collection[str] = (), *, share: bool) -> list[Middleware]:
    """Who may be spoken to and who may speak, for a page bound to `host`."""
    names = [*LOOPBACK_HOSTS, host, *allowed_hosts, *([SHARE_DOMAIN] if share else [])]
    return [
        Middleware(HostGuard, allowed_hosts=names, allow_addresses=not _is_loopback(host)),
        Middleware(OriginGuard),
    ]


def public_link(host: str, port: int) -> str:
    """The address of a tunnel to this page through Gradio's servers. It ends with the program.

    Raises:
        Unavailable: with the reason.
    """
    import httpx
    from gradio import networking
    from gradio.exceptions import ChecksumMismatchError, ShareCertificateWriteError

    try:
        return networking.setup_tunnel(host, port, secrets.token_urlsafe(32), None, None)
    except (
        RuntimeError,
        ValueError,
        OSError,
        httpx.HTTPError,
        ChecksumMismatchError,
        ShareCertificateWriteError,
    ) as error:
        raise Unavailable(
            f"No public link could be made: {error or type(error).__name__}"
        ) from error


def _is_loopback(host: str) -> bool:
    return host.strip("[]").lower() in LOOPBACK_HOSTS


def _url(host: str, port: int) -> str:
    name = "localhost" if host in ("0.0.0.0", "::") else host.strip("[]")
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


def _listen(host: str, port: int | None) -> socket.socket:
    """The named port or, when none was named, the first free one from 7860 up."""
    candidates = range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED) if port is None else (port,)
    for candidate in candidates:
        try:
            return _bind(host.strip("[]"), candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                why = error.strerror or str(error)
                raise Unavailable(
                    f"The page cannot listen on {host}, port {candidate}: {why}."
                ) from error
    raise PortBusy(
        f"Port {port} is in use. Choose another with --port."
        if port is not None
        else f"Ports {DEFAULT_PORT}–{candidates[-1]} are all in use. Choose one with --port."
    )


def _bind(name: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would share the port with another program
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((name, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
