"""`generate`, `repaint`, `cover`, `run`: requests become files."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from acestep.cli.options import FIELDS, ServiceOptions, read_fields, read_text
from acestep.cli.terminal import INTERRUPTED, Failure, Output, attempt, interruptible, progress_line
from acestep.errors import InvalidRequest

if TYPE_CHECKING:
    from acestep.library.track import Track
    from acestep.progress import CancelToken, Progress
    from acestep.request import MusicRequest, Plan

PARTIAL = 8  # exit code: some jobs of several failed


class Service(Protocol):
    """What commands need of `MusicService`; tests give another."""

    @property
    def model(self) -> str: ...
    @property
    def device_name(self) -> str: ...

    def run(
        self,
        request: "MusicRequest",
        on_progress: "OnProgress | None" = None,
        cancel: "CancelToken | None" = None,
    ) -> "list[Track]": ...

    def plan(
        self,
        request: "MusicRequest",
        on_progress: "OnProgress | None" = None,
        cancel: "CancelToken | None" = None,
    ) -> "Plan": ...

    def understand(
        self,
        source: Path,
        on_progress: "OnProgress | None" = None,
        cancel: "CancelToken | None" = None,
    ) -> "Plan": ...


OnProgress = Callable[["Progress"], None]
LoadService = Callable[[ServiceOptions, OnProgress | None], Service]

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


Source = Annotated[Path, typer.Argument(metavar="SONG", help="A song or any other recording.")]


def generate(
    ctx: typer.Context, *, out: Out = "outputs", service: ServiceOptions, output: Output
) -> None:
    """Turn a caption and lyrics into a song."""
    make(ctx, "text2music", {}, out, service, output)


def repaint(
    ctx: typer.Context,
    *,
    song: Source,
    out: Out = "outputs",
    service: ServiceOptions,
    output: Output,
) -> None:
    """Make a region of a song anew, or add music at its ends.

    Everything outside the region stays bit-identical.
    """
    make(ctx, "repaint", {"source_audio": str(song)}, out, service, output)


def cover(
    ctx: typer.Context,
    *,
    song: Source,
    out: Out = "outputs",
    service: ServiceOptions,
    output: Output,
) -> None:
    """Turn a song into another style that keeps its structure."""
    make(ctx, "cover", {"source_audio": str(song)}, out, service, output)


def make(
    ctx: typer.Context,
    task: str,
    arguments: dict[str, Any],
    out: str,
    service: ServiceOptions,
    output: Output,
) -> None:
    """Render the request of a command that takes its fields as options."""
    from acestep.request import TASKS

    fields = ctx.meta[FIELDS]
    request = TASKS[task].model_validate(arguments | read_fields(fields))
    make_song(ctx.obj.load_service, request, out, service, output, format_chosen="format" in fields)


def understand(
    ctx: typer.Context, *, file: Source, service: ServiceOptions, output: Output
) -> None:
    """Say what the 5Hz LM hears in a song: its tempo, key ..."""
    with interruptible() as cancel, progress_line() as line:
        heard = ctx.obj.load_service(service, line).understand(file, line, cancel)
    data = heard.model_dump(mode="json", exclude={"codes"})
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
    service: ServiceOptions,
    output: Output,
) -> None:
    """Show what the 5Hz LM would plan, as JSON, without rendering it."""
    from acestep.media.files import write_file

    request = parse(request_data(read_text("file", "file", file), str(file))[0])
    with interruptible() as cancel, progress_line() as line:
        planned = ctx.obj.load_service(service, line).plan(request, line, cancel)
    data = planned.model_dump(mode="json")
    if out is not None:
        asked = request.model_dump(mode="json", exclude_unset=True)
        whole = {"task": "text2music", **asked, "plan": data}
        write_file(out, json.dumps(whole, ensure_ascii=False, indent=2).encode())
    output.result(data, json.dumps(data, ensure_ascii=False))


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
    out: Out = "outputs",
    service: ServiceOptions,
    output: Output,
) -> None:
    """Run any request from a JSON file, or many from a JSONL file."""
    text = read_text("file", "file", file)
    if file.suffix.lower() == ".jsonl":
        run_jobs(ctx.obj.load_service, text, out, service, output)
        return
    data, is_recipe = request_data(text, str(file))
    chosen = "format" in data and not is_recipe
    request = parse(data)
    make_song(ctx.obj.load_service, request, out, service, output, format_chosen=chosen)


def make_song(
    load_service: LoadService,
    request: "MusicRequest",
    out: str,
    options: ServiceOptions,
    output: Output,
    *,
    format_chosen: bool,
) -> None:
    """Render one request, save it and say so."""
    from acestep.library.output_paths import Destination

    destination = Destination.parse(out)
    request = destination.formatted(request, chosen=format_chosen)
    destination.reserve(request.takes)
    look_at_source(request)
    started = time.perf_counter()
    with interruptible() as cancel, progress_line() as line:
        service = load_service(options, line)
        loaded = time.perf_counter()
        tracks = service.run(request, line, cancel)
        files = destination.save(tracks)
    report = describe(service, tracks, files, loaded - started, time.perf_counter() - started)
    for sentence in report["warnings"]:
        output.note(f"Note: {sentence}")
    output.result(report, summary(report))


def look_at_source(request: "MusicRequest") -> None:
    """Refuse what the header of a source forbids, before a model is loaded.

    Raises:
        AudioError: it is not audio that can be read.
        InvalidRequest: the song has no such region.
    """
    from acestep.request import Cover, Repaint

    if not isinstance(request, Repaint | Cover):
        return
    from acestep.media.sound_files import probe

    seconds = probe(request.source_audio).seconds
    if isinstance(request, Repaint) and seconds is not None:
        request.regions_of(seconds)


def run_jobs(
    load_service: LoadService, text: str, out: str, options: ServiceOptions, output: Output
) -> None:
    """Render every line; a line that fails is reported and the others go on."""
    from acestep.library.output_paths import Destination

    destination = Destination.parse(out)
    if destination.is_file:
        raise InvalidRequest("out", f"Several jobs need a folder: {out} is a file name.")
    lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise InvalidRequest("file", "The file has no jobs: write one JSON request per line.")
    jobs: list[dict[str, Any]] = []
    with interruptible() as cancel, progress_line() as progress:
        service = load_service(options, progress)

        def job(line: str) -> dict[str, Any]:
            request = parse(request_data(line, "The line")[0])
            started = time.perf_counter()
            tracks = service.run(request, progress, cancel)
            files = destination.save(tracks)
            return describe(service, tracks, files, 0.0, time.perf_counter() - started)

        for number, line in lines:
            ended = attempt(lambda line=line: job(line))
            progress.close()
            failed = isinstance(ended, Failure)
            jobs.append({"line": number, **({"error": asdict(ended)} if failed else ended)})
            said = ended.message if failed else ", ".join(ended["files"])
            output.note(f"Line {number}: {said}")
            if cancel.cancelled:
                break
    finish_jobs(jobs, len(lines), output, is_cancelled=cancel.cancelled)


def finish_jobs(
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


def request_data(text: str, where: str) -> tuple[dict[str, Any], bool]:
    """JSON data of a request, and whether it came from a finished song's recipe.

    Raises:
        InvalidRequest: this is not a JSON object.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidRequest("file", f"{where} is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise InvalidRequest("file", f"{where} is not a request: it must be a JSON object.")
    is_recipe = "recipe" in data and isinstance(data.get("request"), dict)
    return (data["request"], True) if is_recipe else (data, False)


def parse(data: dict[str, Any]) -> "MusicRequest":
    from acestep.request import parse_request

    return parse_request(data)


def describe(
    service: Service, tracks: "Sequence[Track]", files: Sequence[Path], loading: float, total: float
) -> dict[str, Any]:
    """What `--json` prints for one request; `loading` and `total` are seconds."""
    first = tracks[0]
    seconds = {"loading": loading, **first.seconds, "total": total}
    warnings = dict.fromkeys(sentence for track in tracks for sentence in track.warnings)
    return {
        "files": [str(file) for file in files],
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "seed": first.seed,
        "seeds": [track.seed for track in tracks],
        "duration": first.duration,
        "sample_rate": first.sample_rate,
        "channels": len(first.waveform),
        "model": service.model,
        "device": service.device_name,
        "warnings": list(warnings),
        "reports": [
            {**track.report.to_dict(), "sentences": track.report.sentences()}
            for track in tracks
            if track.report is not None
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
