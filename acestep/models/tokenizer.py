"""A checkpoint's `tokenizer.json`, read in one way for the text encoder and the planner."""

from pathlib import Path

from tokenizers import Tokenizer

from acestep.errors import CheckpointError


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer that neither pads nor truncates, whatever its file says.

    Raises:
        CheckpointError: the file is missing, damaged, or does not describe a tokenizer.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: the folder is not a complete model.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Download it again.") from error
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:
        # The tokenizers library raises this class itself, and no narrower one, for all it refuses.
        if type(error) is not Exception:
            raise
        raise CheckpointError(
            f"{path} is damaged, or is no tokenizer ({error}). Download it again."
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
