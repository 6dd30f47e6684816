"""Which tokens may come next: the `<think>` block as one regular expression, the codes as a count.

Nothing here knows the network. A `TokenConstraint` is the state of one sequence: ask it for forced
tokens first (they need no sampling and are fed in one step), then for the allowed ones, and tell it
what was picked. Values the user gave are literals in the expression, so the planner cannot change
them.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from acestep.planner.think_block import FIELDS, field_lines
from acestep.planner.vocabulary import Vocabulary
from acestep.request import Plan
from acestep.request.values import LANGUAGES, MAX_DURATION, MIN_DURATION, TIME_SIGNATURES

MIN_BPM, MAX_BPM = 30, 300
FREE_TEXT_TOKENS = 512  # longest caption or genre list; a bound in the expression would be slow

# Free text may not hold "<", which starts every control token, nor what YAML cannot hold.
_WORD = r"[^\x00-\x20\x7f`<]"
_TEXT = rf"{_WORD}[^\x00-\x1f\x7f`<]*(\n\n?\n?  {_WORD}[^\x00-\x1f\x7f`<]*)*"
_LYRICS = r"[^\x00-\x09\x0b-\x1f\x7f<]*"

AllowedTokens = Bool[Tensor, " vocab"]


class TokenConstraint(Protocol):
    """What one sequence may still write."""

    @property
    def head_rows(self) -> slice:
        """The token ids that can be sampled at all: the rows of the head that are needed."""
        ...

    @property
    def is_done(self) -> bool: ...

    @property
    def is_greedy(self) -> bool:
        """The likeliest allowed token comes next, whatever the temperature."""
        ...

    def forced(self) -> list[int]:
        """The tokens that must come next, as far as there is no choice. Changes nothing."""
        ...

    def allowed(self) -> AllowedTokens:
        """True for every token of the vocabulary that may come next (on the CPU)."""
        ...

    def accept(self, token: int) -> None:
        """Go on from a token.

        Raises:
            ValueError: the token is not allowed here.
        """
        ...


@dataclass(frozen=True)
class BlockLayout:
    """What the block must look like.

    Args:
        given: values that stand in the block as they are; `None` leaves the choice to the model.
        has_caption: the model describes the song in its own words.
        has_genres: the helper modes also list genres.
        has_lyrics: lyrics follow the block, until the model ends its turn (helper modes).
        max_duration: seconds.
    """

    given: Plan = field(default_factory=Plan)
    has_caption: bool = True
    has_genres: bool = False
    has_lyrics: bool = False
    max_duration: float = MAX_DURATION

    @property
    def regex(self) -> str:
        """The whole block; also what vLLM's own structured output would take."""
        choices = {
            "bpm": _whole_numbers(MIN_BPM, MAX_BPM),
            "caption": _TEXT,
            "duration": _whole_numbers(int(MIN_DURATION), int(self.max_duration)),
            "genres": _TEXT,
            "keyscale": "[A-G](#|b|♯|♭)? (major|minor)",
            "language": "|".join(_language(code) for code in LANGUAGES),
            "timesignature": "|".join(str(n) for n in TIME_SIGNATURES),
        }
        fixed = field_lines(self.given)
        lines = [
            _literal(fixed[name]) if name in fixed else f"{name}: ({choices[name]})"
            for name in self.fields
        ]
        block = r"\n".join(["<think>", *lines, "</think>"])
        return block + _LYRICS if self.has_lyrics else block

    @property
    def fields(self) -> tuple[str, ...]:
        left_out = {"caption"} if not self.has_caption else set()
        left_out |= {"genres"} if not self.has_genres else set()
        return tuple(name for name in FIELDS if name not in left_out)


def prepare(
    vocabulary: Vocabulary, max_duration: float = MAX_DURATION, *, has_caption: bool = True
) -> None:
    """Do what the first `MetadataGrammar` would wait for, so that an idle program has it done.

    xgrammar imports transformers whichever of its modules is asked for: a second of CPU time, two
    without cached bytecode. Reading a published vocabulary and compiling the block takes another
    0.4 s. May run in any thread; a grammar that comes too early does the same work itself.

    Args:
        max_duration: as in the layouts to come; every other layout finds most of it compiled, too.
        has_caption: as in the layouts to come.
    """
    layout = BlockLayout(has_caption=has_caption, max_duration=max_duration)
    vocabulary.compiler.compile_regex(layout.regex)


