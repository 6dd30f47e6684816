"""What the doors may ask of models and adapters: which there are, and whether a choice can be used.

Downloads in the background are in `engine/downloads.py`. Knows folders and files; imports neither
torch nor, until it must, the hub's client.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from acestep.checkpoints.download import (
    DownloadPlan,
    DownloadProgress,
    download,
    plan_download,
    to_download,
    verify,
)
from acestep.checkpoints.files import CONFIG_FILE, KIND_NAMES, STEMS, Kind, size_text
from acestep.checkpoints.folder import problems
from acestep.checkpoints.headers import pickled
from acestep.checkpoints.locate import Checkpoints, Installed, is_path
from acestep.config import AUTO, NO_LM, ServiceConfig, split_strength
from acestep.engine.downloads import Download, Downloads
from acestep.errors import CheckpointError, ModelMissing
from acestep.models.config import AceStepConfig
from acestep.runtime.adapter_folder import (
    ListedAdapter,
    adapters_folder,
    available_adapters,
    find_adapter,
    list_adapter,
)

__all__ = [
    "KIND_NAMES",
    "Checkpoints",
    "Download",
    "DownloadPlan",
    "DownloadProgress",
    "Downloads",
    "Kind",
    "LoraRow",
    "ModelRow",
    "check",
    "chosen_loras",
    "download",
    "lora_again",
    "lora_folder",
    "loras",
    "plan_download",
    "rows",
    "size_text",
    "verify",
]

Presence = Literal["present", "incomplete", "downloadable", "missing"]
MARKS = {"present": "✔", "incomplete": "!", "downloadable": "⬇", "missing": "–"}


class ModelRow(BaseModel):
    """One model in a list.

    Attributes:
        kind: None when the folder's configuration is of no known network.
        presence: downloadable and missing are not on this computer; what is missing ships with the
            program and should be. What is incomplete may be finished by a download.
        size: bytes on disk, or of the model's own files when it is not here; None when unknown.
        download: bytes of a whole download, companions that lack included; None when there is
            nothing to download.
        problem: why it cannot be loaded; empty when it can, or when it is only not here.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind | None
    presence: Presence
    folder: Path | None = None
    size: int | None = None
    download: int | None = None
    description: str = ""
    problem: str = ""

    @property
    def label(self) -> str:
        """How a list shows it: ⬇ acestep-v15-base (4.8 GB)."""
        about = {
            "present": "",
            "incomplete": " (incomplete)",
            "downloadable": f" ({size_text(self.download or 0)})",
            "missing": " (missing)",
        }
        return f"{MARKS[self.presence]} {self.name}{about[self.presence]}"


