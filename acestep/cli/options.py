"""How commands get their options: from a dataclass they share, or from a request's schema."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from acestep.errors import InvalidRequest

if TYPE_CHECKING:
    from acestep.request import MusicRequest

FIELDS = "acestep.request"  # where a RequestCommand leaves its fields in `ctx.meta`
JSON_ONLY = {
    "task": "the command says it",
    "plan": "a plan is thousands of codes: it comes in a JSON request",
}
_NO_PLANNER = "the planner has no part in an edit"
_EDITS_ONLY = JSON_ONLY | {
    "source_audio": "it is the argument SONG",
    "duration": "the source decides it",
    "think": _NO_PLANNER,
    "lm_temperature": _NO_PLANNER,
    "lm_cfg_scale": _NO_PLANNER,
    "lm_top_p": _NO_PLANNER,
    "lm_top_k": _NO_PLANNER,
    "lm_negative_prompt": _NO_PLANNER,
}
# Fields that are no option of a task's command, and why.
NO_OPTION: "Mapping[str, Mapping[str, str]]" = {
    "text2music": JSON_ONLY,
    "repaint": _EDITS_ONLY
    | {
        "fade_in": "a fade would change what is to stay",
        "fade_out": "a fade would change what is to stay",
    },
    "cover": _EDITS_ONLY,
}
GENERAL = "Options"  # heading of the options that belong to no group
METAVARS = {"lyrics": "TEXT|@FILE", "regions": "A:B"}
# Shorter names, because the command says what starts, ends or is strong; the field's own works too.
SHORT_FLAGS = {
    "repainting_start": "--start",
    "repainting_end": "--end",
    "regions": "--region",
    "audio_cover_strength": "--strength",
}


Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:N or mps.",
        rich_help_panel="Models",
    ),
]
ModelsDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        envvar="ACESTEP_MODELS_DIR",
        show_envvar=True,
        help="Where model folders are. [default: checkpoints]",
        rich_help_panel="Models",
    ),
]


@dataclass(frozen=True)
class ServiceOptions:
    """Which model runs and where. Every command that makes sound takes these."""

    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="Main model: a name from `acestep models list`, or a folder. "
            "[default: the small one that comes with acestep]",
            rich_help_panel="Models",
        ),
    ] = None
    lm: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH|none",
            help="5Hz LM, which plans the song. [default: the one that fits the model, if it is "
            "on this computer]",
            rich_help_panel="Models",
        ),
    ] = None
    backend: Annotated[
        Literal["auto", "pt", "vllm"],
        typer.Option(
            help="Engine of the 5Hz LM: pt runs everywhere, vllm is faster on NVIDIA.",
            rich_help_panel="Models",
        ),
    ] = "auto"
    device: Device = "auto"
    models_dir: ModelsDir = None


def expanded(function: Callable[..., None]) -> Callable[..., None]:
    """A command in which each parameter that is a dataclass is one option per field of it."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        group = groups.get(parameter.name)
        if group is None:
            annotation = hints[parameter.name]
            options = [(parameter.name, annotation, parameter.default)]
        else:
            kinds = get_type_hints(group, include_extras=True)
            options = [(field.name, kinds[field.name], field.default) for field in fields(group)]
        parameters += [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
            )
            for name, annotation, default in options
        ]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        function(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


class GroupedCommand(TyperCommand):
    """A command whose help has a section per group of options.

    Typer draws groups with rich only, and importing rich takes longer than all the rest.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = getattr(parameter, "rich_help_panel", None)
                title = "Arguments" if is_argument else panel or GENERAL
                sections.setdefault(title, []).append(record)
        sections[GENERAL] = sections.pop(GENERAL)  # --help and its like come last
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class RequestCommand(GroupedCommand):
    """A command that also takes every field of its task's request as an option.

    They are made when the command runs or shows its own help: the schema takes longer to import
    than the whole of `acestep --help`. The values given are left in `ctx.meta[FIELDS]`.
    """

    task = "text2music"
    _options: Sequence[Any] = ()

    def get_params(self, ctx: Any) -> list[Any]:
        if not self._options:
            from acestep.request import TASKS

            self._options = request_options(TASKS[self.task], NO_OPTION[self.task])
            self.params[:0] = self._options
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> Any:
        given = {option.name: ctx.params.pop(option.name) for option in self._options}
        # What may be given several times is an empty list when it was not given.
        ctx.meta[FIELDS] = {name: value for name, value in given.items() if value not in (None, [])}
        return super().invoke(ctx)


class RepaintCommand(RequestCommand):
    """A command with the options of a repaint."""

    task = "repaint"


class CoverCommand(RequestCommand):
    """A command with the options of a cover."""

    task = "cover"


def request_options(schema: "type[MusicRequest]", left_out: "Collection[str]") -> list[Any]:
    """One option per field; a value stays text, so that the schema alone judges it."""

    def fields_as_options(**_: Any) -> None: ...

    fields_as_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=_option(name, field),
                default=None,
            )
            for name, field in schema.model_fields.items()
            if name not in left_out
        ]
    )
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(fields_as_options)
    return [option for option in typer.main.get_command(app).params if option.name != "help"]


def read_fields(given: dict[str, Any]) -> dict[str, Any]:
    """Option values as JSON data: lyrics from their file, timesteps and regions as lists.

    Raises:
        InvalidRequest: the lyrics file cannot be read.
    """
    data = dict(given)
    if data.get("lyrics", "").startswith("@"):
        data["lyrics"] = read_text("lyrics", "lyrics file", Path(data["lyrics"][1:]))
    if "timesteps" in data:
        data["timesteps"] = data["timesteps"].split(",")
    if "regions" in data:
        from acestep.request import regions

        data["regions"] = regions.read(",".join(data["regions"]))
    return data


def read_text(field: str, what: str, path: Path) -> str:
    """A text file the user named.

    Raises:
        InvalidRequest: it is missing, or it is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InvalidRequest(field, f"The {what} {path} does not exist.") from None
    except OSError as error:
        sentence = f"The {what} {path} cannot be read: {error.strerror}."
        raise InvalidRequest(field, sentence) from error
    except UnicodeDecodeError:
        raise InvalidRequest(field, f"The {what} {path} is not UTF-8 text.") from None


def _option(name: str, field: Any) -> Any:
    """What typer needs to know, from what the schema says."""
    from acestep.request import schema

    kind = _kind(field.annotation)
    flag = "--" + name.replace("_", "-")
    flags = [SHORT_FLAGS[name], flag] if name in SHORT_FLAGS else [flag]
    option = typer.Option(
        *([f"{flag}/--no-{flag[2:]}"] if kind is bool else flags),
        help=f"{field.description} [{'; '.join(_limits(name, field, kind))}]",
        metavar=None if kind is bool else METAVARS.get(name) or _metavar(kind),
        show_default=False,  # `None` here only says that the user gave nothing
        rich_help_panel=schema.group(field).capitalize(),
    )
    given = bool if kind is bool else list[str] if name == "regions" else str
    return Annotated[given | None, option]


def _limits(name: str, field: Any, kind: Any) -> list[str]:
    from acestep.request import schema

    low, high = schema.bounds(field)
    notes = []
    if low is not None and high is not None and kind is not tuple:
        above = (
            "above "
            if any(getattr(rule, "gt", None) is not None for rule in field.metadata)
            else ""
        )
        notes.append(f"{above}{low:,.10g} to {high:,.10g} {schema.unit(field)}".rstrip())
    if name == "regions":
        notes.append("may be repeated")
    if field.default in (None, ()):
        notes.append(f"default: {'none' if kind in (Path, tuple) else 'chosen for you'}")
    elif kind is bool:
        notes.append(f"default: {'' if field.default else 'no-'}{name.replace('_', '-')}")
    else:
        notes.append(f"default: {field.default if field.default != '' else 'none'}")
    return notes


def _kind(annotation: Any) -> Any:
    """The type a person would name: `int` of `Annotated[int | None, …]`."""
    origin = get_origin(annotation)
    if origin in (None, tuple, Literal):
        return annotation if origin is Literal else origin or annotation
    return _kind(get_args(annotation)[0])


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return {int: "N", float: "X", Path: "FILE", tuple: "X,X,…"}.get(kind, "TEXT")