class MetadataGrammar:
    """The state of one sequence that writes the block (and lyrics)."""

    def __init__(
        self, vocabulary: Vocabulary, layout: BlockLayout, free_text_tokens: int = FREE_TEXT_TOKENS
    ) -> None:
        import xgrammar  # here, because it imports transformers: seconds that only Think needs

        self.head_rows = slice(0, vocabulary.first_code)
        self._vocabulary = vocabulary
        self._layout = layout
        self._free_text_tokens = free_text_tokens
        self._field_tokens = 0  # written since the field's name
        self._bytes = bytearray()
        self._bitmask = xgrammar.allocate_token_bitmask(1, vocabulary.first_code)
        self._matcher = xgrammar.GrammarMatcher(
            vocabulary.compiler.compile_regex(layout.regex),
            terminate_without_stop_token=not layout.has_lyrics,
        )

    @property
    def text(self) -> str:
        """What has been written so far."""
        return self._bytes.decode("utf-8", errors="replace")

    @property
    def is_done(self) -> bool:
        return self._matcher.is_terminated()

    @property
    def is_greedy(self) -> bool:
        return self._field == "language"  # as the models' own program reads a language

    def forced(self) -> list[int]:
        if self.is_done:
            return []
        forced = self._forced_text()
        # A final space, and the first letters of a word that is still open (" m" of major and
        # minor), belong to the value's first token in the training data.
        tokens = self._vocabulary.encode(re.sub(r" ?[^\W\d_]*\Z", "", forced))
        matcher = self._matcher.fork()
        certain = 0
        while certain < len(tokens) and matcher.accept_token(tokens[certain]):
            certain += 1
        return tokens[:certain]

    def allowed(self) -> AllowedTokens:
        mask = torch.zeros(self._vocabulary.size, dtype=torch.bool)
        self._matcher.fill_next_token_bitmask(self._bitmask)
        bits = np.unpackbits(self._bitmask.numpy().view(np.uint8), bitorder="little")
        mask[self.head_rows] = torch.from_numpy(bits[: self.head_rows.stop]).bool()
        return mask

    def accept(self, token: int) -> None:
        field = self._field
        if not self._matcher.accept_token(token):
            raise ValueError(f"Token {token} is not allowed after {self.text[-40:]!r}.")
        if token != self._vocabulary.end:
            self._bytes += self._vocabulary.token_bytes(token)
        self._field_tokens = self._field_tokens + 1 if field == self._field else 0

    @property
    def _field(self) -> str:
        """The field that is being written: the last name that starts a line."""
        names = re.findall(rb"^(</think>|[a-z]+(?=:))", self._bytes, flags=re.MULTILINE)
        if b"</think>" in names:
            return "lyrics"
        return names[-1].decode() if names else ""

    def _forced_text(self) -> str:
        if self._field_tokens >= self._free_text_tokens and self._field in ("caption", "genres"):
            fields = self._layout.fields
            ending = f"\n{fields[fields.index(self._field) + 1]}:"
            if self._matcher.fork().accept_string(ending):  # not within a character or indent
                return ending
        try:
            return self._matcher.find_jump_forward_string()
        except UnicodeDecodeError:  # the rest of a character whose first bytes are written
            return ""


class AudioCodeConstraint:
    """The state of one sequence that writes exactly `count` audio codes and then ends."""

    is_greedy = False

    def __init__(self, vocabulary: Vocabulary, count: int) -> None:
        first = vocabulary.first_code
        self.head_rows = slice(first, first + vocabulary.codebook_size)
        self.count = count
        self.codes: list[int] = []
        self.is_done = False
        self._vocabulary = vocabulary

    def forced(self) -> list[int]:
        choices = self._choices
        return [choices.start] if len(choices) == 1 else []

    def allowed(self) -> AllowedTokens:
        mask = torch.zeros(self._vocabulary.size, dtype=torch.bool)
        mask[self._choices.start : self._choices.stop] = True
        return mask

    def accept(self, token: int) -> None:
        if token not in self._choices:
            raise ValueError(f"Token {token} is not allowed after {len(self.codes)} codes.")
        if token == self._vocabulary.end:
            self.is_done = True
        else:
            self.codes.append(self._vocabulary.code(token))

    @property
    def _choices(self) -> range:
        if self.is_done:
            return range(0)
        if len(self.codes) == self.count:
            return range(self._vocabulary.end, self._vocabulary.end + 1)
        return range(self.head_rows.start, self.head_rows.stop)


def _literal(text: str) -> str:
    """A regular expression for exactly this text."""
    return re.sub(r"([\\.^$*+?{}\[\]()|])", r"\\\1", text).replace("\n", r"\n")


@cache
def _language(code: str) -> str:
    """A language as YAML writes it (`no` is quoted)."""
    return field_lines(Plan(vocal_language=code))["language"].removeprefix("language: ")


def _whole_numbers(low: int, high: int) -> str:
    """A regular expression for the whole numbers from `low` to `high`, without leading zeros."""
    parts = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first = str(low) if length == len(str(low)) else "1" + "0" * (length - 1)
        last = str(high) if length == len(str(high)) else "9" * length
        parts.append(_digits(first, last))
    return "|".join(parts)


def _digits(low: str, high: str) -> str:
    """The numbers from `low` to `high`, which have the same number of digits."""
    if not low:
        return ""
    rest = len(low) - 1
    if low[0] == high[0]:
        return low[0] + _group(_digits(low[1:], high[1:]))
    if low[1:] == "0" * rest and high[1:] == "9" * rest:
        return f"[{low[0]}-{high[0]}]" + "[0-9]" * rest
    parts = [_digits(low, low[0] + "9" * rest)]
    if int(high[0]) - int(low[0]) > 1:
        parts.append(_digits(f"{int(low[0]) + 1}" + "0" * rest, f"{int(high[0]) - 1}" + "9" * rest))
    parts.append(_digits(high[0] + "0" * rest, high))
    return "|".join(parts)


def _group(pattern: str) -> str:
    return f"({pattern})" if "|" in pattern else pattern
