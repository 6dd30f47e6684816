"""Records that know their labels, ranges and help, and explain a wrong value in a sentence."""

import difflib
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from acestep.errors import InvalidRequest


def setting(
    default: Any,
    group: str,
    title: str,
    description: str,
    *,
    unit: str = "",
    missing: str = "",
    flags: tuple[str, ...] = (),
    metavar: str = "",
    widget: str = "",
    placeholder: str = "",
    lines: int = 1,
    place: str = "",
    recorded: bool = False,
    live: bool = False,
    **bounds: Any,
) -> Any:
    """A field, with all that page and command line need to know of it.

    Args:
        group: the heading it stands under, on the page and in `--help`.
        unit: follows its numbers.
        missing: said when a required value is left out.
        flags: further names on the command line; the first comes before the field's own.
        metavar: what `--help` shows for the value; empty goes by the type.
        widget: how the page draws it, where the type alone does not say.
        placeholder: what an empty box shows.
        lines: height of a text box.
        place: where on the page, when not with its group: `front`, in the open, or `more`, where
            less is asked for.
        recorded: of a service's setting: it may change samples, so recipes keep it.
        live: of a service's setting: it may change without reading the networks again.
    """
    known = {
        "group": group, "unit": unit, "missing": missing, "flags": list(flags), "metavar": metavar,
        "widget": widget, "placeholder": placeholder, "lines": lines, "place": place,
        "recorded": recorded, "live": live,
    }  # fmt: skip
    return Field(default, title=title, description=description, json_schema_extra=known, **bounds)


class Schema(BaseModel):
    """A frozen record that explains its own mistakes in one sentence."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InvalidRequest(*_sentence(cls, first)) from None


def bounds(field: FieldInfo) -> tuple[float | None, float | None]:
    """Lowest and highest value of a numeric field, for sliders and sentences."""
    low = high = None
    for rule in field.metadata:
        low = getattr(rule, "ge", getattr(rule, "gt", low))
        high = getattr(rule, "le", getattr(rule, "lt", high))
    return low, high


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The values of a field that has a fixed list; one that may be left open has the same."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())


def extra(field: FieldInfo) -> Mapping[str, Any]:
    """What `setting` stored beside pydantic's own rules: group, unit, missing."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def unit(field: FieldInfo) -> str:
    return str(extra(field).get("unit", ""))


def group(field: FieldInfo) -> str:
    return str(extra(field).get("group", ""))


def _types(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)


def _sentence(schema: type[BaseModel], error: Mapping[str, Any]) -> tuple[str, str]:
    """The field's name and one sentence for pydantic's first complaint."""
    kind, value = error["type"], error.get("input")
    name = str(error["loc"][0]) if error["loc"] else ""
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(name, schema.model_fields, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        owner = getattr(schema, "title", "")
        return name, (
            f"{owner} has no field '{name}'.{hint}"
            if owner
            else f"There is no field '{name}'.{hint}"
        )
    field = schema.model_fields.get(name)
    if field is None:
        return name, f"This is not a request: {error['msg'].lower()}."
    title = field.title or name
    given = f"(you gave {_short(value)})"
    if kind == "missing" or value is None:
        return name, str(extra(field).get("missing") or f"{title} is missing.")
    if kind == "sentence":
        return name, error["msg"]
    if kind == "string_too_long":
        limit = error["ctx"]["max_length"]
        return name, f"{title} is {len(str(value)):,} characters; the limit is {limit:,}."
    if kind in ("too_long", "too_short"):
        limit = error["ctx"].get("max_length", error["ctx"].get("min_length"))
        word = "at most" if kind == "too_long" else "at least"
        return (
            name,
            f"{title} takes {word} {limit:,} values (you gave {error['ctx']['actual_length']:,}).",
        )
    if len(error["loc"]) > 1 and name in ("codes", "timesteps"):
        low, high = ("0", "63,999") if name == "codes" else ("above 0", "1")
        return name, f"{title} must all be numbers from {low} to {high} {given}."
    if choices(field):
        return name, f"{title} must be one of {', '.join(choices(field))} {given}."
    low, high = bounds(field)
    types = _types(field.annotation)
    if low is not None and high is not None:
        number = "a whole number" if int in types else "a number"
        above = "above " if any(getattr(r, "gt", None) is not None for r in field.metadata) else ""
        ends = f"from {above}{_plain(low)} to {_plain(high)} {unit(field)}".rstrip()
        return name, f"{title} must be {number} {ends} {given}."
    if bool in types:
        return name, f"{title} must be true or false {given}."
    return (
        name,
        f"{title} must be text {given}." if str in types else f"{title}: {error['msg']} {given}.",
    )


def _plain(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
