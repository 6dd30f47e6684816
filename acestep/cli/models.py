"""`models` and `doctor`: what is on this computer and what could be."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acestep.checkpoints.files import size_text
from acestep.cli.options import ServiceCommand, expanded
from acestep.cli.settings import service_config
from acestep.cli.terminal import Output, guarded, interruptible, progress_line
from acestep.errors import Cancelled, CheckpointError
from acestep.ui import DEFAULT_HOST, DEFAULT_PORT

if TYPE_CHECKING:
    from acestep.checkpoints.download import DownloadPlan, DownloadProgress
    from acestep.checkpoints.locate import Checkpoints, Installed

DECLINED = 6  # exit code: the user said no
CHECK_MARKS = {"ok": "✔", "warn": "!", "fail": "✘"}
STATE_MARKS = {"ready": "✔", "incomplete": "!", "missing": " "}

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name from `acestep models list`.")]


class ModelsCommand(ServiceCommand):
    """A command that looks at folders of models and runs none."""

    only = ("checkpoints",)


class LorasCommand(ServiceCommand):
    """A command that looks at adapters and at the model that they should fit."""

    only = ("model", "checkpoints")


class DoctorCommand(ServiceCommand):
    """A command that looks at models and at what would run them."""

    only = ("device", "checkpoints")


def models() -> typer.Typer:
    """The `models` group."""
    app = typer.Typer(
        name="models",
        rich_markup_mode=None,
        no_args_is_help=True,
        help="List, fetch and check models.",
    )
    for name, function in (
        ("list", list_models),
        ("download", download),
        ("verify", verify),
        ("path", path),
    ):
        app.command(name, cls=ModelsCommand)(expanded(guarded(function)))
    app.command("loras", cls=LorasCommand)(expanded(guarded(list_loras)))
    return app


def list_models(ctx: typer.Context, *, output: Output) -> None:
    """List the models that are here or can be downloaded."""
    installed = checkpoints(ctx).installed()
    rows = [asdict(model) for model in installed]
    output.result({"models": rows}, "\n".join(table(installed)))


def table(installed: "Sequence[Installed]") -> list[str]:
    """One line per model, then what the marks mean."""
    from acestep.checkpoints.files import KIND_NAMES

    width = max(len(model.name) for model in installed)
    lines = []
    for model in installed:
        size = "" if model.size is None else size_text(model.size)
        kind = KIND_NAMES[model.kind] if model.kind else "unknown"
        about = model.problems[0] if model.problems else model.description
        mark = STATE_MARKS[model.state]
        lines.append(f"{mark} {model.name:{width}}  {size:>8}  {kind:18}  {about}".rstrip())
    return [*lines, "", "✔ is here   ! cannot be used   others: acestep models download NAME"]


def list_loras(ctx: typer.Context, *, output: Output) -> None:
    """List the adapters of the LoRA folder, and whether they fit the model."""
    from acestep.engine.models import lora_folder, loras

    model = service_config(ctx).model
    places = checkpoints(ctx)
    folder, rows = lora_folder(places), loras(places, model)
    width = max((len(row.name) for row in rows), default=0)
    lines = [
        f"{STATE_MARKS['incomplete' if row.problem else 'ready']} {row.name:{width}}  "
        f"{row.problem or row.about}"
        for row in rows
    ]
    lines = [*lines, "", f"✔ fits {model}   ! cannot be used with it"] if rows else []
    data = {"folder": folder, "model": model, "loras": [row.model_dump() for row in rows]}
    output.result(data, "\n".join(lines) or f"No LoRA is in {folder}.")


def download(
    ctx: typer.Context,
    *,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. [default: ask]")] = False,
    output: Output,
) -> None:
    """Download a model; an interrupted download goes on where it stopped."""
    from acestep.checkpoints.download import download, plan_download

    planned = plan_download(name, checkpoints(ctx), ctx.obj.hub)
    for line in plan_lines(planned):
        output.note(line)
    if planned.missing and not (yes or agreed()):
        output.note("Nothing was downloaded.")
        raise typer.Exit(DECLINED)
    with interruptible() as cancel, progress_line() as line:

        def report(progress: "DownloadProgress") -> None:
            if cancel.cancelled:
                raise Cancelled("Stopped. The next download goes on from here.")
            done, total = size_text(progress.done), size_text(progress.total)
            line.show(progress.file, f"{done} of {total}")

        folder = download(planned, report, ctx.obj.hub)
    data = {"name": name, "folder": folder, "bytes": planned.size}
    output.result(data, f"{name} is in {folder}, and every file was checked.")


def plan_lines(plan: "DownloadPlan") -> list[str]:
    """What a download will fetch, from where, and whether it fits."""
    lines = []
    for model in plan.models:
        source = "/".join(part for part in (model.repo, model.subfolder) if part)
        lines.append(f"{source} (commit {model.commit[:12]}) → {model.folder}")
        for file in model.files:
            here = "  in the cache" if file.cached else ""
            if file.present:
                here = f"  {size_text(file.present)} here already"
            lines.append(f"  {size_text(file.remote.size):>8}  {file.target.name}{here}")
    missing, size, free = (size_text(n) for n in (plan.missing, plan.size, plan.free))
    return [*lines, f"{missing} of {size} to fetch, {free} free on the disk."]


def agreed() -> bool:
    try:
        return typer.confirm("Download?", default=True, err=True)
    except typer.Abort:  # nobody is there to answer
        typer.echo("\nAdd --yes to download without being asked.", err=True)
        return False


def verify(
    ctx: typer.Context,
    *,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Which. [default: all here]")
    ] = None,
    output: Output,
) -> None:
    """Read every file of models again and compare it with its checksum."""
    from acestep.checkpoints import download

    places = checkpoints(ctx)
    folders = [places.find(name) or places.resolve(name) for name in names or ()]
    if not names:
        folders = [model.folder for model in places.installed() if model.folder is not None]
    checked: list[dict[str, Any]] = []
    with progress_line() as line:
        for folder in folders:
            wrong = download.verify(folder, places, lambda p: line.show(p.file, size_text(p.done)))
            checked.append({"name": folder.name, "folder": folder, "problems": wrong})
    lines = [
        f"! {model['name']}: {' '.join(model['problems'])}"
        if model["problems"]
        else f"✔ {model['name']}"
        for model in checked
    ]
    output.result({"models": checked}, "\n".join(lines) or "No model is here.")
    if any(model["problems"] for model in checked):
        raise typer.Exit(CheckpointError.exit_code)


def path(ctx: typer.Context, *, name: Name, output: Output) -> None:
    """Print the folder of a model."""
    folder = checkpoints(ctx).resolve(name)
    output.result({"name": name, "folder": folder}, str(folder))


def checkpoints(ctx: typer.Context) -> "Checkpoints":
    from acestep.checkpoints.locate import Checkpoints

    return Checkpoints(service_config(ctx).checkpoints)


def doctor(ctx: typer.Context, *, output: Output) -> None:
    """Look at everything a song needs here, and say what to do about what lacks."""
    from acestep.doctor import examine

    device = service_config(ctx).device
    checks = examine(checkpoints(ctx), device=device, host=DEFAULT_HOST, port=DEFAULT_PORT)
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{CHECK_MARKS[check.status]} {check.name:{width}}  {check.detail}")
        if check.advice:
            lines.append(f"  {'':{width}}  → {check.advice}")
    output.result({"checks": [asdict(check) for check in checks]}, "\n".join(lines))
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(CheckpointError.exit_code)
