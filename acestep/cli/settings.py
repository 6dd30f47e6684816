"""How the service runs: a flag wins over an environment variable, that over `config.toml`, and that
over the default. What is empty sets nothing."""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from acestep.cli.options import SETTINGS, flags, read_text, variables
from acestep.errors import InvalidRequest

if TYPE_CHECKING:
    from acestep.config import ServiceConfig

FILE_VARIABLE = "ACESTEP_CONFIG"
DEFAULT = "default"
# A value of TOML that stands on one line: text in either kind of quotes, a bare word, or a list.
_SINGLE = r"""\"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s#\[\],]+"""
_VALUE = rf"""{_SINGLE}|\[(?:[ \t,]|{_SINGLE})*\]"""


@dataclass(frozen=True)
class Settings:
    """A configuration, and where each of its values comes from: a flag, a variable, a file, or
    the default."""

    config: "ServiceConfig"
    origins: Mapping[str, str]


def settled(ctx: typer.Context) -> Settings:
    """The configuration that a command runs under.

    Raises:
        InvalidRequest: a value cannot be used; the sentence says where it stands.
    """
    config_class: type[ServiceConfig] = ctx.obj.config_class
    file = config_file()
    layers = [(str(file), read_config_file(config_class, file))]
    layers += [(name, {field: text}) for field, name, text in _environment(config_class)]
    for where, data in layers:
        _judge(config_class, data, where)
    given = _filled(config_class, ctx.meta.get(SETTINGS, {}))
    config_class.model_validate(given)
    fields = config_class.model_fields
    layers += [(flags(name, fields[name])[0], {name: value}) for name, value in given.items()]
    values: dict[str, Any] = {}
    origins = dict.fromkeys(fields, DEFAULT)
    for where, data in layers:
        values |= data
        origins |= dict.fromkeys(data, where)
    return Settings(config_class.model_validate(values), origins)


def service_config(ctx: typer.Context) -> "ServiceConfig":
    return settled(ctx).config


def config_file() -> Path:
    """Where settings are kept: what ACESTEP_CONFIG names, or the system's place for them."""
    named = os.environ.get(FILE_VARIABLE)
    return Path(named) if named else Path(typer.get_app_dir("acestep")) / "config.toml"


def read_config_file(config_class: "type[ServiceConfig]", file: Path) -> dict[str, Any]:
    """What the file says, still to be judged; nothing when there is none.

    Raises:
        InvalidRequest: it cannot be read, or ACESTEP_CONFIG names a file that is not there.
    """
    if not file.exists() and not os.environ.get(FILE_VARIABLE):
        return {}
    return _filled(config_class, _parsed(read_text("config", "configuration file", file), file))


def changed(
    config_class: "type[ServiceConfig]", file: Path, key: str, value: str
) -> tuple[str, str, Any]:
    """The file's text with one setting changed, and the setting's name and value; an empty value
    takes it out of the file.

    Raises:
        InvalidRequest: there is no such setting, it cannot have this value, or the file has
            something else in it that cannot be used.
    """
    text = read_text("config", "configuration file", file) if file.exists() else ""
    name = _named(config_class, key)
    others = {other: kept for other, kept in _parsed(text, file).items() if other != name}
    _judge(config_class, _filled(config_class, others), str(file))
    is_cleared = value == "" and name in config_class.model_fields
    judged = None if is_cleared else getattr(config_class.model_validate({name: value}), name)
    written = list(judged) if isinstance(judged, tuple) else judged
    if isinstance(judged, Path):  # whoever reads the file may stand in another folder
        written = str(judged.expanduser().absolute())
    after = _with_line(text, name, written)
    if _parsed(after, file) != (others if written is None else {**others, name: written}):
        raise InvalidRequest("config", f"{file} is not simple enough to change: edit it by hand.")
    return after, name, written


def _named(config_class: "type[ServiceConfig]", key: str) -> str:
    """The field that a key means: its own name or one of its flags', with dashes or underscores."""
    plain = key.replace("-", "_")
    for name, field in config_class.model_fields.items():
        if plain in [flag[2:].replace("-", "_") for flag in flags(name, field)]:
            return name
    return key


def _filled(config_class: "type[ServiceConfig]", data: Mapping[str, Any]) -> dict[str, Any]:
    """The values without the empty ones, which set nothing."""
    fields = config_class.model_fields
    return {name: value for name, value in data.items() if value != "" or name not in fields}


def _with_line(text: str, name: str, value: Any) -> str:
    """The text with one line for the setting, or none when it has no value. What else is there,
    comments too, stays."""
    line = "" if value is None else f"{name} = {json.dumps(value, ensure_ascii=False)}"
    written = rf"^[ \t]*{re.escape(name)}[ \t]*=[ \t]*({_VALUE})(?P<rest>.*)$"
    if match := re.search(written, text, re.MULTILINE):
        after = text[match.end() :]
        if line:
            return text[: match.start()] + line + match["rest"] + after
        return text[: match.start()] + after.removeprefix("\n")
    if not line:
        return text
    return text + ("\n" if text and not text.endswith("\n") else "") + line + "\n"


def _environment(config_class: "type[ServiceConfig]") -> "list[tuple[str, str, str]]":
    """Field, variable and text of what the environment sets."""
    found = []
    for name, field in config_class.model_fields.items():
        for variable in variables(name, field):
            if text := os.environ.get(variable):
                found.append((name, variable, text))
                break
    return found


def _parsed(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest("config", f"{file} is not TOML: {error}.") from None


def _judge(config_class: "type[ServiceConfig]", data: Mapping[str, Any], where: str) -> None:
    """Refuse values that cannot be used, naming the place where they stand."""
    try:
        config_class.model_validate(data)
    except InvalidRequest as error:
        raise InvalidRequest(error.field, f"{where}: {error}") from None
