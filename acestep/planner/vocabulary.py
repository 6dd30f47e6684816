"""The planner's tokens: text and control tokens first, then one token per audio code.

Official 5 Hz models have 217,204: Qwen's 151,669 and `<|audio_code_0|>` … `<|audio_code_65534|>`,
of which 64,000 stand for a codebook entry. Everything is read from the folder's `tokenizer.json`.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tokenizers import Tokenizer

from acestep.checkpoints.files import FIRST_CODE, TOKENIZER_FILE
from acestep.errors import CheckpointError
from acestep.models.tokenizer import read_tokenizer
from acestep.request.values import CODEBOOK_SIZE

if TYPE_CHECKING:
    from xgrammar import GrammarCompiler

END = "<|im_end|>"
CONTROL_TOKENS = ("<|im_start|>", END, "<think>", "</think>", FIRST_CODE)

# Byte-level BPE (Radford et al. 2019, GPT-2) writes printable bytes as themselves and gives the
# others, in order, the characters from U+0100 on.
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = (byte for byte in range(256) if byte not in _PRINTABLE)
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(0x100 + place): byte for place, byte in enumerate(_OTHERS)
}


class Vocabulary:
    """Text ↔ token ids, and which ids are audio codes.

    Attributes:
        size: number of tokens; the model's head may have more rows.
        first_code: id of code 0; smaller ids are text, which is what phase 1 needs of the head.
        codebook_size: legal codes are the ids from `first_code` to `first_code + codebook_size`.
        end: id of the token that ends a turn.
    """

    def __init__(self, tokenizer: Tokenizer, codebook_size: int = CODEBOOK_SIZE) -> None:
        """
        Raises:
            CheckpointError: the tokenizer is not one of a 5 Hz model.
        """
        ids = {token: _id(tokenizer, token) for token in CONTROL_TOKENS}
        self.tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size(with_added_tokens=True)
        self.first_code = ids[FIRST_CODE]
        self.codebook_size = _count_codes(tokenizer, self.first_code, codebook_size)
        self.end = ids[END]

    @classmethod
    def read(cls, folder: Path, codebook_size: int = CODEBOOK_SIZE) -> Self:
        """The vocabulary in a checkpoint folder.

        Raises:
            CheckpointError: `tokenizer.json` is missing, damaged, or of another kind of model.
        """
        return cls(read_tokenizer(folder / TOKENIZER_FILE), codebook_size)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt; control tokens and codes in the text are one id each."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, control tokens and codes included."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def code(self, token: int) -> int:
        """The audio code that a token stands for."""
        return token - self.first_code

    def token_bytes(self, token: int) -> bytes:
        """What a text token adds to the output; it may hold part of a character."""
        return bytes(_BYTES[character] for character in self.tokenizer.id_to_token(token) or "")

    @cached_property
    def compiler(self) -> "GrammarCompiler":
        """Compiles grammars over the text tokens; codes are not known to it and never allowed."""
        import xgrammar

        # An id without a token gets no text, and xgrammar never allows such a one.
        spelled = [self.tokenizer.id_to_token(token) or "" for token in range(self.first_code)]
        info = xgrammar.TokenizerInfo(
            spelled, xgrammar.VocabType.BYTE_LEVEL, stop_token_ids=[self.end]
        )
        return xgrammar.GrammarCompiler(info, max_threads=2)


def _id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise CheckpointError(
            f"This is not a 5 Hz planner: its tokenizer has no {token}. "
            "Choose a folder such as acestep-5Hz-lm-0.6B."
        )
    return found


def _count_codes(tokenizer: Tokenizer, first_code: int, codebook_size: int) -> int:
    count = 0
    while (
        count < codebook_size
        and tokenizer.id_to_token(first_code + count) == f"<|audio_code_{count}|>"
    ):
        count += 1
    return count
