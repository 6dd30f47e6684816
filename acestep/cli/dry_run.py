"""`--dry-run`: what a song would take of the memory, and how long, without making it. Loads nothing
and imports no torch."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acestep.cli.requests import job_lines, read_request
from acestep.cli.settings import service_config
from acestep.cli.terminal import Output, attempt
from acestep.errors import OutOfMemory

if TYPE_CHECKING:
    from acestep.config import ServiceConfig
    from acestep.engine.engine import Engine
    from acestep.request import MusicRequest

    Weigh = Callable[[MusicRequest], dict[str, Any]]

OUTPUTS = "outputs"  # where songs go by themselves
NO_HISTORY = "How long it takes is not known: no song like it has been made here."
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what it takes of the memory, and how long by what was made here; make nothing. "
        "[default: no]",
    ),
]


def weigh(
    ctx: typer.Context,
    request: "MusicRequest",
    out: str,
    output: Output,
    config: "ServiceConfig | None" = None,
) -> None:
    """Say what a request would take."""
    with weighing(ctx, out, config) as weighed:
        report = weighed(request)
    output.result(report, weight_text(report))
    if not report["fits"]:
        raise typer.Exit(OutOfMemory.exit_code)


def weigh_lines(ctx: typer.Context, text: str, out: str, output: Output) -> None:
    """Say what every line would take; one that is no request is told with the others."""
    jobs: list[dict[str, Any]] = []
    words: list[str] = []
    with weighing(ctx, out) as weighed:
        for number, line in job_lines(text):
            told = attempt(functools.partial(_line, weighed, line))
            if not isinstance(told, dict):
                told = {"error": told.model_dump()}
            jobs.append({"line": number, **told})
            said = told["error"]["message"] if "error" in told else weight_text(told)
            words.append(f"Line {number}: {said}")
    output.result({"jobs": jobs}, "\n".join(words))
    codes = [job["error"]["exit_code"] for job in jobs if "error" in job]
    codes += [OutOfMemory.exit_code for job in jobs if not job.get("fits", True)]
    if codes:
        raise typer.Exit(codes[-1])


@contextmanager
def weighing(
    ctx: typer.Context, out: str, config: "ServiceConfig | None" = None
) -> "Iterator[Weigh]":
    """What says of a request what it takes; how long, by the songs that lie in `out`."""
    from acestep.engine.estimates import estimated
    from acestep.engine.models import Checkpoints
    from acestep.engine.recovery import jobs_of_songs

    settings = config or service_config(ctx)
    engine: Engine = ctx.obj.make_engine(settings)
    done = jobs_of_songs(Path(out) if Path(out).is_dir() else Path(OUTPUTS))

    def weighed(request: "MusicRequest") -> dict[str, Any]:
        memory = engine.memory(settings, request)
        preset = Checkpoints(settings.checkpoints).preset(settings.model)
        estimate = estimated(done, request, settings.model, preset)
        return {**memory.model_dump(), "seconds": estimate.seconds, "expected": estimate.sentence}

    try:
        yield weighed
    finally:
        engine.close()


def weight_text(report: Mapping[str, Any]) -> str:
    """The same for people: the plan, what each stage takes, what is given up, and how long."""
    from acestep.checkpoints.files import size_text

    width = max(map(len, report["stages"]), default=0)
    stages = [f"  {stage:{width}}  {size_text(size)}" for stage, size in report["stages"].items()]
    traded = report["traded"] if report["fits"] else []
    return "\n".join([report["sentence"], *stages, *traded, report["expected"] or NO_HISTORY])


def _line(weighed: "Weigh", line: str) -> dict[str, Any]:
    return weighed(read_request(line, "The line"))
