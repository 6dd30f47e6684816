"""The command line: which commands there are, and how the program starts and ends."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from acestep.cli.config import config_group
from acestep.cli.jobs import make, plan, run, understand
from acestep.cli.models import DoctorCommand, doctor, models
from acestep.cli.options import GroupedCommand, RequestCommand, ServiceCommand, expanded
from acestep.cli.page import OpenPage, open_page, ui
from acestep.cli.recipes import ReplayCommand, info, replay
from acestep.cli.terminal import guarded
from acestep.cli.verbs import verbs

if TYPE_CHECKING:
    from acestep.checkpoints.hub import Hub
    from acestep.config import ServiceConfig
    from acestep.engine.engine import Engine

MakeEngine = Callable[["ServiceConfig"], "Engine"]
MakePageEngine = Callable[["ServiceConfig", Path], "Engine"]

EPILOG = """\
An option on the command line wins over its environment variable, that over the file that `acestep
config` shows, and that over the default.

\b
Examples:
  acestep                                      open the page
  acestep generate --caption "lo-fi beat"      make a song
  acestep COMMAND --help                       all options of a command
"""
CONTEXT = {
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
        if not args or (args[0].startswith("-") and args[0] not in CONTEXT["help_option_names"]):
            args = ["ui", *args]
        return super().parse_args(ctx, args)


@dataclass(frozen=True)
class Program:
    """What commands reach the rest of the package through (`ctx.obj`); tests bring their own.

    Attributes:
        make_engine: an engine that runs the service in this process and keeps no jobs.
        make_page_engine: one that runs it in another, and keeps its jobs in a folder.
        hub: where models come from; None is the Hugging Face Hub.
        config: the settings of the service; None is `ServiceConfig`.
    """

    make_engine: MakeEngine
    make_page_engine: MakePageEngine
    open_page: OpenPage
    hub: "Hub | None"
    config: "type[ServiceConfig] | None"

    @property
    def config_class(self) -> "type[ServiceConfig]":
        if self.config is not None:
            return self.config
        from acestep.config import ServiceConfig

        return ServiceConfig


def make_engine(config: "ServiceConfig") -> "Engine":
    """An engine in this process; its service imports torch when it loads."""
    from acestep.engine.local import LocalEngine
    from acestep.engine.runner import InProcessRunner
    from acestep.engine.table import JobTable

    return LocalEngine(InProcessRunner(), JobTable.in_memory(), Path(), config)


def make_page_engine(config: "ServiceConfig", output_dir: Path) -> "Engine":
    """An engine whose service runs in a process of its own, so that its end is not the page's."""
    from acestep.engine.local import LocalEngine
    from acestep.engine.runner import ChildRunner
    from acestep.engine.table import JobTable

    return LocalEngine(ChildRunner(), JobTable.open(output_dir), output_dir, config)


def build_app(
    make_engine: MakeEngine = make_engine,
    make_page_engine: MakePageEngine = make_page_engine,
    open_page: OpenPage = open_page,
    hub: "Hub | None" = None,
    config: "type[ServiceConfig] | None" = None,
) -> typer.Typer:
    """The commands around a way to get engines, to open the page and to fetch models."""
    program = Program(make_engine, make_page_engine, open_page, hub, config)
    app = typer.Typer(
        cls=DefaultGroup,
        add_completion=False,
        rich_markup_mode=None,  # importing rich takes longer than all the rest
        context_settings={**CONTEXT, "obj": program},
        help="A local music studio: captions and lyrics become finished 48 kHz songs.",
        epilog=EPILOG,
    )
    for verb, purpose in verbs().items():
        app.command(verb, cls=RequestCommand, help=purpose)(expanded(guarded(make)))
    for function in (ui, plan, run, understand):
        app.command(cls=ServiceCommand)(expanded(guarded(function)))
    app.command(cls=ReplayCommand)(expanded(guarded(replay)))
    app.command(cls=GroupedCommand)(expanded(guarded(info)))
    app.command(cls=DoctorCommand)(expanded(guarded(doctor)))
    app.add_typer(models())
    app.add_typer(config_group())
    app.command()(version)
    return app


def version() -> None:
    """Print the version."""
    from acestep import __version__

    print(__version__)


def main() -> None:
    """Run the command line on this process's arguments."""
    # Before anything imports gradio or huggingface_hub, which read these once.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    sys.exit(build_app()())
