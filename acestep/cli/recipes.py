"""`info` and `replay`: what a finished file says about itself, and making it again."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from acestep.cli.generate import Service, describe, parse
from acestep.cli.options import ServiceOptions
from acestep.cli.terminal import Output, interruptible, progress_line
from acestep.errors import AudioError

Song = Annotated[Path, typer.Argument(metavar="FILE", help="A song made by acestep.")]


@dataclass(frozen=True)
class ReplayOptions(ServiceOptions):
    """The same, but the recipe chooses the model."""

    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="Main model. [default: the one in the recipe]",
            rich_help_panel="Models",
        ),
    ] = None


def info(*, file: Song, output: Output) -> None:
    """Print the recipe inside a song."""
    from acestep.library.recipe import read_recipe

    recipe = read_recipe(file)
    output.result(recipe, "\n".join(recipe_lines(recipe)))


def recipe_lines(recipe: dict[str, Any]) -> list[str]:
    """A recipe for people: what was asked, then what made it, then the words."""
    request = recipe["request"]
    asked = {name: value for name, value in request.items() if name not in ("lyrics", "plan")}
    models = recipe.get("models", {}).values()
    made = {
        "take": recipe.get("take"),
        "models": ", ".join(map(_said, models)),
        "device": recipe.get("device"),
        "dtype": recipe.get("dtype"),
        "versions": ", ".join(f"{name} {at}" for name, at in recipe.get("versions", {}).items()),
        "sha256": recipe.get("sha256"),
    }
    lines = [
        f"{name}: {value}" for name, value in (asked | made).items() if value not in (None, "")
    ]
    return [*lines, "", request.get("lyrics", "")]


def replay(
    ctx: typer.Context,
    *,
    file: Song,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE|DIR", help="Also save the new rendering here. [default: no]"
        ),
    ] = None,
    service: ReplayOptions,
    output: Output,
) -> None:
    """Make a song again from its recipe; is it identical?"""
    from acestep.library.output_paths import Destination
    from acestep.library.recipe import read_recipe

    recipe = read_recipe(file)
    if missing := {"models", "sha256", "take"} - recipe.keys():
        raise AudioError(f"The recipe in {file.name} cannot be replayed: no {min(missing)} in it.")
    request = parse(recipe["request"])
    destination = None if out is None else Destination.parse(out)
    if destination is not None:
        request = destination.formatted(request, chosen=False)
        destination.reserve(1)
    is_planned = request.to_plan(has_planner=True) is None  # the plan is in the recipe
    options = replace(
        service,
        model=service.model or recipe["models"]["dit"]["name"],
        lm="none" if is_planned else service.lm,
    )
    started = time.perf_counter()
    with interruptible() as cancel, progress_line() as line:
        renderer: Service = ctx.obj.load_service(options, line)
        loaded = time.perf_counter()
        # All takes, because a batch of one is not computed in quite the same order.
        track = renderer.run(request, line, cancel)[recipe["take"]]
        files = [] if destination is None else destination.save([track])
    report = describe(renderer, [track], files, loaded - started, time.perf_counter() - started)
    identical = recipe["sha256"] == track.recipe["sha256"]
    reasons = [] if identical else differences(recipe, track.recipe)
    verdict = "identical" if identical else f"Not identical: {'; '.join(reasons)}."
    report |= {"identical": identical, "differences": reasons}
    output.result(report, "\n".join([*map(str, files), verdict]))
    if not identical:
        raise typer.Exit(1)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Why two renderings of one request may differ, likeliest first."""
    facts = [
        (f"the {part} model", model, after["models"].get(part))
        for part, model in before["models"].items()
    ]
    facts += [(name, before.get(name), after[name]) for name in ("device", "dtype")]
    versions = before.get("versions", {})
    facts += [(name, versions.get(name), version) for name, version in after["versions"].items()]
    reasons = [
        f"{name} was {_said(was)}, is {_said(now)}" for name, was, now in facts if was != now
    ]
    return reasons or ["no difference is on record; the processor or a driver may be another"]


def _said(fact: Any) -> str:
    """A model by its name and enough of its fingerprint to tell two apart."""
    return f"{fact['name']} ({fact['fingerprint'][:12]})" if isinstance(fact, dict) else str(fact)
