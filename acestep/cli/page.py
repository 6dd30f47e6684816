"""`ui`: the page in the browser."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from acestep.cli.settings import service_config
from acestep.cli.terminal import Output
from acestep.errors import InvalidRequest
from acestep.ui import DEFAULT_HOST, DEFAULT_PORT

if TYPE_CHECKING:
    from acestep.ui.app import RunningPage

OpenPage = Callable[..., "RunningPage"]


def ui(
    ctx: typer.Context,
    *,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            envvar="ACESTEP_HOST",
            show_envvar=True,
            help=f"Address to listen on; 0.0.0.0 is every network. [default: {DEFAULT_HOST}]",
            rich_help_panel="Server",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=65535,
            envvar="ACESTEP_PORT",
            show_envvar=True,
            help=f"Port to listen on. [default: {DEFAULT_PORT}, or the next one that is free]",
            rich_help_panel="Server",
        ),
    ] = None,
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="Make a public link through Gradio's servers; needs --auth. [default: no]",
            rich_help_panel="Server",
        ),
    ] = False,
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="USER:PASSWORD",
            help="Ask for this; needed when others can reach the page. [default: none]",
            rich_help_panel="Server",
        ),
    ] = None,
    open_browser: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open",
            help="Open the browser. [default: open when there is a desktop]",
            rich_help_panel="Server",
        ),
    ] = None,
    output_dir: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            envvar="ACESTEP_OUTPUT_DIR",
            show_envvar=True,
            help="Where songs are saved.",
            rich_help_panel="Output",
        ),
    ] = Path("outputs"),
    output: Output,
) -> None:
    """Open the page in the browser (also: acestep alone)."""
    chosen: dict[str, Any] = {} if host is None else {"host": host}
    config = service_config(ctx)
    page = ctx.obj.open_page(
        make_engine=lambda: ctx.obj.make_page_engine(config, output_dir),
        config_class=ctx.obj.config_class,
        output_dir=output_dir,
        port=port,
        share=share,
        auth=None if auth is None else credentials(auth),
        open_browser=has_desktop() if open_browser is None else open_browser,
        **chosen,
    )
    at = urlsplit(page.url).port
    if port is None and at not in (None, DEFAULT_PORT):  # a shared link has no port
        output.note(f"Port {DEFAULT_PORT} is in use; using {at}.")
    output.result({"url": page.url}, f"ACE-Step is at {page.url} (Ctrl+C stops it)")
    page.wait()


def open_page(**options: Any) -> "RunningPage":
    """The real page; imports gradio."""
    from acestep.ui.app import launch

    return launch(**options)


def credentials(auth: str) -> tuple[str, str]:
    """User and password; the password may contain colons.

    Raises:
        InvalidRequest: one of them is missing.
    """
    user, _, password = auth.partition(":")
    if not user or not password:
        raise InvalidRequest("auth", "Write --auth as USER:PASSWORD.")
    return user, password


def has_desktop() -> bool:
    """Whether a browser that opens here would be seen."""
    if sys.platform in ("win32", "darwin"):
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
