"""What the tests of the nano trainers share."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from acestep.models.acestep import AceStep
from acestep.models.config import AceStepConfig
from acestep.planner.vocabulary import Vocabulary
from scripts.nano.networks import tokenizer
from scripts.nano.training.trainer import read_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shared_tokenizer() -> Tokenizer:
    """Tokens learnt from a few songs."""
    return tokenizer.make(songs=40)


@pytest.fixture(scope="session")
def vocabulary(shared_tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer.with_audio_codes(shared_tokenizer))


@pytest.fixture
def small_acestep() -> AceStep:
    """A random DiT with its encoder and codec, small enough to train for a moment."""
    torch.manual_seed(0)
    network = read_config(ROOT / "configs/nano/acestep.toml")["network"]
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "head_dim": 16}
    return AceStep(AceStepConfig.from_dict({**network, **small, "fsq_dim": 64}))
