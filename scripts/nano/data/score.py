"""Composes synthetic songs: every note, hit and syllable is known, and so is every fact about them.

A score is a pure function of its seed and wishes. `render` makes sound of it, `codes` makes the
planner's 5 Hz codes of it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from scripts.nano.data import lexicon
from scripts.nano.data.genres import GENRES, PATTERNS, USUAL_TEMPI, Genre
from scripts.nano.data.lexicon import choose

NOTES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
# Degrees of the scale, one per bar; none of them is diminished.
PROGRESSIONS = {
    False: ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 3), (0, 3, 0, 4), (5, 3, 0, 4)),
    True: ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 6), (0, 5, 3, 4)),
}
STEPS = {4: 16, 3: 12, 6: 12, 2: 8}  # sixteenths per bar
STEPS_PER_BEAT = {4: 4, 3: 4, 6: 6, 2: 4}
SLOW = 100  # below this tempo a line is sung in one bar, above it in two
MAX_SYLLABLES = 8  # in a line
REST = 0.08  # seconds between two sung lines


@dataclass(frozen=True)
class Note:
    start: float  # seconds
    length: float
    pitch: int  # MIDI
    velocity: float
    syllable: tuple[str, str] | None = None  # consonant and vowel, for voices


@dataclass(frozen=True)
class Hit:
    start: float
    piece: str
    velocity: float


@dataclass(frozen=True)
class Chord:
    start: float
    end: float
    root: int  # pitch class
    minor: bool

    @property
    def pitch_classes(self) -> tuple[int, int, int]:
        return self.root, (self.root + (3 if self.minor else 4)) % 12, (self.root + 7) % 12


@dataclass
class Track:
    instrument: str
    pan: float  # −1 left, 1 right
    gain: float
    send: float  # share that goes to the reverb
    notes: list[Note] = field(default_factory=list)


@dataclass
class Score:
    seed: int
    genre: str
    bpm: int
    key: int  # pitch class
    minor: bool
    time_signature: int
    duration: float  # seconds
    kit: str | None  # None: no drums
    brightness: int
    reverb: float
    sidechain: float
    tracks: dict[str, Track] = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)
    chords: list[Chord] = field(default_factory=list)
    beats: list[float] = field(default_factory=list)
    caption: str = ""
    lyrics: str = "[Instrumental]"
    language: str = "unknown"

    @property
    def key_scale(self) -> str:
        return f"{NOTES[self.key]} {'minor' if self.minor else 'major'}"

    @property
    def syllables(self) -> list[Note]:
        return self.tracks["voice"].notes if "voice" in self.tracks else []


def compose(
    seed: int,
    duration: float = 20.0,
    *,
    genre: str | None = None,
    bpm: int | None = None,
    key: int | None = None,
    minor: bool | None = None,
    time_signature: int | None = None,
    drums: bool | None = None,
    voice: bool | None = None,
) -> Score:
    """Write a song; what is None is the style's to choose. The first bar starts at 0 s."""
    rng = np.random.default_rng(seed)
    genre = genre or choose(rng, list(GENRES))
    style = GENRES[genre]
    if bpm is None:
        low, high = style.tempi
        usual = [t for t in USUAL_TEMPI if low <= t <= high]
        is_usual = rng.random() < 0.85
        bpm = choose(rng, usual) if is_usual else int(rng.integers(low, high + 1))
    metre = time_signature or choose(rng, style.metres)
    if drums is None:
        drums = rng.random() < (0.85 if style.patterns else 0.1)
    if voice is None:
        voice = rng.random() < style.sings
    score = Score(
        seed=seed,
        genre=genre,
        bpm=bpm,
        key=int(rng.integers(12)) if key is None else key,
        minor=bool(rng.random() < style.minor) if minor is None else minor,
        time_signature=metre,
        duration=duration,
        kit=style.kit if drums else None,
        brightness=style.brightness,
        reverb=style.reverb,
        sidechain=style.sidechain if drums else 0.0,
    )
    _Writer(score, style, rng).write(voice=bool(voice))
    return score


