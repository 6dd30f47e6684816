"""The regions of a repaint: seconds of the source, judged and put into words.

A region may begin before the song or end after it, which is how a song is extended. Knows nothing
about samples.
"""

import re
from collections.abc import Sequence

from acestep.errors import InvalidRequest

Region = tuple[float, float]  # first and last second, counted from the source's beginning

SHORTEST = 0.04  # seconds: one latent frame
# Times are shown to a tenth of a second, so a region that begins so little past the end of the song
# was meant to begin there.
TOLERANCE = 0.1

_WRITTEN = re.compile(r"\s*([-−]?\d+(?:\.\d*)?)\s*(?::|–|to)\s*([-−]?\d+(?:\.\d*)?)\s*")


def read(text: str) -> list[list[float]] | str:
    """Regions as people write them, `12:20` or `12 to 20`, with commas between several; the text
    itself where it says something else."""
    regions: list[list[float]] = []
    for part in filter(str.strip, re.split("[,;\n]", text)):
        if (pair := _WRITTEN.fullmatch(part)) is None:
            return text
        regions.append([float(seconds.replace("−", "-")) for seconds in pair.groups()])
    return regions


def require_forward(regions: Sequence[Region], field: str) -> None:
    """Refuse what no source could make right.

    Raises:
        InvalidRequest: a region is empty, reversed, too short, or does not reach the song.
    """
    for start, end in regions:
        if end <= start:
            raise InvalidRequest(
                field, f"A region must end after it begins (you gave {start:g} s to {end:g} s)."
            )
        if end - start < SHORTEST - 1e-9:
            raise InvalidRequest(
                field,
                f"A region must be at least {SHORTEST:g} s long (you gave {start:g} s to {end:g} "
                "s).",
            )
        if end < 0:
            raise InvalidRequest(
                field,
                f"The region ends at {end:g} s, before the song begins: end it at 0 s or later.",
            )


def settle(
    regions: Sequence[Region], source_seconds: float, longest: float, field: str
) -> tuple[Region, ...]:
    """The regions on a song of this length, in its order; those that touch become one.

    Args:
        longest: seconds a song may last.

    Raises:
        InvalidRequest: a region begins past the song, the song would become too long, or nothing
            of it would stay although it is made longer.
    """
    settled: list[Region] = []
    for start, end in sorted(regions):
        if start > source_seconds + TOLERANCE:
            raise InvalidRequest(
                field,
                f"The region begins at {clock(start)}, but the song ends at "
                f"{clock(source_seconds)}: begin it there or earlier.",
            )
        start = min(start, source_seconds)
        if settled and start <= settled[-1][1]:
            start, end = settled[-1][0], max(end, settled.pop()[1])
        settled.append((start, end))
    require_forward(settled, field)
    first, last = settled[0][0], settled[-1][1]
    total = max(last, source_seconds) - min(first, 0.0)
    if total > longest + 1e-9:
        raise InvalidRequest(
            field, f"The song would become {total:g} s long; {longest:g} s is the most."
        )
    if len(settled) == 1 and total > source_seconds and first <= 0 and last >= source_seconds:
        raise InvalidRequest(
            field,
            f"The region is longer than the song ({clock(source_seconds)}) and would leave nothing "
            "of it: choose a part, or make a new song.",
        )
    return tuple(settled)


def summarize(regions: Sequence[Region], source_seconds: float) -> str:
    """What will happen to settled regions, in two or three short sentences."""
    before, after = -regions[0][0], regions[-1][1] - source_seconds
    inside = [(max(start, 0.0), min(end, source_seconds)) for start, end in regions]
    replaced = [
        f"{clock(start)}–{clock(end)} ({end - start:.1f} s)"
        for start, end in inside
        if end - start >= 0.05
    ]
    parts = [f"add {before:.1f} s before the song"] * (before > 0)
    if inside == [(0.0, source_seconds)]:
        return f"Will replace the whole song ({source_seconds:.1f} s). Nothing of it stays."
    if replaced:
        parts.append(f"replace {listed(replaced)}")
    parts += [f"add {after:.1f} s after the song"] * (after > 0)
    kept = "Everything else stays" if replaced else "The song itself stays"
    total = max(regions[-1][1], source_seconds) - min(regions[0][0], 0.0)
    length = f" It will be {clock(total)} long." if total > source_seconds else ""
    return f"Will {listed(parts)}. {kept} bit-identical.{length}"


def clock(seconds: float) -> str:
    """Minutes, seconds and tenths: `0:12.0`, `−0:05.0`."""
    tenths = round(abs(seconds) * 10)
    minutes, rest = divmod(tenths, 600)
    return f"{'−' if seconds < 0 and tenths else ''}{minutes}:{rest / 10:04.1f}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
