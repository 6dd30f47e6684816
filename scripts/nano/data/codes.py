"""The nano models' 5 Hz codes: what can be heard in each 200 ms of a score.

The official tokenizer learns its codes without labels. Ours is trained to transcribe: each of the
five quantizer dimensions stands for one fact, so that the planner can learn to write music from
scores alone, a thousand times faster than from sound.

    dimension   levels   meaning
    beat        6        no accent, or the frame (0–4) in which the kick falls; without drums, the
                         chords' attack on a beat
    backbeat    7        no drums, drums without snare, or the frame (0–4) of the snare or clap
    voice       3        silent, held, a syllable begins
    chord       5 × 5    no chord, or one of 24 triads in the order of fifths
"""

from collections.abc import Sequence
from typing import NamedTuple

from scripts.nano.data.score import Chord, Note, Score

CODE_RATE = 5  # codes per second
FRAMES = 5  # latent frames per code
FRAME = 1 / (CODE_RATE * FRAMES)  # seconds
LEVELS = (6, 7, 3, 5, 5)
BACKBEATS = ("snare", "clap", "rim")


class Facts(NamedTuple):
    """One code, decoded. Frames are 0–4; None where nothing falls."""

    beat: int | None
    has_drums: bool
    backbeat: int | None
    voice: int  # 0 silent, 1 held, 2 a syllable begins
    chord: tuple[int, bool] | None  # root pitch class, is minor


def score_codes(score: Score) -> list[int]:
    """Five codes per second of the score's duration."""
    return [encode(facts) for facts in transcribe(score)]


def transcribe(score: Score) -> list[Facts]:
    """What each 200 ms hold, from the score alone."""
    count = round(score.duration * CODE_RATE)
    if score.kit is None:
        attacks = {round(note.start, 4) for note in _comp(score)}
        beats = [beat for beat in score.beats if round(beat, 4) in attacks]
    else:
        beats = [hit.start for hit in score.hits if hit.piece == "kick"]
    accents = _frames(beats, count)
    backbeats = _frames([h.start for h in score.hits if h.piece in BACKBEATS], count)
    voice = [0] * count
    for note in score.syllables:
        first, last = int(note.start * CODE_RATE), int((note.start + note.length) * CODE_RATE)
        for window in range(first, min(last + 1, count)):
            voice[window] = max(voice[window], 1)
        voice[min(first, count - 1)] = 2
    return [
        Facts(
            beat=accents[window],
            has_drums=score.kit is not None,
            backbeat=backbeats[window],
            voice=voice[window],
            chord=_chord_at(score.chords, (window + 0.5) / CODE_RATE),
        )
        for window in range(count)
    ]


def encode(facts: Facts) -> int:
    """The first dimension is the lowest digit, as in `acestep.models.codec.Quantizer`."""
    code, base = 0, 1
    for digit, levels in zip(digits(facts), LEVELS, strict=True):
        code, base = code + digit * base, base * levels
    return code


def digits(facts: Facts) -> tuple[int, int, int, int, int]:
    """The level of each quantizer dimension."""
    backbeat = 0
    if facts.has_drums:
        backbeat = 1 if facts.backbeat is None else 2 + facts.backbeat
    chord = 0
    if facts.chord is not None:
        root, minor = facts.chord
        # Fifths apart are neighbours, and so are a major triad and its relative minor.
        major_root = (root + 3) % 12 if minor else root
        chord = 1 + 2 * (major_root * 7 % 12) + minor
    beat = 0 if facts.beat is None else 1 + facts.beat
    return beat, backbeat, facts.voice, chord // 5, chord % 5


def decode(code: int) -> Facts:
    """The inverse of `encode`."""
    levels: list[int] = []
    for count in LEVELS:
        code, digit = divmod(code, count)
        levels.append(digit)
    beat, backbeat, voice, row, column = levels
    chord = None
    if index := row * 5 + column:
        fifth, minor = divmod(index - 1, 2)
        root = fifth * 7 % 12
        chord = ((root - 3) % 12 if minor else root, bool(minor))
    return Facts(
        beat=beat - 1 if beat else None,
        has_drums=backbeat > 0,
        backbeat=backbeat - 2 if backbeat > 1 else None,
        voice=voice,
        chord=chord,
    )


def onsets(facts: Sequence[Facts]) -> list[float]:
    """Seconds of the beats and backbeats that codes stand for, to the middle of their frame."""
    found: list[float] = []
    for window, fact in enumerate(facts):
        for frame in {fact.beat, fact.backbeat}:
            if frame is not None:
                found.append(window / CODE_RATE + (frame + 0.5) * FRAME)
    return sorted(found)


def _frames(starts: Sequence[float], count: int) -> list[int | None]:
    """The frame of the first event in each window."""
    found: list[int | None] = [None] * count
    for start in starts:
        window, frame = divmod(int(start / FRAME + 1e-6), FRAMES)
        if window < count and found[window] is None:
            found[window] = frame
    return found


def _comp(score: Score) -> list[Note]:
    """The notes that keep the time where no drum does."""
    return score.tracks["pulse" if "pulse" in score.tracks else "chords"].notes


def _chord_at(chords: Sequence[Chord], time: float) -> tuple[int, bool] | None:
    chord = next((c for c in chords if c.start <= time < c.end), None)
    return None if chord is None else (chord.root, chord.minor)
