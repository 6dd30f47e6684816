"""Plan ↔ text: the `<think>` block of metadata and the audio codes as the planner reads and writes
them.

The block is what PyYAML's block dump gives for the sorted fields, because that is what the
checkpoints were trained on: lines wrap past 80 columns, and a value that YAML would misread is
quoted (a caption with ": ", the language `no`). The `Plan` itself is pure data in
`acestep.request`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from acestep.errors import InvalidRequest
from acestep.request import Plan
from acestep.request.values import CODE_RATE, CODEBOOK_SIZE

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
FIELDS = ("bpm", "caption", "duration", "genres", "keyscale", "language", "timesignature")
_FIELD_START = re.compile(rf"^({'|'.join(FIELDS)}):", flags=re.MULTILINE)
_PLAN_FIELDS = {  # the block's name → ours
    "bpm": "bpm",
    "caption": "caption",
    "duration": "duration",
    "keyscale": "key_scale",
    "language": "vocal_language",
    "timesignature": "time_signature",
}


@dataclass(frozen=True)
class Description:
    """What the helper modes write: metadata and caption, a genre list, and lyrics."""

    plan: Plan
    genres: str
    lyrics: str


def is_whole(plan: Plan) -> bool:
    """Whether tempo, length, key and time signature are all known: phase 1 is for these."""
    return None not in (plan.bpm, plan.duration, plan.key_scale, plan.time_signature)


def keep_given(plan: Plan, chosen: Plan) -> Plan:
    """The plan with the user's values put back, fractions of a second included."""
    kept = {name: value for name, value in chosen if name != "codes" and value not in (None, "")}
    return plan.model_copy(update=kept)


def field_lines(plan: Plan) -> dict[str, str]:
    """Each field that has a value → its YAML text, in the block's alphabetical order."""
    values: dict[str, Any] = {
        "bpm": plan.bpm,
        "caption": _number_if_digits(plan.caption) if plan.caption else None,
        "duration": None if plan.duration is None else int(plan.duration),
        "keyscale": plan.key_scale,
        "language": plan.vocal_language,
        "timesignature": plan.time_signature,
    }
    return {
        name: yaml.safe_dump({name: value}, allow_unicode=True).strip()
        for name, value in values.items()
        if value is not None
    }


def to_text(plan: Plan) -> str:
    """The closed `<think>` block of a plan's metadata; codes are not part of it."""
    return "\n".join([THINK_OPEN, "\n".join(field_lines(plan).values()), THINK_CLOSE])


def from_text(text: str) -> Plan:
    """The metadata in a `<think>` block that the planner wrote.

    Tolerant, since a model wrote it: the tags may be missing or cut off, and a value that cannot
    be read (`N/A`, a bpm of 900) counts as not given.
    """
    return _plan(read_fields(split_think(text)[0]))


def describe(text: str) -> Description:
    """The answer of a helper mode: a block with genres, then lyrics."""
    block, rest = split_think(text)
    fields = read_fields(block)
    lyrics = re.sub(r"\A#+ *lyrics?:? *\n", "", _without_end(rest).strip(), flags=re.IGNORECASE)
    return Description(_plan(fields), fields.get("genres", ""), lyrics.strip())


def split_think(text: str) -> tuple[str, str]:
    """The inside of the block and what follows it; all of the text where the tag is missing."""
    body = text.lstrip().removeprefix(THINK_OPEN)
    # A caption can quote the tag, but only the real one starts a line: YAML indents the rest.
    close = re.search(f"^{THINK_CLOSE}", body, flags=re.MULTILINE)
    if close is not None:
        return body[: close.start()].strip("\n"), body[close.end() :]
    inside, tag, rest = body.rpartition(THINK_CLOSE)
    if tag and not _FIELD_START.search(rest):
        return inside.strip("\n"), rest
    body = _without_end(body)
    head, newline, last_line = body.rpartition("\n")
    cut_off = newline and last_line and THINK_CLOSE.startswith(last_line)
    return (head if cut_off else body).strip("\n"), ""


def read_fields(block: str) -> dict[str, str]:
    """Field name → value as text, for every known field that starts a line of the block."""
    _, *pieces = _FIELD_START.split(block)
    fields: dict[str, str] = {}
    for name, value in zip(pieces[::2], pieces[1::2], strict=True):
        fields.setdefault(name, _scalar(value.strip(" \n")))
    return fields


def codes_to_text(codes: Sequence[int]) -> str:
    """Codes in the planner's spelling, one token each."""
    return "".join(f"<|audio_code_{code}|>" for code in codes)


def codes_from_text(text: str) -> tuple[int, ...]:
    """Every audio code in a text. The vocabulary has 65,535 of them and the codebook 64,000, so
    larger ones become the last."""
    found = re.findall(r"<\|audio_code_(\d{1,9})\|>", text)
    return tuple(min(int(code), CODEBOOK_SIZE - 1) for code in found)


def code_count(duration: float) -> int:
    """How many codes cover a song of this many seconds: five per second, the last one begun."""
    return math.ceil(duration * CODE_RATE - 1e-6)  # 8.2 * 5 may come out just above 41


def _plan(fields: dict[str, str]) -> Plan:
    values = {_PLAN_FIELDS[name]: value for name, value in fields.items() if name in _PLAN_FIELDS}
    return Plan.model_validate({name: v for name, v in values.items() if _is_valid(name, v)})


def _is_valid(name: str, value: str) -> bool:
    try:
        Plan.model_validate({name: value})
    except InvalidRequest:
        return False
    return True


def _number_if_digits(text: str) -> str | int:
    """The training data stored captions of digits as numbers, hence unquoted."""
    return int(text) if re.fullmatch(r"0|[1-9][0-9]{0,17}", text) else text


def _without_end(text: str) -> str:
    return text.rstrip().removesuffix("<|im_end|>").rstrip("\n")


def _scalar(raw: str) -> str:
    """A YAML scalar as text: quoted by YAML's rules, anything else word for word.

    Plain values skip the YAML parser on purpose: a model that forgets the quotes of `a: b` or
    `drums #1` still means the whole line.
    """
    if raw[:1] in ("'", '"'):
        try:
            value = yaml.load(f"value: {raw}", Loader=yaml.BaseLoader)
        except yaml.YAMLError:
            value = None
        if isinstance(value, dict) and isinstance(value.get("value"), str):
            return value["value"]
        raw = raw[1:].removesuffix(raw[0]) or raw
    return _fold(raw)


def _fold(raw: str) -> str:
    """YAML's line folding: one line break is a space, each further one a new line."""
    return re.sub(
        r" *(\n+) *",
        lambda breaks: "\n" * (len(breaks[1]) - 1) or " ",
        re.sub(r"\n +\n", "\n\n", raw),
    )
