"""How often the nano planner's codes are what was asked for, through the product's own planner.

    uv run python -m scripts.nano.evaluation.judge_planner work/nano/acestep-5Hz-lm-nano --songs 60

Codes are read back as facts (`codes.decode`), so nothing is rendered and nothing is heard: this
judges the plan. The same figures for the scores' own codes are the ceiling.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from acestep.checkpoints.catalogue import Catalogue
from acestep.planner.backends.pt import PtBackend
from acestep.planner.planner import Planner
from acestep.progress import Reporter
from acestep.request import Plan, Text2Music
from scripts.nano.data import codes as nano_codes
from scripts.nano.data import songs
from scripts.nano.data.codes import Facts
from scripts.nano.data.lexicon import DRUM_WORDS, NO_DRUMS
from scripts.nano.data.score import MAJOR, MINOR, Score

FIRST_JUDGED = songs.HELD_OUT + 3_000  # a planner may be chosen by these songs
PRESET = "nano-turbo"  # says what the planner writes; nano-base says the same of it
CODE_TEMPI = np.arange(50.0, 200.0, 0.25)  # beats per minute that are told apart
TOLERANCE = 0.02
IN_KEY = 0.9  # share of the chords that must belong to the key


@dataclass(frozen=True)
class Verdict:
    """Shares of songs, from 0 to 1; `syllables` is a correlation over the sung songs.

    Attributes:
        says_bpm, says_key: the plan's metadata are those of the caption.
        tempo: of the codes, within 2 % or an octave.
        key: 90 % of the codes' chords belong to it.
        drums, voice: present where asked for, absent where asked not.
    """

    songs: int
    says_bpm: float
    says_key: float
    tempo: float
    key: float
    drums: float
    voice: float
    syllables: float

    def to_json(self) -> str:
        return json.dumps({name: round(value, 3) for name, value in asdict(self).items()})


def judge(folder: Path, count: int) -> Verdict:
    """Plan held-out songs with the planner of a folder."""
    planner = Planner(PtBackend.load(folder))
    scores = list(songs.scores(FIRST_JUDGED, count, songs.SONG_SECONDS))
    preset = Catalogue.read().presets[PRESET]
    plans = [planner.plan(caption_request(score), preset, Reporter()) for score in scores]
    planner.close()
    return verdict(scores, plans)


def ceiling(count: int) -> Verdict:
    """The scores' own codes."""
    scores = list(songs.scores(FIRST_JUDGED, count, songs.SONG_SECONDS))
    return verdict(scores, [_own_plan(score) for score in scores])


def caption_request(score: Score) -> Text2Music:
    """Tempo, key, drums and voice are asked for in words; only the length is a setting."""
    caption = score.caption
    if f"{score.bpm} bpm" not in caption.lower() and f"tempo {score.bpm}" not in caption:
        caption += f", {score.bpm} bpm"
    if score.key_scale not in caption:
        caption += f", in {score.key_scale}"
    drum_words = NO_DRUMS if score.kit is None else DRUM_WORDS[score.kit]
    if not any(name in caption for name in drum_words):
        caption += f", {drum_words[0]}"
    return Text2Music(
        caption=caption, lyrics=score.lyrics, duration=songs.SONG_SECONDS, seed=score.seed
    )


def verdict(scores: Sequence[Score], plans: Sequence[Plan]) -> Verdict:
    """Compare what was asked for with the first take of each plan."""
    facts = [[nano_codes.decode(code) for code in plan.codes[0]] for plan in plans]
    pairs = list(zip(scores, facts, strict=True))
    sung = [
        (len(score.syllables), sum(fact.voice == 2 for fact in found))
        for score, found in pairs
        if score.syllables
    ]
    return Verdict(
        songs=len(scores),
        says_bpm=_share(s.bpm == p.bpm for s, p in zip(scores, plans, strict=True)),
        says_key=_share(s.key_scale == p.key_scale for s, p in zip(scores, plans, strict=True)),
        tempo=_share(codes_have_tempo(found, score.bpm) for score, found in pairs),
        key=_share(codes_are_in_key(found, score.key, minor=score.minor) for score, found in pairs),
        drums=_share(codes_have_drums(found) == (score.kit is not None) for score, found in pairs),
        voice=_share(codes_have_voice(found) == bool(score.syllables) for score, found in pairs),
        syllables=float(np.corrcoef(np.array(sung).T)[0, 1]) if len(sung) > 2 else float("nan"),
    )


def codes_tempo(facts: Sequence[Facts]) -> float:
    """Beats per minute at which beats, eighths and sixteenths best fall on the codes' onsets."""
    times = np.array(nano_codes.onsets(facts))
    if len(times) < 4:
        return 0.0
    phases = np.outer(CODE_TEMPI / 60, times)
    fits = [np.abs(np.exp(2j * np.pi * level * phases).mean(axis=1)) for level in (1, 2, 4)]
    return float(CODE_TEMPI[np.sum(fits, axis=0).argmax()])


def codes_have_tempo(facts: Sequence[Facts], bpm: float) -> bool:
    found = codes_tempo(facts)
    return any(abs(found / (octave * bpm) - 1) <= TOLERANCE for octave in (0.5, 1, 2))


def codes_are_in_key(facts: Sequence[Facts], key: int, *, minor: bool) -> bool:
    """Whether the chords are triads of the scale."""
    scale = {(key + degree) % 12 for degree in (MINOR if minor else MAJOR)}
    chords = [fact.chord for fact in facts if fact.chord is not None]
    inside = [
        {root, (root + (3 if is_minor else 4)) % 12, (root + 7) % 12} <= scale
        for root, is_minor in chords
    ]
    return bool(chords) and sum(inside) >= IN_KEY * len(chords)


def codes_have_drums(facts: Sequence[Facts]) -> bool:
    return sum(fact.has_drums for fact in facts) > len(facts) / 2


def codes_have_voice(facts: Sequence[Facts]) -> bool:
    return any(fact.voice == 2 for fact in facts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge a nano planner by its codes.")
    parser.add_argument("folder", type=Path, help="such as work/nano/acestep-5Hz-lm-nano")
    parser.add_argument("--songs", type=int, default=60)
    arguments = parser.parse_args()
    print("scores ", ceiling(arguments.songs).to_json())
    print("planner", judge(arguments.folder, arguments.songs).to_json())


def _own_plan(score: Score) -> Plan:
    codes = (tuple(nano_codes.score_codes(score)),)
    return Plan(bpm=score.bpm, key_scale=score.key_scale, codes=codes)


def _share(claims: Iterable[bool]) -> float:
    found = list(claims)
    return sum(found) / len(found)


if __name__ == "__main__":
    main()
