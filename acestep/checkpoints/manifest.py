"""What a download leaves in a folder, so that its files can be checked again."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from acestep.errors import CheckpointError

MANIFEST_FILE = ".acestep.json"


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
