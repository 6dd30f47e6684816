"""How commands get their options: from a dataclass they share, or from the fields of a schema."""

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from acestep.errors import InvalidRequest

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from acestep.request import MusicRequest

REQUEST_FIELDS = "acestep.request"  # where a RequestCommand leaves its fields in `ctx.meta`
SETTINGS = "acestep.config"  # where a ServiceCommand leaves its settings
GENERAL = "Options"  # heading of the options that belong to no group
FROM_FILE = "@FILE"  # in a field's metavar: after an at sign, its text is read from a file
# Groups of a request's fields that have no options: the command itself says the task, which has no
# heading, and a plan is thousands of codes, which come in a JSON request.
NO_OPTION = ("", "plan")


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


class ServiceCommand(GroupedCommand):
    """A command that takes the service's settings as options.

    They are made when the command runs or shows its own help: the schema takes longer to import
    than the whole of `acestep --help`. The values given are left in `ctx.meta[SETTINGS]`, as text:
    the schema alone judges them.

    Attributes:
        only: the settings it takes; empty is all of them.
        defaults: what the command chooses where the user does not, in words.
    """

    only: Collection[str] = ()
    defaults: Mapping[str, str] = {}
    _made: Mapping[str, "list[Any]"] = {}

    def make_options(self, ctx: Any) -> "dict[str, list[Any]]":
        """Options made from schemas, by the place in `ctx.meta` where their values go."""
        settings = {
            name: field
            for name, field in ctx.obj.config_class.model_fields.items()
            if not self.only or name in self.only
        }
        parameters = [
            _parameter(name, setting_option(name, field, self.defaults.get(name)), field)
            for name, field in settings.items()
        ]
        return {SETTINGS: _clicked(parameters)}

    def get_params(self, ctx: Any) -> list[Any]:
        if not self._made:
            self._made = self.make_options(ctx)
            self.params = [*self._made.get(REQUEST_FIELDS, ()), *self.params, *self._made[SETTINGS]]
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> Any:
        for place, options in self._made.items():
            given = {option.name: ctx.params.pop(option.name) for option in options}
            # What may be given several times is empty when it was not given.
            ctx.meta[place] = {
                name: ", ".join(value) if isinstance(value, list | tuple) else value
                for name, value in given.items()
                if value not in (None, [], ())
            }
        return super().invoke(ctx)


class RequestCommand(ServiceCommand):
    """A command that also takes the fields of the task with its verb; their values are left in
    `ctx.meta[REQUEST_FIELDS]`."""

    def make_options(self, ctx: Any) -> "dict[str, list[Any]]":
        from acestep.request import schema

        assert self.name is not None
        task = task_of(self.name)
        fields = task.model_fields
        parameters = [
            _parameter(name, field_option(name, field), field)
            for name, field in fields.items()
            if schema.group(field) not in NO_OPTION and name != task.argument
        ]
        if task.argument is not None:
            field = fields[task.argument]
            argument = typer.Argument(metavar=_metavar(field), help=field.description)
            parameters.insert(0, _parameter(task.argument, argument, field, ...))
        return {REQUEST_FIELDS: _clicked(parameters), **super().make_options(ctx)}


def task_of(verb: str) -> "type[MusicRequest]":
    """The task that a verb asks for."""
    from acestep.request import TASKS

    return next(task for task in TASKS.values() if task.verb == verb)


def read_files(task: "type[MusicRequest]", given: Mapping[str, Any]) -> dict[str, Any]:
    """The values given, with the text of a file in place of its name after an at sign.

    Raises:
        InvalidRequest: the file cannot be read.
    """
    data = dict(given)
    for name, value in given.items():
        if isinstance(value, str) and value.startswith("@") and _may_be_file(task, name):
            data[name] = read_text(name, f"{name} file", Path(value[1:]))
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


def field_option(name: str, field: "FieldInfo") -> Any:
    """The option of a request's field."""
    return _option(name, field, [*_limits(field), f"default: {_default(name, field)}"])


def setting_option(name: str, field: "FieldInfo", default: str | None = None) -> Any:
    """The option of a service's setting; `default` is what to say instead of the schema's own."""
    notes = [
        *_limits(field),
        f"env var: {variables(name, field)[0]}",
        f"default: {default or _default(name, field)}",
    ]
    return _option(name, field, notes)


def flags(name: str, field: "FieldInfo") -> list[str]:
    """What a field is called on the command line, shortest first."""
    from acestep.request import schema

    return [*schema.extra(field).get("flags", ()), "--" + name.replace("_", "-")]


def variables(name: str, field: "FieldInfo") -> list[str]:
    """The environment variables that set a field."""
    return ["ACESTEP_" + flag[2:].replace("-", "_").upper() for flag in flags(name, field)]


def _may_be_file(task: "type[MusicRequest]", name: str) -> bool:
    from acestep.request import schema

    return FROM_FILE in schema.extra(task.model_fields[name]).get("metavar", "")


def _option(name: str, field: "FieldInfo", notes: Iterable[str]) -> Any:
    """What typer needs to know, from what the schema says."""
    from acestep.request import schema

    is_switch = _kind(field.annotation) is bool
    written = [
        f"{flag}/--no-{flag[2:]}" if is_switch else flag for flag in flags(name, field)
    ]  # fmt: skip
    return typer.Option(
        *written,
        help=f"{field.description} [{'; '.join(notes)}]",
        metavar=None if is_switch else _metavar(field),
        show_default=False,  # `None` here only says that the user gave nothing
        rich_help_panel=schema.group(field).capitalize(),
    )


def _parameter(name: str, info: Any, field: "FieldInfo", default: Any = None) -> inspect.Parameter:
    """A parameter whose value stays text, so that the schema alone judges it."""
    kind = _kind(field.annotation)
    given: Any = bool if kind is bool else list[str] if kind is tuple else str
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[given if default is ... else given | None, info],
        default=inspect.Parameter.empty if default is ... else default,
    )


def _clicked(parameters: "list[inspect.Parameter]") -> list[Any]:
    """Typer's own reading of a command with these parameters."""

    def command(**_: Any) -> None: ...

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(command)
    return [option for option in typer.main.get_command(app).params if option.name != "help"]


def _limits(field: "FieldInfo") -> list[str]:
    from acestep.request import schema

    if _kind(field.annotation) is tuple:
        return ["may be repeated"]
    low, high = schema.bounds(field)
    if low is None or high is None:
        return []
    is_above = any(getattr(rule, "gt", None) is not None for rule in field.metadata)
    above = "above " if is_above else ""
    return [f"{above}{low:,.10g} to {high:,.10g} {schema.unit(field)}".rstrip()]


def _default(name: str, field: "FieldInfo") -> str:
    kind = _kind(field.annotation)
    if field.default in (None, ()):
        return "none" if kind in (Path, tuple) else "chosen for you"
    if kind is bool:
        return ("" if field.default else "no-") + name.replace("_", "-")
    return str(field.default) or "none"


def _kind(annotation: Any) -> Any:
    """The type a person would name: `int` of `Annotated[int | None, …]`."""
    origin = get_origin(annotation)
    if origin in (None, tuple, Literal):
        return annotation if origin is Literal else origin or annotation
    return _kind(get_args(annotation)[0])


def _metavar(field: "FieldInfo") -> str:
    from acestep.request import schema

    kind = _kind(field.annotation)
    if written := schema.extra(field).get("metavar"):
        return str(written)
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return {int: "N", float: "X", Path: "FILE", tuple: "X,X,…"}.get(kind, "TEXT")
