"""The command line: which commands there are, and how the program starts and ends."""

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from acestep.cli.generate import (
    LoadService,
    OnProgress,
    Service,
    cover,
    generate,
    plan,
    repaint,
    run,
    understand,
)
from acestep.cli.models import doctor, models
from acestep.cli.options import (
    CoverCommand,
    GroupedCommand,
    RepaintCommand,
    RequestCommand,
    ServiceOptions,
    expanded,
)
from acestep.cli.page import OpenPage, open_page, ui
from acestep.cli.recipes import info, replay
from acestep.cli.terminal import guarded

if TYPE_CHECKING:
    from acestep.checkpoints.hub import Hub

EPILOG = """\
An option on the command line wins over its environment variable, and that over the default.

\b
Examples:
  acestep                                      open the page
  acestep generate --caption "lo-fi beat"      make a song
  acestep COMMAND --help                       all options of a command
"""
SETTINGS = {
    "help_option_names": ["--help", "-h"],
    "max_content_width": 100,
    "token_normalize_func": lambda token: token.replace("_", "-"),  # --guidance_scale works too
}


class DefaultGroup(TyperGroup):
    """`acestep` and `acestep --port 8000` mean the `ui` command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args in (["version"], ["--version"]):
            version()  # at once: to parse any command, typer imports pydantic
            ctx.exit()
        if not args or (args[0].startswith("-") and args[0] not in SETTINGS["help_option_names"]):
            args = ["ui", *args]
        return super().parse_args(ctx, args)


@dataclass(frozen=True)
class Program:
    """What commands reach the rest of the package through (`ctx.obj`); tests bring their own."""

    load_service: LoadService
    open_page: OpenPage
    hub: "Hub | None"  # None is the Hugging Face Hub


def build_app(
    load_service: LoadService, open_page: OpenPage = open_page, hub: "Hub | None" = None
) -> typer.Typer:
    """The commands around a way to get a service, to open the page and to fetch models."""
    app = typer.Typer(
        cls=DefaultGroup,
        add_completion=False,
        rich_markup_mode=None,  # importing rich takes longer than all the rest
        context_settings={**SETTINGS, "obj": Program(load_service, open_page, hub)},
        help="A local music studio: captions and lyrics become finished 48 kHz songs.",
        epilog=EPILOG,
    )
    app.command(cls=RequestCommand)(expanded(guarded(generate)))
    app.command(cls=RepaintCommand)(expanded(guarded(repaint)))
    app.command(cls=CoverCommand)(expanded(guarded(cover)))
    for function in (ui, plan, run, understand, replay, info, doctor):
        app.command(cls=GroupedCommand)(expanded(guarded(function)))
    app.add_typer(models())
    app.command()(version)
    return app


def version() -> None:
    """Print the version."""
    from acestep import __version__

    print(__version__)


def load_service(options: ServiceOptions, on_progress: OnProgress | None = None) -> Service:
    """The real service; imports torch."""
    from acestep.config import DEFAULT_MODEL
    from acestep.service import AUTO, MusicService

    return MusicService.load(
        options.model or DEFAULT_MODEL,
        lm=None if options.lm == "none" else options.lm or AUTO,
        backend=options.backend,
        device=options.device,
        checkpoints=options.models_dir,
        on_progress=on_progress,
    )


def main() -> None:
    """Run the command line on this process's arguments."""
    # Before anything imports gradio or huggingface_hub, which read these once.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    sys.exit(build_app(load_service)())
