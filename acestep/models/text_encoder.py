"""Texts for the condition encoder: caption prompts as hidden states, lyrics as embedding rows.

One Qwen3 with its tokenizer does both (published: Qwen3-Embedding-0.6B). It takes finished prompt
texts, one at a time, and knows nothing about music. Without padding in a batch of one every
position is real; the masks say so for the condition encoder, which packs by mask.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer

from acestep.checkpoints.files import TOKENIZER_FILE
from acestep.errors import CheckpointError
from acestep.models.constants import CAPTION_TOKENS, LYRICS_TOKENS
from acestep.models.load import load_qwen3
from acestep.models.qwen3 import Qwen3
from acestep.models.tokenizer import read_tokenizer
from acestep.types import States, TokenIds, TokenMask


class TextEncoder:
    """Qwen3 and its tokenizer."""

    def __init__(self, model: Qwen3, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        folder: Path,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        *,
        int8: bool = False,
    ) -> "TextEncoder":
        """Read network and tokenizer from one folder; None keeps the weights' own dtype.

        Args:
            int8: hold the layers' weights in INT8; the embedding, which lyrics are made of, not.

        Raises:
            CheckpointError: a file is missing or damaged, or the two do not belong together.
        """
        tokenizer = read_tokenizer(folder / TOKENIZER_FILE)
        model = load_qwen3(folder, dtype, device, weights="int8" if int8 else "plain")
        if (words := tokenizer.get_vocab_size()) > model.config.vocab_size:
            raise CheckpointError(
                f"{folder / TOKENIZER_FILE} has {words} tokens, but the network embeds only "
                f"{model.config.vocab_size}: they are of two models."
            )
        return cls(model, tokenizer)

    @torch.no_grad()
    def encode_caption(
        self, text: str, max_tokens: int = CAPTION_TOKENS
    ) -> tuple[States, TokenMask]:
        """The last hidden state of every token, unpooled, in the network's dtype; and all True."""
        ids = self.tokenize(text, max_tokens)
        return self.model(ids), torch.ones_like(ids, dtype=torch.bool)

    @torch.no_grad()
    def embed_lyrics(self, text: str, max_tokens: int = LYRICS_TOKENS) -> tuple[States, TokenMask]:
        """The embedding row of every token; the condition encoder gives them their context."""
        ids = self.tokenize(text, max_tokens)
        return self.model.embed(ids), torch.ones_like(ids, dtype=torch.bool)

    def tokenize(self, text: str, max_tokens: int) -> TokenIds:
        """At most `max_tokens` ids, [1, token], on the network's device.

        The tokenizer file itself says what is appended (published: `<|endoftext|>`). It counts as
        a token and survives: a text that is too long loses its own last tokens instead.
        """
        self.tokenizer.enable_truncation(max_tokens)
        ids = self.tokenizer.encode(text).ids
        return torch.tensor([ids], device=self.model.embed_tokens.weight.device)
