"""What tests of several folders share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from random_checkpoints import write_random_acestep

from scripts.make_tiny import write_all

# The networks here are tiny: a second thread costs more than it computes.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def random_acestep(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Mapping[str, Any]], Path]:
    """A maker of random checkpoint folders; the same sizes give the same folder all session."""
    made: dict[str, Path] = {}

    def make(config_dict: Mapping[str, Any]) -> Path:
        name = repr(sorted(config_dict.items()))
        if name not in made:
            made[name] = write_random_acestep(
                tmp_path_factory.mktemp("acestep"), config_dict, seed=0
            )
        return made[name]

    return make


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoints folder with the tiny set in official layout."""
    root = tmp_path_factory.mktemp("checkpoints")
    write_all(root)
    return root
