"""`config`: the settings that are kept for all commands."""

from pathlib import Path
from typing import Annotated, Any

import typer

from acestep.cli.options import GroupedCommand, expanded
from acestep.cli.settings import changed, config_file, settled
from acestep.cli.terminal import Output, guarded
from acestep.errors import InvalidRequest


def config_group() -> typer.Typer:
    """The `config` group."""
    app = typer.Typer(
        name="config",
        rich_markup_mode=None,
        no_args_is_help=True,
        help="Show and keep settings of the service.",
    )
    for name, function in (("show", show_config), ("set", set_config), ("path", config_path)):
        app.command(name, cls=GroupedCommand)(expanded(guarded(function)))
    return app


def show_config(ctx: typer.Context, *, output: Output) -> None:
    """Show every setting, and where it comes from."""
    settings = settled(ctx)
    values = settings.config.model_dump(mode="json")
    name_width = max(map(len, values))
    texts = {name: _in_words(value) for name, value in values.items()}
    text_width = max(map(len, texts.values()))
    lines = [
        f"{name:{name_width}}  {text:{text_width}}  {settings.origins[name]}"
        for name, text in texts.items()
    ]
    file = config_file()
    lines += [
        "",
        f"Kept in {file}" if file.exists() else f"Nothing is kept yet: {file} is not there.",
    ]
    rows = {
        name: {"value": value, "from": settings.origins[name]} for name, value in values.items()
    }
    output.result({"file": file, "settings": rows}, "\n".join(lines))


def set_config(
    ctx: typer.Context,
    *,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A setting that `config show` names.")],
    value: Annotated[
        str, typer.Argument(metavar="VALUE", help="What it should be from now on; '' forgets it.")
    ],
    output: Output,
) -> None:
    """Keep a setting for all commands to come."""
    from acestep.media.files import write_file

    file = config_file()
    text, name, kept = changed(ctx.obj.config_class, file, key, value)
    make_folder(file.parent)
    write_file(file, text.encode(), overwrite=True)
    said = f"{name} is {_in_words(kept)} from now on."
    if kept is None:
        said = f"{name} is no longer kept."
    output.result({"file": file, "key": name, "value": kept}, said)


def _in_words(value: Any) -> str:
    """A value as one line: what may be repeated with commas, as its option takes it."""
    return ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)


def make_folder(folder: Path) -> None:
    """Make the folder that settings are kept in.

    Raises:
        InvalidRequest: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sentence = f"Settings cannot be kept in {folder}: {error.strerror}."
        raise InvalidRequest("config", sentence) from error


def config_path(*, output: Output) -> None:
    """Print where settings are kept."""
    output.result({"file": config_file()}, str(config_file()))
