"""Where weights lie on this computer: a model's folder by its name, and what it runs with.

Reads configurations and safetensors headers, never weights; imports neither torch nor the hub's
client until it must; never touches the network (`acestep.checkpoints.hub` does).
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from acestep.checkpoints.catalogue import Catalogue, Entry
from acestep.checkpoints.files import CONFIG_FILE, KIND_NAMES, Kind, size_text
from acestep.checkpoints.folder import kind_of, problems, read_config
from acestep.errors import CheckpointError, ModelMissing
from acestep.request import Preset

State = Literal["ready", "incomplete", "missing"]

# Sub-folders in which a checkpoint may bring its own companions.
OWN_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "vae": ("vae",),
    "text_encoder": ("text_encoder", "Qwen3-Embedding-0.6B"),
}


@dataclass(frozen=True)
class Companions:
    """The folders of the networks a DiT runs with."""

    vae: Path
    text_encoder: Path


@dataclass(frozen=True)
class Installed:
    """One line of `acestep models list`.

    Attributes:
        kind: None when the folder's configuration is of no known network.
        size: bytes on disk; of the download when the model is missing; None when unknown.
        problems: sentences, empty when ready.
    """

    name: str
    kind: Kind | None
    state: State
    folder: Path | None
    size: int | None
    description: str
    problems: tuple[str, ...] = ()


class Checkpoints:
    """The model folders of this computer.

    A name is an explicit path, a folder under `root`, a folder that ships with the program, or a
    complete snapshot in the Hugging Face cache: the first that is there. Upstream's `checkpoints`
    folder works as it is.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        catalogue: Catalogue | None = None,
        cache: Path | None = None,
        shipped: Path | None = None,
    ) -> None:
        """Look in `root` (None: `default_root()`), `shipped` (None: the program's own folder) and
        the Hugging Face `cache` (None: where its settings say)."""
        self.root = root or default_root()
        self.catalogue = catalogue or Catalogue.read()
        self._cache = cache
        self._shipped = shipped or shipped_folder()

    def resolve(self, name_or_path: str | Path, kind: Kind | None = None) -> Path:
        """The complete folder of a model.

        Args:
            kind: refuse a model of another kind.

        Raises:
            ModelMissing: it is not on this computer, or nobody knows that name.
            CheckpointError: it is there, but incomplete or of another kind.
        """
        folder = self.find(name_or_path)
        if folder is None:
            raise ModelMissing(self.missing(name_or_path))
        found = self.kind(folder)
        if kind is not None and found not in (kind, None):
            raise CheckpointError(
                f"{name_or_path} is a {KIND_NAMES[found]}, not a {KIND_NAMES[kind]}."
            )
        if wrong := problems(folder, kind or found):
            entry = self.entry(folder)
            cure = f" Run `acestep models download {folder.name}`." if entry and entry.repo else ""
            raise CheckpointError(f"{folder} cannot be used: {wrong[0]}{cure}")
        return folder

    def find(self, name_or_path: str | Path) -> Path | None:
        """The folder of a model, complete or not; None when there is none.

        Raises:
            CheckpointError: the place cannot be looked at.
        """
        try:
            return self._find(name_or_path)
        except (OSError, RuntimeError) as error:  # no permission, too long, no such user's home
            why = getattr(error, "strerror", None) or error
            raise CheckpointError(f"The model's folder cannot be looked at ({why}).") from error

    def companions(self, model: str | Path) -> Companions:
        """The VAE and text encoder of a DiT: in its folder, beside it, or the catalogue's.

        Raises:
            ModelMissing: one of the three is not on this computer.
            CheckpointError: one of the three is there, but incomplete.
        """
        folder = self.resolve(model, "dit")
        vae, text_encoder = self._companion_names(folder)
        return Companions(
            vae=self._companion(folder, "vae", vae),
            text_encoder=self._companion(folder, "text_encoder", text_encoder),
        )

    def planner(self, model: str | Path) -> Path | None:
        """The 5Hz LM for a DiT, if one is on this computer: of the same family, in the catalogue's
        order. (The demo's LM writes other codes than the published ones.)

        Raises:
            ModelMissing, CheckpointError: as `resolve`, of the DiT.
        """
        vae, _ = self._companion_names(self.resolve(model, "dit"))
        is_demo = self.catalogue.models[vae].ships
        for name, entry in self.catalogue.models.items():
            folder = self.find(name) if (entry.kind, entry.ships) == ("lm", is_demo) else None
            if folder is not None and not problems(folder, "lm"):
                return folder
        return None

    def preset(self, model: str | Path) -> Preset:
        """What a DiT was made for. `is_turbo` in its config.json outweighs the folder's name.

        Raises:
            ModelMissing, CheckpointError: as `resolve`.
        """
        folder = self.resolve(model, "dit")
        entry = self.entry(folder)
        named = self.catalogue.presets[entry.preset] if entry and entry.preset else None
        is_turbo = read_config(folder).get("is_turbo", named is not None and named.is_turbo)
        if named is not None and named.is_turbo == is_turbo:
            return named
        return self.catalogue.presets["turbo" if is_turbo else "base"]

    def installed(self) -> list[Installed]:
        """Every known model with its state, then the folders under `root` that nobody knows."""
        known = [self._installed(name, self.find(name)) for name in self.catalogue.models]
        own = sorted(
            path
            for path in (self.root.iterdir() if self.root.is_dir() else ())
            if path.name not in self.catalogue.models and (path / CONFIG_FILE).is_file()
        )
        return known + [self._installed(path.name, path) for path in own]

    def entry(self, folder: Path) -> Entry | None:
        """The catalogue's row for a folder, by its name or by its place in the Hugging Face cache
        (where the folder of a whole repository is named after the commit)."""
        if folder.name in self.catalogue.models:
            return self.catalogue.models[folder.name]
        cached = [part for part in folder.parts if part.startswith("models--")]
        repo = cached[-1].removeprefix("models--").replace("--", "/") if cached else None
        rows = self.catalogue.models.values()
        return next((e for e in rows if repo and e.repo == repo and not e.subfolder), None)

    def kind(self, folder: Path) -> Kind | None:
        """What kind of network a folder holds; None when its files do not tell."""
        entry = self.entry(folder)
        return entry.kind if entry is not None else kind_of(folder)

    def missing(self, name_or_path: str | Path) -> str:
        """Why a model cannot be found, and what to do: one or two sentences."""
        name = str(name_or_path)
        entry = self.catalogue.models.get(name)
        if entry is None and is_path(name_or_path):
            return f"There is no folder {Path(name_or_path).expanduser()}."
        if entry is None:
            near = self.catalogue.nearest(name)
            known = f"Did you mean {' or '.join(near)}?" if near else "See `acestep models list`."
            return f"'{name}' is neither a known model nor a folder in {self.root}. {known}"
        if entry.size is None:
            return (
                f"{name} ships with the program, but {self._shipped / name} is not there. "
                "Install the program again."
            )
        return (
            f"{name} is not on this computer ({size_text(entry.size)}): there is no folder "
            f"{self.root / name}. Run `acestep models download {name}`."
        )

    def _find(self, name_or_path: str | Path) -> Path | None:
        path = Path(name_or_path).expanduser()
        if (path / CONFIG_FILE).is_file() or is_path(name_or_path):
            return path.resolve() if path.is_dir() else None
        name = str(name_or_path)
        for place in (self.root, self._shipped):
            if (place / name).is_dir():
                return (place / name).resolve()
        return self._in_cache(name)

    def _installed(self, name: str, folder: Path | None) -> Installed:
        entry = self.catalogue.models.get(name)
        description = entry.description if entry else ""
        kind = entry.kind if entry else folder and self.kind(folder)
        if folder is None:
            return Installed(name, kind, "missing", None, entry and entry.size, description)
        wrong = tuple(problems(folder, kind))
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        state = "incomplete" if wrong else "ready"
        return Installed(name, kind, state, folder, size, description, wrong)

    def _companion_names(self, folder: Path) -> tuple[str, str]:
        """Names of VAE and text encoder. A DiT of our own training names none: it gets the pair
        whose text encoder is as wide as its `text_hidden_dim`."""
        entry = self.entry(folder)
        if entry is not None and entry.vae and entry.text_encoder:
            return entry.vae, entry.text_encoder
        rows = self.catalogue.models.values()
        pairs = list(
            dict.fromkeys((e.vae, e.text_encoder) for e in rows if e.vae and e.text_encoder)
        )
        width = read_config(folder).get("text_hidden_dim")
        for pair in pairs:
            encoder = self.find(pair[1])
            if encoder is not None and read_config(encoder).get("hidden_size") == width:
                return pair
        return pairs[0]

    def _companion(self, folder: Path, kind: Kind, name: str) -> Path:
        own = [folder / sub for sub in OWN_FOLDERS[kind]]
        for place in (*own, folder.parent / name):
            if (place / CONFIG_FILE).is_file():
                return self.resolve(place, kind)
        return self.resolve(name, kind)

    def _in_cache(self, name: str) -> Path | None:
        """The folder of a complete snapshot; an incomplete one belongs to another program."""
        entry = self.catalogue.models.get(name)
        if entry is None or entry.repo is None:
            return None
        from huggingface_hub import try_to_load_from_cache

        file = f"{entry.subfolder}/{CONFIG_FILE}" if entry.subfolder else CONFIG_FILE
        for revision in (entry.revision, "main"):
            hit = try_to_load_from_cache(entry.repo, file, cache_dir=self._cache, revision=revision)
            if isinstance(hit, str) and not problems(Path(hit).parent, entry.kind):
                return Path(hit).parent
        return None


def shipped_folder() -> Path:
    """The folder of the models that come with the program; in a checkout, `checkpoints/`."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parent / "checkpoints"


def default_root() -> Path:
    """`checkpoints/` of the checkout, or a folder of the user's own when the program came as a
    wheel. The command line has an option for another place."""
    checkout = Path(__file__).resolve().parent.parent.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "checkpoints").is_dir():
        return checkout / "checkpoints"
    data = {"win32": "AppData/Local", "darwin": "Library/Application Support"}
    return Path.home() / data.get(sys.platform, ".local/share") / "acestep" / "checkpoints"


def is_path(name_or_path: str | Path) -> bool:
    """A name has no separators: `./turbo`, `~/turbo` and Path objects are places."""
    text = str(name_or_path)
    return isinstance(name_or_path, Path) or any(c in text for c in "/\\~") or text in (".", "..")
