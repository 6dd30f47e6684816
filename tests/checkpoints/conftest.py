"""What tests of checkpoint folders share."""

from pathlib import Path
from typing import Any

import pytest
from model_folders import MakeModel, write_model

from acestep.checkpoints.files import Kind


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Write a folder, in the models folder when not told otherwise."""

    def make(name: str, kind: Kind, *, into: Path | None = None, **config: Any) -> Path:
        return write_model((into or tmp_path / "checkpoints") / name, kind, **config)

    return make
