"""The models that are known by name, and the presets they use (`configs/*.toml`)."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from acestep.checkpoints.files import Kind
from acestep.errors import CheckpointError
from acestep.request import Preset

COMMIT = re.compile(r"[0-9a-f]{40}")


class Entry(BaseModel):
    """One row of `configs/models.toml`, where the fields are explained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    license: str
    description: str
    repo: str | None = None
    subfolder: str = ""
    revision: str | None = None
    size: int | None = Field(None, gt=0)
    sha256: dict[str, str] = {}
    preset: str | None = None
    vae: str | None = None
    text_encoder: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.kind == "dit") != bool(self.preset and self.vae and self.text_encoder):
            raise ValueError("preset, vae and text_encoder belong to a dit, and only there")
        if bool(self.repo) != bool(self.revision and self.size):
            raise ValueError("a repo needs revision and size; what ships has neither")
        return self

    @property
    def ships(self) -> bool:
        """It comes with the program instead of from the hub."""
        return self.repo is None


class Catalogue(BaseModel):
    """Every model known by name, and the presets they use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[str, Entry]
    presets: dict[str, Preset]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, entry in self.models.items():
            if entry.preset is not None and entry.preset not in self.presets:
                raise ValueError(f"{name} names the preset '{entry.preset}', which is not there")
            for kind in ("vae", "text_encoder"):
                companion = getattr(entry, kind)
                if companion and getattr(self.models.get(companion), "kind", None) != kind:
                    raise ValueError(f"{name} names '{companion}', which is no {kind}")
        return self

    @classmethod
    def read(cls, folder: Path | None = None) -> Self:
        """The tables in `folder`, or the program's own.

        Raises:
            CheckpointError: a table is missing or says something that cannot be.
        """
        folder = folder or configs_folder()
        presets = _read_toml(folder / "presets.toml")
        tables = {
            "models": _read_toml(folder / "models.toml"),
            "presets": {name: {"name": name, **values} for name, values in presets.items()},
        }
        try:
            return cls.model_validate(tables)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise CheckpointError(f"{folder}, {place or 'models'}: {first['msg']}.") from None

    def with_companions(self, name: str) -> tuple[str, ...]:
        """`name` and what it cannot run without."""
        entry = self.models[name]
        return tuple(n for n in (name, entry.vae, entry.text_encoder) if n is not None)

    def nearest(self, name: str) -> list[str]:
        """Known names that `name` may be a misspelling of, the likeliest first."""
        lower = {known.lower(): known for known in self.models}
        return [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3)]


def configs_folder() -> Path:
    """`configs/`: inside the package when it came as a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: install the program again.") from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}).") from None
