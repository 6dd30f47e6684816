"""A small planner vocabulary: Qwen's word splitting and control tokens, few merges, 100 codes."""

import pytest
from tokenizers import Tokenizer

from acestep.planner.vocabulary import Vocabulary
from scripts.make_tiny import train_tokenizer, with_codes

BLOCK = (
    "<think>\nbpm: 120\ncaption: A calm piano melody, with strings and drums.\nduration: 180\n"
    "genres: folk\nkeyscale: F# minor\nkeyscale: G major\nlanguage: en\ntimesignature: 4\n</think>"
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return with_codes(train_tokenizer([BLOCK] * 20, size=400), 100)


@pytest.fixture(scope="session")
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer, codebook_size=90)
