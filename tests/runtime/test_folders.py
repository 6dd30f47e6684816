"""Which folders a service runs on, without reading a weight or importing torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from acestep.config import ServiceConfig
from acestep.errors import CheckpointError, ModelMissing
from acestep.runtime.folders import find_folders

TURBO = "acestep-v15-nano-turbo"


def test_a_model_comes_with_its_companions_and_the_planner_that_fits_it(tiny_models: Path) -> None:
    folders = find_folders(ServiceConfig(model=TURBO, checkpoints=tiny_models))
    assert folders.dit == tiny_models.resolve() / TURBO
    assert folders.lm is not None and folders.lm.name == "acestep-5Hz-lm-nano"
    assert all((place / "config.json").is_file() for place in (folders.vae, folders.text_encoder))


def test_a_service_may_do_without_a_planner(tiny_models: Path) -> None:
    config = ServiceConfig.model_validate({"lm": None, "checkpoints": tiny_models})
    assert find_folders(config).lm is None


def test_a_folder_of_another_kind_is_no_planner(tiny_models: Path) -> None:
    with pytest.raises(CheckpointError, match="is a music model"):
        find_folders(ServiceConfig(lm=TURBO, checkpoints=tiny_models))
    with pytest.raises(ModelMissing, match=r"5Hz-lm-0\.6B is not on this computer"):
        find_folders(ServiceConfig(lm="acestep-5Hz-lm-0.6B", checkpoints=tiny_models))


@pytest.mark.parametrize("module", ["machine", "memory_plan"])
def test_what_the_page_asks_needs_no_torch(module: str) -> None:
    code = f"import sys, acestep.runtime.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
