"""What the tests of the nano trainers share."""

import pytest
from tokenizers import Tokenizer

from acestep.planner.vocabulary import Vocabulary
from scripts.nano.networks import tokenizer


@pytest.fixture(scope="session")
def shared_tokenizer() -> Tokenizer:
    """Tokens learnt from a few songs."""
    return tokenizer.make(songs=40)


@pytest.fixture(scope="session")
def vocabulary(shared_tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer.with_audio_codes(shared_tokenizer))
