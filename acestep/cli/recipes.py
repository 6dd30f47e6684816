"""`info` and `replay`: what a finished file says about itself, and making it again."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acestep.cli.dry_run import OUTPUTS, DryRun, weigh
from acestep.cli.jobs import client, outcome_report
from acestep.cli.options import SETTINGS, ServiceCommand
from acestep.cli.settings import service_config
from acestep.cli.terminal import Output
from acestep.errors import AudioError

if TYPE_CHECKING:
    from acestep.config import ServiceConfig
    from acestep.request import MusicRequest

IDLE = ("auto", False, None, "", [])  # values of settings that nobody chose
OFF = "not set"
Song = Annotated[Path, typer.Argument(metavar="FILE", help="A song made by acestep.")]


class ReplayCommand(ServiceCommand):
    """A command that takes the model, the adapters and what else may change samples from a
    recipe."""

    defaults = {  # noqa: RUF012
        "model": "the one in the recipe",
        "lora": "those in the recipe",
        **dict.fromkeys(("int8", "offload_dit", "lm_nf4"), "as in the recipe"),
    }


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
        "adapters": ", ".join(_adapters(recipe)),
        "settings": ", ".join(f"{name} {value}" for name, value in _settings(recipe).items()),
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
    dry_run: DryRun = False,
    output: Output,
) -> None:
    """Make a song again from its recipe; is it identical?"""
    from acestep.engine import songs
    from acestep.library.output_paths import Destination

    recipe = songs.read_recipe(file)
    if missing := {"models", "sha256", "take"} - recipe.keys():
        raise AudioError(f"The recipe in {file.name} cannot be replayed: no {min(missing)} in it.")
    request = songs.request_in(recipe)
    config = replay_config(ctx, recipe, request)
    if dry_run:
        weigh(ctx, request, out or OUTPUTS, output, config)
        return
    destination = None if out is None else Destination.parse(out)
    if destination is not None:
        request = destination.formatted(request, chosen=False)
        destination.reserve(1)
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
    """The recipe chooses the model, the adapters and every setting that may change samples, unless
    a flag does. Nothing needs a 5Hz LM where nothing is to be planned: the plan is in the recipe.

    Raises:
        ModelMissing: an adapter that the song was made with is not here.
        InvalidRequest: the recipe has a setting that this version does not know.
    """
    from acestep.config import AUTO, NO_LM
    from acestep.engine.models import Checkpoints, lora_again

    config, given = service_config(ctx), ctx.meta[SETTINGS]
    # What was left to the program then is left to it now.
    recorded = {name: value for name, value in recipe.get("service", {}).items() if value != AUTO}
    recorded["model"] = recipe["models"]["dit"]["name"]
    if "lora" not in given and "adapters" in recipe:
        places = Checkpoints(config.checkpoints)
        recorded["lora"] = [lora_again(made, places) for made in recipe["adapters"]]
    chosen = {name: value for name, value in recorded.items() if name not in given}
    if request.to_plan(has_planner=True) is None:
        chosen["lm"] = NO_LM
    return type(config).model_validate({**config.model_dump(), **chosen})


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Why two renderings of one request may differ, likeliest first."""
    facts = [
        (f"the {part} model", model, after["models"][part])
        for part, model in before["models"].items()
        if part in after["models"]  # a plan that is in the recipe needs no 5Hz LM any more
    ]
    facts += [(name, before.get(name), after[name]) for name in ("device", "dtype")]
    was, now = (", ".join(_adapters(made)) or None for made in (before, after))
    facts.append(("LoRA", was, now))
    set_then, set_now = _settings(before), _settings(after)
    facts += [(name, set_then.get(name), set_now.get(name)) for name in {**set_then, **set_now}]
    versions = before.get("versions", {})
    facts += [(name, versions.get(name), version) for name, version in after["versions"].items()]
    reasons = [
        f"{name} was {_said(was)}, is {_said(now)}" for name, was, now in facts if was != now
    ]
    return reasons or ["no difference is on record; the processor or a driver may be another"]


def _adapters(recipe: Mapping[str, Any]) -> list[str]:
    """What acted on the model: name, enough of the hash to tell two apart, and strength."""
    return [
        f"{made['name']} ({made['sha256'][:12]}) at {made['strength']:g}"
        for made in recipe.get("adapters", ())
    ]


def _settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were not left as they are; adapters and devices are told themselves."""
    told = ("lora", "lora_strength", "device")
    settings = recipe.get("service", {}).items()
    return {name: value for name, value in settings if name not in told and value not in IDLE}


def _said(fact: Any) -> str:
    """A model by its name and enough of its fingerprint to tell two apart."""
    if isinstance(fact, dict):
        return f"{fact['name']} ({fact['fingerprint'][:12]})"
    return OFF if fact is None else str(fact)