class LoraRow(BaseModel):
    """One adapter.

    Attributes:
        name: as the setting takes it, without a strength.
        about: what it is, in a few words; empty when it cannot be read.
        problem: why it cannot be used with the model, in a sentence; empty when it can.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    about: str = ""
    problem: str = ""


def lora_folder(places: Checkpoints) -> Path:
    """Where adapters are that can be chosen by their names."""
    return adapters_folder(places.root)


def loras(places: Checkpoints, model: str | Path | None = None) -> list[LoraRow]:
    """The adapters of the LoRA folder; None asks only whether they are whole."""
    config = None if model is None else _network(model, places)
    return [_lora(each.name, each) for each in available_adapters(lora_folder(places), config)]


def chosen_loras(config: ServiceConfig, places: Checkpoints) -> list[LoraRow]:
    """The adapters that a configuration names, in its order."""
    network, rows = _network(config.model, places), []
    for lora in config.lora:
        name, _ = split_strength(lora)
        try:
            path = find_adapter(name, lora_folder(places))
            rows.append(_lora(name, list_adapter(path, network)))
        except ModelMissing as error:
            rows.append(LoraRow(name=name, problem=str(error)))
    return rows


def lora_again(made: Mapping[str, Any], places: Checkpoints) -> str:
    """An adapter of a recipe as the setting takes it, wherever it lies now.

    Args:
        made: its name, path, sha256 and strength.

    Raises:
        ModelMissing: no file here is the same.
    """
    folder = lora_folder(places)
    for each in (list_adapter(Path(made["path"])), *available_adapters(folder)):
        if each.adapter is not None and each.adapter.fingerprint == made["sha256"]:
            return f"{each.path}:{made['strength']:g}"
    raise ModelMissing(
        f"The adapter {made['name']} (sha256 {made['sha256'][:12]}…) is not here: put it into "
        f"{folder}, or choose what to use instead with --lora."
    )


def _lora(name: str, listed: ListedAdapter) -> LoraRow:
    if (adapter := listed.adapter) is None:
        return LoraRow(name=name, problem=listed.problem)
    facts = [adapter.kind, f"rank {adapter.rank}" if adapter.rank else ""]
    if adapter.trigger_words:
        facts.append(f"say “{adapter.trigger_words}”")
    return LoraRow(name=name, about=", ".join(filter(None, facts)), problem=listed.problem)


def _network(model: str | Path, places: Checkpoints) -> AceStepConfig | None:
    """What an adapter must fit; None while the model cannot be loaded, which is said elsewhere."""
    try:
        return AceStepConfig.read(places.resolve(model, "dit"))
    except (ModelMissing, CheckpointError):
        return None


def rows(places: Checkpoints, kind: Kind | None = None) -> list[ModelRow]:
    """Every known model, then the folders that nobody knows; of one kind, or of all."""
    return [
        _row(installed, places)
        for installed in places.installed()
        if kind is None or installed.kind == kind
    ]


def check(name_or_path: str, kind: Kind, places: Checkpoints) -> str | None:
    """Why a choice cannot be loaded, in one sentence; None when it can.

    Reads configurations and headers: quick enough for every change of a text field.
    """
    if kind == "lm" and name_or_path in (AUTO, NO_LM):
        return None
    if not name_or_path.strip():
        return f"Choose a {KIND_NAMES[kind]}: a name or a folder."
    try:
        folder = places.find(name_or_path)
        if folder is None:
            return _not_found(name_or_path, kind, places)
        if sentence := _no_checkpoint(folder, kind, places):
            return sentence
        places.resolve(name_or_path, kind)
        if kind == "dit":
            places.companions(name_or_path)
    except (ModelMissing, CheckpointError) as error:
        return str(error)
    return None


def _row(installed: Installed, places: Checkpoints) -> ModelRow:
    problem = _problem(installed, places)
    entry = places.catalogue.models.get(installed.name)
    can_come = entry is not None and entry.repo is not None
    if installed.folder is not None:
        presence = "incomplete" if problem else "present"
    else:
        presence = "downloadable" if can_come else "missing"
    return ModelRow(
        name=installed.name,
        kind=installed.kind,
        presence=presence,
        folder=installed.folder,
        size=installed.size,
        download=_download_size(installed, places) if can_come and presence != "present" else None,
        description=installed.description,
        problem=problem,
    )


def _problem(installed: Installed, places: Checkpoints) -> str:
    if installed.folder is None:
        return ""
    if installed.problems:
        return _unfinished(installed.folder) or installed.problems[0]
    if installed.kind == "dit":
        try:
            places.companions(installed.folder)
        except (ModelMissing, CheckpointError) as error:
            return str(error)
    return ""


def _download_size(installed: Installed, places: Checkpoints) -> int:
    """What is complete is not counted; a DiT may lack its companions alone."""
    names = to_download(installed.name, places)
    if installed.state == "ready":
        names = names[1:]
    return sum(places.catalogue.models[name].size or 0 for name in names)


def _unfinished(folder: Path) -> str:
    if not any(folder.glob("*.part")):
        return ""
    return f"The download of {folder.name} is not finished: start it again to go on from there."


def _not_found(name_or_path: str, kind: Kind, places: Checkpoints) -> str:
    entry = places.catalogue.models.get(name_or_path)
    if entry is not None and entry.kind == kind and entry.size is not None:
        return f"{name_or_path} is not on this computer ({size_text(entry.size)}). Download it."
    if entry is not None and entry.kind != kind:
        return f"{name_or_path} is a {KIND_NAMES[entry.kind]}, not a {KIND_NAMES[kind]}."
    if entry is not None or is_path(name_or_path):
        path = Path(name_or_path).expanduser()
        is_file = entry is None and path.is_file()
        return f"{path} is a file: choose its folder." if is_file else places.missing(name_or_path)
    known = [name for name, row in places.catalogue.models.items() if row.kind == kind]
    return f"`{name_or_path}` was not found in {places.root}. Known names: {', '.join(known)}."


def _no_checkpoint(folder: Path, kind: Kind, places: Checkpoints) -> str | None:
    """Why a folder is none of the kind; None when its files are there."""
    found = places.kind(folder)
    if found not in (kind, None):
        return f"{folder.name} is a {KIND_NAMES[found]}, not a {KIND_NAMES[kind]}."
    if sentence := _unfinished(folder):
        return sentence
    weights = f"{STEMS[kind]}.safetensors"
    has_weights = (folder / weights).exists() or (folder / f"{weights}.index.json").exists()
    if not has_weights and (other := pickled(folder)):
        return f"Only .safetensors weights are loaded; found {other.name}."
    there = {weights: has_weights, CONFIG_FILE: (folder / CONFIG_FILE).is_file()}
    if missing := [name for name, is_there in there.items() if not is_there]:
        return f"This folder has no {' and '.join(missing)}."
    if found is None:
        return f"{folder.name} cannot be used: {problems(folder, None)[0]}"
    return None
