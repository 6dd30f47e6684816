"""`info` and `replay`: what a finished file says about itself, and making it again."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acestep.cli.jobs import client, outcome_report
from acestep.cli.options import SETTINGS, ServiceCommand
from acestep.cli.settings import service_config
from acestep.cli.terminal import Output
from acestep.errors import AudioError

if TYPE_CHECKING:
    from acestep.config import ServiceConfig
    from acestep.request import MusicRequest

Song = Annotated[Path, typer.Argument(metavar="FILE", help="A song made by acestep.")]


class ReplayCommand(ServiceCommand):
    """A command that takes the model from a recipe."""

    defaults = {"model": "the one in the recipe"}  # noqa: RUF012


def info(*, file: Song, output: Output) -> None:
    """Print the recipe inside a song."""
    from acestep.engine.songs import read_recipe

    recipe = read_recipe(file)
    output.result(dict(recipe), "\n".join(recipe_lines(recipe)))


def recipe_lines(recipe: Mapping[str, Any]) -> list[str]:
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
    output: Output,
) -> None:
    """Make a song again from its recipe; is it identical?"""
    from acestep.engine import songs
    from acestep.library.output_paths import Destination

    recipe = songs.read_recipe(file)
    if missing := {"models", "sha256", "take"} - recipe.keys():
        raise AudioError(f"The recipe in {file.name} cannot be replayed: no {min(missing)} in it.")
    request = songs.request_in(recipe)
    destination = None if out is None else Destination.parse(out)
    if destination is not None:
        request = destination.formatted(request, chosen=False)
        destination.reserve(1)
    config = replay_config(ctx, recipe, request)
    with tempfile.TemporaryDirectory() as rendered, client(ctx, config) as engine:
        # All takes, because a batch of one is not computed in quite the same order.
        outcome = engine.do(request, out="" if destination is None else rendered)
        again = outcome.takes[recipe["take"]]
        if destination is not None:
            song = destination.adopt(Path(again.path), again.recipe["request"])
            again = again.model_copy(update={"path": str(song)})
    report = outcome_report(outcome.model_copy(update={"takes": [again]}))
    identical = recipe["sha256"] == again.sha256
    reasons = [] if identical else differences(recipe, again.recipe)
    verdict = "identical" if identical else f"Not identical: {'; '.join(reasons)}."
    report |= {"identical": identical, "differences": reasons}
    output.result(report, "\n".join([*report["files"], verdict]))
    if not identical:
        raise typer.Exit(1)


def replay_config(
    ctx: typer.Context, recipe: Mapping[str, Any], request: "MusicRequest"
) -> "ServiceConfig":
    """The recipe chooses the model, unless a flag does. Nothing needs a 5Hz LM where nothing is to
    be planned: the plan is in the recipe."""
    from acestep.config import NO_LM

    chosen: dict[str, Any] = {}
    if "model" not in ctx.meta[SETTINGS]:
        chosen["model"] = recipe["models"]["dit"]["name"]
    if request.to_plan(has_planner=True) is None:
        chosen["lm"] = NO_LM
    return service_config(ctx).model_copy(update=chosen)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
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