def describe(score: Score, rng: np.random.Generator) -> str:
    """A caption that is true of the score."""
    style = GENRES[score.genre]
    return lexicon.write_caption(
        rng,
        names=style.names,
        moods=style.moods,
        instruments=[track.instrument for track in score.tracks.values()],
        kit=score.kit,
        bpm=score.bpm,
        key_scale=score.key_scale,
        time_signature=score.time_signature,
    )


class _Writer:
    """Fills one score, part by part."""

    def __init__(self, score: Score, style: Genre, rng: np.random.Generator) -> None:
        self.score, self.style, self.rng = score, style, rng
        self.steps = STEPS[score.time_signature]
        self.per_beat = STEPS_PER_BEAT[score.time_signature]
        self.step = 60 / score.bpm / self.per_beat  # seconds
        self.bar = self.steps * self.step
        self.bars = math.ceil(score.duration / self.bar)
        self.scale = MINOR if score.minor else MAJOR

    def write(self, *, voice: bool) -> None:
        score, rng = self.score, self.rng
        beats = math.ceil(score.duration / (self.per_beat * self.step))
        score.beats = [i * self.per_beat * self.step for i in range(beats)]
        self._write_chords()
        bass, bass_figure = choose(self.rng, self.style.basses)
        comp, comp_figure = choose(self.rng, self.style.chords)
        lead = choose(self.rng, self.style.leads)
        self._write_bass(bass, bass_figure)
        self._write_comp(comp, comp_figure)
        if voice:
            self._write_voice("voice_high" if rng.random() < 0.5 else "voice_low")
        else:
            self._write_lead(lead)
        if score.kit is not None:
            self._write_drums()
        score.caption = describe(score, rng)

    def _time(self, bar: int, step: float) -> float:
        """Seconds of a step; every second sixteenth (eighth, in jazz) comes late with swing."""
        late = 0.0
        if self.style.swing and self.per_beat == 4:
            unit = 2 if self.score.genre == "jazz" else 1
            late = self.style.swing * unit * self.step * 0.6 * (int(step) // unit % 2)
        return bar * self.bar + step * self.step + late

    def _velocity(self, loudest: float) -> float:
        return loudest * self.rng.uniform(0.92, 1.0)

    def _add(
        self, track: Track, bar: int, step: float, length: float, pitch: int, loudest: float
    ) -> None:
        """`length` in steps; nothing starts after the song's end."""
        start = self._time(bar, step)
        if start < self.score.duration:
            track.notes.append(Note(start, length * self.step, pitch, self._velocity(loudest)))

    def _track(self, name: str, instrument: str, pan: float, gain: float, send: float) -> Track:
        track = self.score.tracks[name] = Track(instrument, pan, gain, send)
        return track

    def _write_chords(self) -> None:
        progression = choose(self.rng, PROGRESSIONS[self.score.minor])
        for bar in range(self.bars):
            degree = progression[bar % len(progression)]
            root = (self.score.key + self.scale[degree]) % 12
            third = (self.scale[(degree + 2) % 7] - self.scale[degree]) % 12
            self.score.chords.append(Chord(bar * self.bar, (bar + 1) * self.bar, root, third == 3))

    def _write_bass(self, instrument: str, figure: str) -> None:
        track = self._track("bass", instrument, 0.0, 0.85, 0.05)
        lowest = 48 if instrument == "strings" else 36 if instrument == "chipbass" else 31
        for bar, chord in enumerate(self.score.chords):
            root = lowest + (chord.root - lowest) % 12
            for step, length, pitch in self._bass_figure(figure, root, bar):
                self._add(track, bar, step, length, pitch, 1.0)

    def _bass_figure(self, figure: str, root: int, bar: int) -> Iterator[tuple[float, float, int]]:
        steps, beat = self.steps, self.per_beat
        chord = self.score.chords[bar]
        if figure == "root":
            yield 0, steps, root
        elif figure == "eighths":
            yield from ((s, 1.7, root) for s in range(0, steps, 2))
        elif figure == "octaves":
            yield from ((s, 1.7, root + 12 * (s // 2 % 2)) for s in range(0, steps, 2))
        elif figure == "offbeat":
            yield from ((s, 1.8, root) for s in range(2, steps, 4))
        elif figure == "walk":
            tones = (root, root + (3 if chord.minor else 4), root + 7, root + 9 - chord.minor)
            yield from ((s, beat * 0.9, tones[i % 4]) for i, s in enumerate(range(0, steps, beat)))
        elif figure == "kick":
            starts = [0, 7, 10] if steps == 16 else [0]
            ends = [*starts[1:], steps]
            yield from ((s, end - s, root) for s, end in zip(starts, ends, strict=True))
        elif figure == "funk":
            line = ((0, 1.8, 0), (3, 0.8, 0), (6, 1, 12), (10, 1.5, 7), (13, 1, 12))
            yield from ((s, length, root + up) for s, length, up in line if s < steps)
        else:
            raise ValueError(f"no bass figure is called {figure!r}")

    def _write_comp(self, instrument: str, figure: str) -> None:
        gain = {"pad": 0.55, "strings": 0.55, "distortion": 0.42, "square": 0.4, "saw": 0.35}
        pan = 0.0 if instrument in ("pad", "strings") else -0.25
        track = self._track("chords", instrument, pan, gain.get(instrument, 0.7), 0.5)
        for bar, chord in enumerate(self.score.chords):
            if instrument == "distortion":  # power chords are one note of the bank
                voicing = [40 + (chord.root - 40) % 12]
            else:
                voicing = sorted(57 + (pc - 57) % 12 for pc in chord.pitch_classes)
            self._comp_figure(track, figure, bar, voicing)

    def _comp_figure(self, track: Track, figure: str, bar: int, voicing: list[int]) -> None:
        steps, beat = self.steps, self.per_beat
        if figure == "hold":
            # The pad lies under the bar; a plucked note on every beat keeps the time.
            for pitch in voicing:
                self._add(track, bar, 0, steps * 0.97, pitch, 0.8)
            pulse = self.score.tracks.get("pulse") or self._track("pulse", "pluck", 0.3, 0.5, 0.5)
            for i, step in enumerate(range(0, steps, beat)):
                self._add(pulse, bar, step, beat, voicing[i % len(voicing)] + 12, 0.8)
        elif figure == "beats":
            for step in range(0, steps, beat):
                for pitch in voicing:
                    self._add(track, bar, step, beat * 0.95, pitch, 0.8 if step == 0 else 0.65)
        elif figure == "stabs":
            for step in (0, 3, 6, 10, 14) if self.score.genre == "techno" else (0, 6, 8, 14):
                for pitch in voicing if step < steps else ():
                    self._add(track, bar, step, 1.6, pitch, 0.8)
        elif figure == "eighths":
            for step in range(0, steps, 2):
                for pitch in voicing:
                    self._add(track, bar, step, 1.8, pitch, 0.9 if step % beat == 0 else 0.7)
        elif figure == "strum":
            for step in range(0, steps, 2):
                if step % beat == 0 or step % 4 == 2:
                    for i, pitch in enumerate(voicing):
                        self._add(
                            track, bar, step + i * 0.08, 2, pitch, 0.8 if step % beat == 0 else 0.5
                        )
        elif figure == "arpeggio":
            order = [*voicing, voicing[0] + 12, voicing[2], voicing[1]]
            for i, step in enumerate(range(0, steps, 2)):
                accent = 0.9 if step % beat == 0 else 0.65
                self._add(track, bar, step, 2.4, order[i % len(order)], accent)
        else:
            raise ValueError(f"no chord figure is called {figure!r}")

    def _ladder(self, lowest: int) -> list[int]:
        """Pitches of the scale over an octave and a fourth."""
        inside = {(self.score.key + degree) % 12 for degree in self.scale}
        return [pitch for pitch in range(lowest, lowest + 18) if pitch % 12 in inside]

    def _nearest_chord_tone(self, ladder: list[int], at: int, bar: int) -> int:
        tones = self.score.chords[bar].pitch_classes
        fitting = [i for i, pitch in enumerate(ladder) if pitch % 12 in tones]
        return min(fitting, key=lambda i: abs(i - at))

    def _write_lead(self, instrument: str) -> None:
        """A motif of one bar that comes back, its strong notes on chord tones."""
        gain = {"distortion": 0.4, "square": 0.45, "saw": 0.45, "strings": 0.5}
        track = self._track("lead", instrument, 0.15, gain.get(instrument, 0.65), 0.55)
        beat = self.per_beat
        rhythms = (
            range(0, self.steps, beat),
            [s for s in range(0, self.steps, beat // 2) if s % (2 * beat) != beat // 2],
        )
        motifs = [
            (list(choose(self.rng, rhythms)), self.rng.integers(-2, 3, 16).tolist())
            for _ in range(2)
        ]
        ladder = self._ladder(62 if instrument in ("distortion", "brass") else 67)
        position = len(ladder) // 2
        for bar in range(self.bars):
            if bar % 4 == 3:
                continue  # the lead breathes
            starts, moves = motifs[bar // 2 % 2]
            for i, step in enumerate(starts):
                position = min(max(position + moves[i], 0), len(ladder) - 1)
                if step % (2 * beat) == 0:
                    position = self._nearest_chord_tone(ladder, position, bar)
                end = starts[i + 1] if i + 1 < len(starts) else self.steps
                accent = 0.9 if step % beat == 0 else 0.75
                self._add(track, bar, step, (end - step) * 0.95, ladder[position], accent)

    def _write_voice(self, singer: str) -> None:
        """Lines of evenly sung syllables, one line per bar or two; then the voice is silent."""
        track = self._track("voice", singer, 0.0, 0.8, 0.45)
        length = 1 if self.score.bpm < SLOW else 2  # bars per line
        slot = 2 * length  # an eighth in slow songs, a quarter in fast ones
        slots = min(int(length * self.steps / slot), MAX_SYLLABLES)
        room = max(1, int(self.score.duration / (length * self.bar)))
        first = int(self.rng.random() < 0.3) if room > 2 else 0
        count = int(self.rng.integers(1, room - first + 1))
        ladder = self._ladder(64 if singer == "voice_high" else 52)
        position = len(ladder) // 2
        written: list[str] = []
        section = "Verse"
        for line in range(count):
            sung = int(self.rng.integers(2, slots + 1))
            text = lexicon.lyric_line(self.rng, sung)
            if line % 4 == 0:
                section = "Verse" if line % 8 == 0 else "Chorus"
                written.append(f"[{section}]")
            written.append(text)
            bar = (first + line) * length
            for i, syllable in enumerate(lexicon.syllables(text)):
                step = i * slot
                at = bar + int(step // self.steps)
                position = min(max(position + int(self.rng.integers(-2, 3)), 0), len(ladder) - 1)
                if i % 2 == 0 and at < self.bars:
                    position = self._nearest_chord_tone(ladder, position, at)
                start = bar * self.bar + step * self.step
                if start < self.score.duration - 0.2:
                    held = slot * self.step
                    if i == sung - 1:
                        held = min((length * self.steps - step) * self.step - REST, 2 * held)
                    track.notes.append(
                        Note(start, held * 0.92, ladder[position], self._velocity(0.9), syllable)
                    )
        self.score.lyrics = "\n".join(written)
        self.score.language = "en"

    def _write_drums(self) -> None:
        metre = self.score.time_signature
        if metre in (3, 6):
            pattern = PATTERNS[str(metre)]
        else:
            names = self.style.patterns or ("soft",)
            pattern = PATTERNS[choose(self.rng, names)]
        for bar in range(self.bars):
            for piece, letters in pattern.items():
                for step in range(self.steps):
                    letter = letters[step % len(letters)]
                    start = self._time(bar, step)
                    if letter != "." and start < self.score.duration:
                        loudest = 1.0 if letter == "x" else 0.55
                        self.score.hits.append(Hit(start, piece, self._velocity(loudest)))
