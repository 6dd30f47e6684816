"""Where weights live: the models known by name, the folders they are in, and what is missing.

Reads configurations and safetensors headers, never weights; imports neither torch nor the hub's
client until it must; never touches the network (`acestep.download` does).
"""

import difflib
import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from acestep.errors import CheckpointError, ModelMissing
from acestep.request import Preset
from acestep.weights import MAX_HEADER, stored_tensors, weight_files

Kind = Literal["dit", "lm", "vae", "text_encoder"]
State = Literal["ready", "incomplete", "missing"]

DEFAULT_MODEL = "acestep-v15-nano-turbo"
CONFIG_FILE = "config.json"
SILENCE_FILE = "silence_latent.pt"
TOKENIZER_FILE = "tokenizer.json"
FIRST_CODE = b'"<|audio_code_0|>"'  # a token that a 5Hz LM has and a text encoder has not
MANIFEST_FILE = ".acestep.json"
COMMIT = re.compile(r"[0-9a-f]{40}")
KIND_NAMES: Mapping[Kind, str] = {
    "dit": "music model",
    "lm": "5Hz language model",
    "vae": "VAE",
    "text_encoder": "text encoder",
}
STEMS: Mapping[Kind, str] = {
    "dit": "model",
    "lm": "model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
# Sub-folders in which a checkpoint may bring its own companions.
OWN_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "vae": ("vae",),
    "text_encoder": ("text_encoder", "Qwen3-Embedding-0.6B"),
}
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FINGERPRINT_BLOCKS = 64
FINGERPRINT_BLOCK_BYTES = 4096


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


class FileRecord(BaseModel):
    """Size and hash of one file as it arrived."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str


class Manifest(BaseModel):
    """What a download left in a folder: where its files came from and what they hash to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    repo: str
    subfolder: str
    commit: str
    files: dict[str, FileRecord]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The manifest in `folder`; None when its files came another way.

        Raises:
            CheckpointError: there is one, and it cannot be read.
        """
        path = folder / MANIFEST_FILE
        if not path.is_file():
            return None
        try:
            manifest = cls.model_validate_json(path.read_bytes())
        except (ValidationError, OSError):
            raise CheckpointError(f"{path} is damaged: delete it and download again.") from None
        if any(Path(name).name != name for name in manifest.files):
            raise CheckpointError(f"{path} names files outside its folder.")
        return manifest


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
        """The folder of a model, complete or not; None when there is none."""
        path = Path(name_or_path).expanduser()
        if (path / CONFIG_FILE).is_file() or _is_path(name_or_path):
            return path.resolve() if path.is_dir() else None
        name = str(name_or_path)
        for place in (self.root, self._shipped):
            if (place / name).is_dir():
                return (place / name).resolve()
        return self._in_cache(name)

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
        is_turbo = _config(folder).get("is_turbo", named is not None and named.is_turbo)
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
        return entry.kind if entry is not None else _kind_from_files(folder)

    def missing(self, name_or_path: str | Path) -> str:
        """Why a model cannot be found, and what to do: one or two sentences."""
        name = str(name_or_path)
        entry = self.catalogue.models.get(name)
        if entry is None and _is_path(name_or_path):
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
            f"{name} is not on this computer ({entry.size / 1e9:.1f} GB): there is no folder "
            f"{self.root / name}. Run `acestep models download {name}`."
        )

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
        width = _config(folder).get("text_hidden_dim")
        for pair in pairs:
            encoder = self.find(pair[1])
            if encoder is not None and _config(encoder).get("hidden_size") == width:
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


def configs_folder() -> Path:
    """`configs/`: inside the package when it came as a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_folder() -> Path:
    """The folder of the models that come with the program; in a checkout, `checkpoints/`."""
    package = Path(__file__).resolve().parent
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parent / "checkpoints"


def default_root() -> Path:
    """`checkpoints/` of the checkout, or a folder of the user's own when the program came as a
    wheel. The command line has an option for another place."""
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "checkpoints").is_dir():
        return checkout / "checkpoints"
    data = {"win32": "AppData/Local", "darwin": "Library/Application Support"}
    return Path.home() / data.get(sys.platform, ".local/share") / "acestep" / "checkpoints"


def problems(folder: Path, kind: Kind | None) -> list[str]:
    """What keeps a folder from being loaded, as sentences, without reading the weights."""
    if not (folder / CONFIG_FILE).is_file():
        return [f"{CONFIG_FILE} is missing."]
    if not _config(folder):
        return [f"{CONFIG_FILE} is not a JSON object."]
    if kind is None and _is_qwen3(_config(folder)):
        return [f"{TOKENIZER_FILE} is missing."]  # it tells a 5Hz LM from a text encoder
    if kind is None:
        return [f"{CONFIG_FILE} is of no network this program knows."]
    found = []
    try:
        stored_tensors(folder, STEMS[kind])
    except CheckpointError as error:
        found.append(str(error).replace(str(folder / "_")[:-1], ""))  # the folder is known
    if kind == "dit" and not (folder / SILENCE_FILE).is_file():
        found.append(f"{SILENCE_FILE} is missing.")
    if kind in ("lm", "text_encoder") and not (folder / TOKENIZER_FILE).is_file():
        found.append(f"{TOKENIZER_FILE} is missing.")
    return found


def fingerprint(folder: Path) -> str:
    """A quick SHA-256 of a folder's weights, for recipes: two folders with the same fingerprint
    make the same music.

    Covers name, size and header of every safetensors file, and 64 blocks of 4 KiB spread evenly
    over it: milliseconds instead of the half minute a full hash of 20 GB takes. It tells models
    apart; it is no protection against a forger (`acestep models verify` is).
    """
    digest = hashlib.sha256()
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            digest.update(prefix + file.read(min(length, MAX_HEADER)))
            last = max(0, size - FINGERPRINT_BLOCK_BYTES)
            for block in range(FINGERPRINT_BLOCKS):
                file.seek(last * block // (FINGERPRINT_BLOCKS - 1))
                digest.update(file.read(FINGERPRINT_BLOCK_BYTES))
    return digest.hexdigest()


def _kind_from_files(folder: Path) -> Kind | None:
    config = _config(folder)
    if "downsampling_ratios" in config:
        return "vae"
    if config.get("model_type") == "acestep" or "fsq_input_levels" in config:
        return "dit"
    if _is_qwen3(config) and (folder / TOKENIZER_FILE).is_file():
        return "lm" if _has_codes(folder / TOKENIZER_FILE) else "text_encoder"
    return None


def _is_qwen3(config: Mapping[str, Any]) -> bool:
    return str(config.get("model_type", "")).startswith("qwen3")


def _has_codes(tokenizer: Path) -> bool:
    """Whether the file spells the first audio code. It is searched and not parsed: published ones
    are of 11 MB and more."""
    try:
        return FIRST_CODE in tokenizer.read_bytes()
    except OSError:
        return False


def _config(folder: Path) -> Mapping[str, Any]:
    """config.json, or nothing when there is none to be read."""
    try:
        values = json.loads((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _is_path(name_or_path: str | Path) -> bool:
    """A name has no separators: `./turbo`, `~/turbo` and Path objects are places."""
    text = str(name_or_path)
    return isinstance(name_or_path, Path) or any(c in text for c in "/\\~") or text in (".", "..")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: install the program again.") from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}).") from None
