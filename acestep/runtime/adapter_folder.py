"""The folder of adapters: which of them there are, and which is meant by a name."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from acestep.checkpoints.files import PICKLE_SUFFIXES
from acestep.checkpoints.headers import pickled
from acestep.errors import CheckpointError, ModelMissing
from acestep.models.config import AceStepConfig
from acestep.runtime.adapter_files import WEIGHTS, Adapter, judge_adapter, read_adapter
from acestep.runtime.adapter_settings import PEFT_CONFIG

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class ListedAdapter:
    """One entry of the folder, as a page lists it."""

    name: str
    path: Path
    problem: str = ""  # why it cannot be used, in one sentence; empty: it can
    adapter: Adapter | None = None  # None where it cannot be read

    @property
    def trigger_words(self) -> str:
        return "" if self.adapter is None else self.adapter.trigger_words


def adapters_folder(models: Path) -> Path:
    """Where adapters are looked for by name: beside the models."""
    return models / "loras"


def available_adapters(
    folder: Path, config: AceStepConfig | None = None
) -> tuple[ListedAdapter, ...]:
    """Every adapter of a folder by name, with the reason for each that cannot be used.

    Args:
        config: the model that they must fit; None asks only whether they are whole.
    """
    return tuple(list_adapter(path, config) for path in sorted(_candidates(folder)))


def find_adapter(name_or_path: str, folder: Path) -> Path:
    """The file or folder that is meant: a path, or a name in the folder of adapters.

    Raises:
        ModelMissing: there is none; the sentence says which there are.
    """
    given = Path(name_or_path).expanduser()
    for path in (given, folder / given, folder / f"{name_or_path}{SUFFIX}"):
        if path.exists():
            return path
    names = ", ".join(path.name for path in sorted(_candidates(folder))) or "no adapter"
    raise ModelMissing(
        f"The LoRA '{name_or_path}' is not on this computer; {folder} holds {names}."
    )


def _candidates(folder: Path) -> Iterator[Path]:
    """What looks like an adapter; other files are somebody's notes."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir():
            if any((path / name).is_file() for name in (PEFT_CONFIG, *WEIGHTS)) or pickled(path):
                yield path
        elif path.suffix.lower() in (SUFFIX, *PICKLE_SUFFIXES):
            yield path


def list_adapter(path: Path, config: AceStepConfig | None = None) -> ListedAdapter:
    """What there is to say of one adapter, and of whether it fits a model."""
    try:
        adapter = read_adapter(path)
    except CheckpointError as error:
        return ListedAdapter(path.name, path, str(error))
    problem = "" if config is None else judge_adapter(adapter, config).reason
    return ListedAdapter(path.name, path, problem, adapter)
