"""What tests of checkpoint folders share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import HubServer
from model_folders import MakeModel, write_model

from acestep.checkpoints.files import Kind
from acestep.checkpoints.hub import HuggingFace


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Write a folder, in the models folder when not told otherwise."""

    def make(name: str, kind: Kind, *, into: Path | None = None, **config: Any) -> Path:
        return write_model((into or tmp_path / "checkpoints") / name, kind, **config)

    return make


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture
def hub(server: HubServer, tmp_path: Path) -> HuggingFace:
    """The real client, talking to a server of this test."""
    return HuggingFace(server.url, cache=tmp_path / "cache")
