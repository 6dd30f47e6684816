"""Requests become files: the verbs of the tasks, `run`, `plan` and `understand`."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acestep.cli.dry_run import OUTPUTS, DryRun, weigh, weigh_lines
from acestep.cli.options import REQUEST_FIELDS, read_files, read_text, task_of
from acestep.cli.requests import job_lines, read_request
from acestep.cli.settings import service_config
from acestep.cli.terminal import (
    INTERRUPTED,
    Output,
    ProgressLine,
    attempt,
    interruptible,
    progress_line,
)
from acestep.errors import InvalidRequest

if TYPE_CHECKING:
    from acestep.config import ServiceConfig
    from acestep.engine.engine import Change, Engine
    from acestep.engine.jobs import Action, Outcome
    from acestep.progress import CancelToken
    from acestep.request import MusicRequest
    from acestep.request.asked import Asked

PARTIAL = 8  # exit code: some jobs of several failed

Out = Annotated[
    str,
    typer.Option(
        "--out",
        metavar="FILE|DIR",
        envvar="ACESTEP_OUTPUT_DIR",
        show_envvar=True,
        help="A new file, whose suffix sets the format, or a folder that numbers its songs.",
    ),
]


class Client:
    """Submits jobs to an engine and waits for each; says on the terminal how far it is."""

    def __init__(self, engine: "Engine", line: ProgressLine, cancel: "CancelToken") -> None:
        self.line = line
        self.cancel = cancel
        self._engine = engine

    def do(self, request: "Asked", action: "Action" = "render", out: str = "") -> "Outcome":
        """What comes of a job.

        Raises:
            AceStepError: why there is none.
        """
        with self._followed() as changed:
            job = self._engine.submit(request, action=action, out=out)
            is_cancelled = False
            while not (job := self._engine.job(job.id)).is_over:
                if self.cancel.cancelled and not is_cancelled:
                    is_cancelled = True
                    self._engine.cancel(job.id)
                changed.wait(0.1)  # a bounded wait lets Windows deliver Ctrl+C
                changed.clear()
        self.line.close()
        if job.failure is not None:
            raise job.failure.to_error()
        assert job.outcome is not None, "a job that is done has an outcome"
        return job.outcome

    @contextmanager
    def _followed(self) -> Iterator[threading.Event]:
        """Progress goes to the terminal; the event is set with every change."""
        changed = threading.Event()

        def listen(change: "Change") -> None:
            self._show(change)
            changed.set()

        stop = self._engine.subscribe(listen)
        try:
            yield changed
        finally:
            stop()

    def _show(self, change: "Change") -> None:
        from acestep.engine.jobs import Job

        events = change.events if isinstance(change, Job) else [change.loading]
        if events and (latest := events[-1]) is not None:
            self.line(latest)


@contextmanager
def client(ctx: typer.Context, config: "ServiceConfig | None" = None) -> Iterator[Client]:
    """A client of an engine in this process, whose job the first Ctrl+C cancels."""
    engine: Engine = ctx.obj.make_engine(config or service_config(ctx))
    try:
        with interruptible() as cancel, progress_line() as line:
            yield Client(engine, line, cancel)
    finally:
        engine.close()


def make(
    ctx: typer.Context, *, out: Out = OUTPUTS, dry_run: DryRun = False, output: Output
) -> None:
    """Render the request of a task whose verb this is."""
    assert ctx.info_name is not None
    task = task_of(ctx.info_name)
    request = task.model_validate(read_files(task, ctx.meta[REQUEST_FIELDS]))
    act = weigh if dry_run else render
    act(ctx, request, out, output)


def understand(
    ctx: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(metavar="SONG", help="A song or any other recording.")],
    output: Output,
) -> None:
    """Say what the 5Hz LM hears in a song: its tempo, key ..."""
    from acestep.request.asked import Recording

    with client(ctx) as engine:
        heard = engine.do(Recording(source_audio=file), "understand").plan or {}
    data = {name: value for name, value in heard.items() if name != "codes"}
    known = [f"{name}: {value}" for name, value in data.items() if value not in (None, "")]
    output.result(data, "\n".join(known) or "Nothing was understood.")


def plan(
    ctx: typer.Context,
    *,
    file: Annotated[
        Path, typer.Argument(metavar="REQUEST.json", help="A request, or a recipe beside a song.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Write the request with its plan here, to be edited and given to `acestep run`.",
        ),
    ] = None,
    output: Output,
) -> None:
    """Show what the 5Hz LM would plan, as JSON, without rendering it."""
    from acestep.media.files import write_file

    request = read_request(read_text("file", "file", file), str(file))
    with client(ctx) as engine:
        data = engine.do(request, "plan").plan
    if out is not None:
        asked = request.model_dump(mode="json", exclude_defaults=True)
        whole = {"task": request.name, **asked, "plan": data}
        write_file(out, json.dumps(whole, ensure_ascii=False, indent=2).encode())
    output.result(data or {}, json.dumps(data, ensure_ascii=False))


def run(
    ctx: typer.Context,
    *,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="REQUEST.json|JOBS.jsonl",
            help="A request, a recipe beside a song, or one request per line.",
        ),
    ],
    out: Out = OUTPUTS,
    dry_run: DryRun = False,
    output: Output,
) -> None:
    """Run any request from a JSON file, or many from a JSONL file."""
    text = read_text("file", "file", file)
    if file.suffix.lower() == ".jsonl":
        act = weigh_lines if dry_run else run_lines
        act(ctx, text, out, output)
    else:
        act = weigh if dry_run else render
        act(ctx, read_request(text, str(file)), out, output)


def render(ctx: typer.Context, request: "MusicRequest", out: str, output: Output) -> None:
    """Render one request and say what came of it."""
    with client(ctx) as engine:
        report = outcome_report(engine.do(request, out=out))
    for sentence in report["warnings"]:
        output.note(f"Note: {sentence}")
    output.result(report, summary(report))


def run_lines(ctx: typer.Context, text: str, out: str, output: Output) -> None:
    """Render every line; a line that fails is reported and the others go on."""
    from acestep.library.output_paths import Destination

    if Destination.parse(out).is_file:
        raise InvalidRequest("out", f"Several jobs need a folder: {out} is a file name.")
    lines = job_lines(text)
    ended: list[dict[str, Any]] = []
    with client(ctx) as engine:
        for number, line in lines:
            ended.append({"line": number, **run_line(engine, line, out)})
            output.note(f"Line {number}: {_said(ended[-1])}")
            if engine.cancel.cancelled:
                break
        is_cancelled = engine.cancel.cancelled
    finish_lines(ended, len(lines), output, is_cancelled=is_cancelled)


def run_line(engine: Client, line: str, out: str) -> dict[str, Any]:
    """What `--json` prints for one line: what came of it, or why nothing did."""
    ended = attempt(lambda: outcome_report(engine.do(read_request(line, "The line"), out=out)))
    engine.line.close()
    return ended if isinstance(ended, dict) else {"error": ended.model_dump()}


def _said(ended: Mapping[str, Any]) -> str:
    return ended["error"]["message"] if "error" in ended else ", ".join(ended["files"])


def finish_lines(
    jobs: list[dict[str, Any]], total: int, output: Output, *, is_cancelled: bool
) -> None:
    """Say what became of the jobs, as an exit code too."""
    codes = [job["error"]["exit_code"] for job in jobs if "error" in job]
    done = len(jobs) - len(codes)
    text = f"{done} of {total} jobs done."
    output.result({"jobs": jobs, "done": done, "failed": len(codes), "total": total}, text)
    if is_cancelled:
        raise typer.Exit(INTERRUPTED)
    if codes:
        raise typer.Exit(PARTIAL if done else codes[0])


def outcome_report(outcome: "Outcome") -> dict[str, Any]:
    """What `--json` prints for one rendered request."""
    from acestep.media.audio import CHANNELS, SAMPLE_RATE

    first = outcome.takes[0]
    loading, total = (outcome.seconds.get(name, 0.0) for name in ("loading", "total"))
    seconds = {"loading": loading, **first.seconds, "total": total}
    warnings = dict.fromkeys(sentence for take in outcome.takes for sentence in take.warnings)
    return {
        "files": [take.path for take in outcome.takes if take.path],
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "seed": first.seed,
        "seeds": [take.seed for take in outcome.takes],
        "duration": first.duration,
        "sample_rate": SAMPLE_RATE,
        "channels": CHANNELS,
        "model": outcome.model,
        "device": outcome.device,
        "warnings": list(warnings),
        "reports": [
            {**take.report, "sentences": take.said}
            for take in outcome.takes
            if take.report is not None
        ],
    }


def summary(report: dict[str, Any]) -> str:
    """The same for people: a file first, because that is what one copies, then what an edit did."""
    lines: list[str] = []
    edits = report["reports"] or [{"sentences": []} for _ in report["files"]]
    for file, seed, edit in zip(report["files"], report["seeds"], edits, strict=True):
        lines.append(f"{file}  {report['duration']:.1f} s, seed {seed}")
        lines += [f"  {sentence}" for sentence in edit["sentences"]]
    *stages, (_, total) = report["seconds"].items()
    spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in stages)
    made = f"Made in {total:.1f} s with {report['model']} on {report['device']}"
    return "\n".join([*lines, f"{made} ({spent})." if spent else f"{made}."])
