"""The sounds of the synthetic songs: one waveform per instrument and pitch, made once and kept.

Tones are sums of partials on the clock of the latents. Every partial of a low tone turns a whole
number of times in 400 ms, of any other in 200 ms (one code, five latent frames), and its phase is
that of its frequency at the song's beginning, whichever note it belongs to. The same chord is
then the same latents wherever it is played, which is what lets a network of this size learn harmony
in an hour; the price is that chords are up to 20 and basses up to 35 cents off. Drums are swept
sines and filtered noise; the voice is a row of partials under four formants (Peterson & Barney
1952).
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

RATE = 48_000
LOOP = 2 * RATE // 5  # samples after which every tone repeats
FINE, COARSE, LOW = 2.5, 5.0, 180.0  # Hz: partials lie on the fine grid below LOW, else the coarse
HIGHEST_PARTIAL = 19_000.0  # Hz; no partial lies above
VIBRATO = 5.0  # Hz, on the grid too
KNOCK = 0.006  # seconds
HASTE = ((1, 3, 1.0), (3, 8, 2.0), (8, 80, 4.5))  # of struck partials: the higher, the sooner
CUTOFFS = (1600.0, 4000.0, 9000.0)  # Hz, by brightness

PHASES = np.exp(2j * np.pi * np.random.default_rng(11).random((2, LOOP // 2 + 1)))
"""Of every frequency at the song's beginning, for the left (and the middle) and the right side."""
PHASES = np.exp(2j * np.pi * np.random.default_rng(11).random((2, LOOP // 2 + 1)))
"""Of every frequency at the song's beginning, for the left (and the middle) and the right side."""

Samples = np.ndarray  # float32, [sample] or [2, sample]


@dataclass(frozen=True)
class Tone:
    """How an instrument sounds and how its notes begin and end.

    `rolloff` is the exponent by which partials fall; `pluck` the place where a string is struck,
    which silences some of them; `decay` the loss per second of a struck tone (None: it is held).
    """

    rolloff: float
    gain: float = 0.45
    decay: float | None = None
    length: float = 2.0  # seconds of a struck tone
    pluck: float = 0.0
    partials: tuple[float, ...] = ()  # instead of a roll-off
    odd: bool = False  # only odd partials, as in a square wave
    detune: float = 0.0  # relative; makes three voices and, with `wide`, two different sides
    wide: bool = False
    fixed_cutoff: float | None = None  # Hz; None: the song's brightness
    attack: float = 0.003  # seconds
    release: float = 0.06
    knock: float = 0.0  # level of the noise of its attack


TONES: dict[str, Tone] = {
    "piano": Tone(1.25, 0.5, decay=1.0, length=3.2, pluck=0.12, knock=0.08, release=0.12),
    "epiano": Tone(
        2.0, 0.42, decay=1.0, length=3.0, partials=(1, 0.35, 0.08, 0, 0.05), release=0.12
    ),
    "harp": Tone(1.5, 0.5, decay=1.4, length=2.2, pluck=0.3, release=0.4),
    "guitar": Tone(1.3, 0.5, decay=1.6, length=2.2, pluck=0.22, knock=0.08, release=0.1),
    "pluck": Tone(0.8, 0.45, decay=3.2, length=1.4, pluck=0.21),
    "vibes": Tone(3.0, 0.5, decay=1.2, length=3.0, partials=(1, 0, 0, 0.28), release=0.4),
    "ebass": Tone(1.1, 0.6, decay=1.0, length=2.4, pluck=0.18, knock=0.08),
    "upright": Tone(1.4, 0.62, decay=1.7, length=2.0, pluck=0.25, knock=0.1),
    "sub": Tone(2.0, 0.62, partials=(1, 0.25, 0.12, 0.05), attack=0.006),
    "synthbass": Tone(1.0, 0.45),
    "chipbass": Tone(2.0, 0.5, odd=True, fixed_cutoff=9000.0),
    "square": Tone(1.0, 0.34, odd=True, fixed_cutoff=9000.0),
    "saw": Tone(1.0, 0.45, detune=0.0022, attack=0.006),
    "organ": Tone(1.0, 0.3, partials=(0.9, 0.7, 0.55, 0.35, 0, 0.18, 0, 0.1), attack=0.006),
    "brass": Tone(0.9, 0.42, detune=0.0015, attack=0.03, fixed_cutoff=3000.0),
    "flute": Tone(2.0, 0.45, partials=(1, 0.32, 0.14, 0.05, 0.02), attack=0.045),
    "pad": Tone(1.0, 0.4, detune=0.0028, wide=True, attack=0.2, release=0.4),
    "strings": Tone(0.95, 0.4, detune=0.0028, wide=True, attack=0.09, release=0.2),
    "distortion": Tone(0.7, 0.42, pluck=0.13, fixed_cutoff=3800.0),
    "voice_high": Tone(0.9, 0.5, attack=0.03),
    "voice_low": Tone(0.9, 0.5, attack=0.03),
}
VOICES = ("voice_low", "voice_high")
FORMANTS = {  # centre Hz, bandwidth Hz, gain
    "a": ((800, 90, 1.0), (1200, 110, 0.6), (2600, 150, 0.25), (3500, 200, 0.15)),
    "e": ((480, 80, 1.0), (1900, 110, 0.5), (2600, 150, 0.3), (3600, 200, 0.15)),
    "i": ((310, 60, 1.0), (2250, 110, 0.45), (3000, 150, 0.35), (3700, 200, 0.15)),
    "o": ((480, 80, 1.0), (850, 100, 0.6), (2500, 150, 0.15), (3400, 200, 0.08)),
    "u": ((330, 60, 1.0), (720, 90, 0.4), (2400, 150, 0.1), (3300, 200, 0.05)),
}
FORMANT_FLOOR = 0.012
KICKS = {  # start Hz, end Hz, decay per second, sweep per second, seconds
    "808": (130, 46, 4.5, 28, 0.7), "909": (240, 52, 9, 40, 0.4), "rock": (150, 58, 14, 35, 0.3),
    "jazz": (110, 62, 16, 25, 0.25), "lofi": (120, 54, 11, 30, 0.3), "chip": (300, 60, 16, 30, 0.2),
}  # fmt: skip
SNARES = {"jazz": (0.22, 8000.0), "lofi": (0.2, 5500.0), "chip": (0.15, 11_000.0)}  # s, Hz
CYMBALS = {  # seconds, decay per second, lowest Hz, highest Hz, gain
    "hat": (0.09, 60, 7000, 15_000, 0.32), "open": (0.3, 14, 6500, 15_000, 0.26),
    "shaker": (0.11, 40, 5000, 12_000, 0.22), "ride": (0.5, 9, 5000, 14_000, 0.2),
}  # fmt: skip
NOISES = {  # seconds, lowest Hz, highest Hz, gain
    "s": (0.11, 4500, 10_000, 0.16), "sh": (0.11, 2200, 6000, 0.18), "t": (0.035, 3000, 9000, 0.22),
    "k": (0.045, 1200, 4500, 0.22), "p": (0.03, 300, 2500, 0.2), "f": (0.09, 1500, 9000, 0.08),
    "h": (0.07, 600, 3500, 0.08),
}  # fmt: skip


def frequency(pitch: int) -> float:
    """Hz of a MIDI pitch: equal temperament, A4 = 440, moved to the nearest point of the grid."""
    hertz = 440.0 * 2.0 ** ((pitch - 69) / 12.0)
    return _grid(hertz) * round(hertz / _grid(hertz))


class Layer(NamedTuple):
    """A part of a tone: a loop that starts at the song's beginning and is faded by `decay`.

    Attributes:
        samples: [LOOP]
        decay: per second after the note's start; 0 is held.
        side: 0 left, 1 right, None both.
    """

    samples: Samples
    decay: float = 0.0
    side: int | None = None


@dataclass
class Bank:
    """Every sound that has been asked for, as float32."""

    _sounds: dict[tuple, Samples] = field(default_factory=dict)
    _tones: dict[tuple, tuple[Layer, ...]] = field(default_factory=dict)

    def tone(
        self, instrument: str, pitch: int, brightness: int, vowel: str = ""
    ) -> tuple[Layer, ...]:
        """The layers of a tone; those of a wide instrument are left and right."""
        key = (instrument, pitch, brightness, vowel)
        if key not in self._tones:
            hertz = frequency(pitch)
            if instrument in VOICES:
                size = 1.0 if instrument == "voice_low" else 1.15
                layers = (Layer(_voice(hertz, vowel, size)),)
            elif instrument == "distortion":
                layers = (Layer(_distortion(hertz, TONES[instrument])),)
            else:
                layers = _tone(TONES[instrument], hertz, brightness)
            sides = [[x for x in layers if x.side in (side, None)] for side in (0, 1)]
            peak = max(np.abs(sum(x.samples for x in heard)).max() for heard in sides) + 1e-6
            gain = TONES[instrument].gain / peak
            self._tones[key] = tuple(
                layer._replace(samples=(gain * layer.samples).astype(np.float32))
                for layer in layers
            )
        return self._tones[key]

    def knock(self, instrument: str) -> Samples:
        """The noise with which a string is struck; empty for what is not struck."""
        key = ("knock", instrument)
        if key not in self._sounds:
            samples = int(KNOCK * RATE) if TONES[instrument].knock else 0
            noise = np.random.default_rng(7).standard_normal(samples)
            noise *= np.linspace(TONES[instrument].knock * TONES[instrument].gain, 0, samples)
            self._sounds[key] = noise.astype(np.float32)
        return self._sounds[key]

    def drum(self, kit: str, piece: str) -> Samples:
        key = ("drum", kit, piece)
        if key not in self._sounds:
            self._sounds[key] = _drum(kit, piece).astype(np.float32)
        return self._sounds[key]

    def consonant(self, letter: str) -> Samples:
        """The noise before a vowel; empty for those that are voiced."""
        key = ("consonant", letter)
        if key not in self._sounds:
            sound = np.zeros(0)
            if letter in NOISES:
                seconds, low, high, gain = NOISES[letter]
                samples = int(seconds * RATE)
                sound = gain * _noise(samples, low, high, 11) * np.hanning(samples)
            self._sounds[key] = sound.astype(np.float32)
        return self._sounds[key]


def _tone(tone: Tone, hertz: float, brightness: int) -> tuple[Layer, ...]:
    numbers = np.arange(1, 80)
    if tone.partials:
        levels = np.zeros(len(numbers))
        levels[: len(tone.partials)] = tone.partials
    else:
        levels = numbers**-tone.rolloff
        if tone.pluck:
            levels = levels * np.abs(np.sin(np.pi * numbers * tone.pluck))
        if tone.odd:
            levels = levels * (numbers % 2)
    cutoff = tone.fixed_cutoff or CUTOFFS[brightness]
    levels = levels / np.sqrt(1 + (hertz * numbers / cutoff) ** 4)
    if tone.wide:
        return tuple(Layer(_loop(hertz, levels, tone.detune, side), side=side) for side in (0, 1))
    if tone.decay is None:
        return (Layer(_loop(hertz, levels, tone.detune)),)
    decay = tone.decay * (hertz / 262) ** 0.45
    groups = [(np.where((numbers >= low) & (numbers < high), levels, 0), haste * decay)
              for low, high, haste in HASTE]  # fmt: skip
    return tuple(Layer(_loop(hertz, group), fall) for group, fall in groups if group.any())


def _loop(hertz: float, levels: Samples, detune: float = 0.0, side: int = 0) -> Samples:
    """Partials on the grid; with `detune` three voices."""
    spectrum = np.zeros(LOOP // 2 + 1, complex)
    for number, level in enumerate(levels, start=1):
        for offset in (-detune, 0.0, detune) if detune else (0.0,):
            partial = hertz * number * (1 + offset)
            if level and partial < HIGHEST_PARTIAL:
                place = round(round(partial / _grid(hertz)) * _grid(hertz) / FINE)
                spectrum[place] += level * PHASES[side, place]
    return np.fft.irfft(spectrum, LOOP)


def _grid(hertz: float) -> float:
    return FINE if hertz < LOW else COARSE


def _distortion(hertz: float, tone: Tone) -> Samples:
    """A power chord (root, fifth, octave) through a soft clipper and a loudspeaker."""
    numbers = np.arange(1, 80)
    levels = np.abs(np.sin(np.pi * numbers * tone.pluck)) * numbers**-tone.rolloff
    chord = sum(_loop(hertz * r, levels, 0.0, 0) * g for r, g in ((1, 1), (1.5, 1), (2, 0.6)))
    clipped = np.tanh(chord / np.abs(chord).max() * 5)
    spectrum, f = np.fft.rfft(clipped), np.fft.rfftfreq(LOOP, 1 / RATE)
    assert tone.fixed_cutoff is not None
    presence = 1 + 0.8 * np.exp(-(((f - 2200) / 900) ** 2))
    return np.fft.irfft(spectrum * (f > 70) * presence / np.sqrt(1 + (f / tone.fixed_cutoff) ** 8))


def _voice(hertz: float, vowel: str, size: float) -> Samples:
    """A sung vowel with vibrato; `size` moves the formants up for a smaller head."""
    time = np.arange(LOOP) / RATE
    phase = 2 * np.pi * hertz * time + hertz * 0.0011 * np.sin(2 * np.pi * VIBRATO * time)
    sound = np.zeros(LOOP)
    for number in range(1, int(min(60, 9000 / hertz)) + 1):
        level = number**-0.9 * _formant(hertz * number / size, vowel)
        start = np.angle(PHASES[0, round(number * hertz / FINE)])
        sound += level * np.sin(number * phase + start)
    return sound


def _formant(hertz: float, vowel: str) -> float:
    peaks = (
        gain / (1 + ((hertz - centre) / (0.9 * width)) ** 2)
        for centre, width, gain in FORMANTS[vowel]
    )
    return FORMANT_FLOOR + sum(peaks)


def _noise(samples: int, low: float, high: float, seed: int) -> Samples:
    """White noise between two frequencies, its loudest sample at 1."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    f = np.fft.rfftfreq(samples, 1 / RATE)
    spectrum /= np.sqrt(1 + (low / np.maximum(f, 1)) ** 6) * np.sqrt(1 + (f / high) ** 6)
    sound = np.fft.irfft(spectrum, samples)
    return sound / (np.abs(sound).max() + 1e-9)


def _drum(kit: str, piece: str) -> Samples:
    if piece == "kick":
        start, end, decay, sweep, seconds = KICKS[kit]
        time = np.arange(int(seconds * RATE)) / RATE
        turns = end * time + (start - end) / sweep * (1 - np.exp(-sweep * time))
        sound = 0.95 * np.sin(2 * np.pi * turns) * np.exp(-decay * time)
    elif piece == "snare":
        seconds, high = SNARES.get(kit, (0.25, 11_000.0))
        time = np.arange(int(seconds * RATE)) / RATE
        turns = 185 * time + 3 * (1 - np.exp(-60 * time))
        body = 0.5 * np.sin(2 * np.pi * turns) * np.exp(-24 * time)
        rattle = 0.6 * _noise(len(time), 900, high, 2) * np.exp(-18 * time)
        sound = 0.75 * (body + rattle)
    elif piece == "clap":
        time = np.arange(int(0.25 * RATE)) / RATE
        noise, sound = _noise(len(time), 900, 6000, 3), np.zeros(len(time))
        for delay, decay in ((0.0, 90), (0.011, 90), (0.022, 90), (0.03, 20)):
            first = int(delay * RATE)
            rest = len(time) - first
            sound[first:] += noise[:rest] * np.exp(-decay * time[:rest])
        sound *= 0.6 / np.abs(sound).max()
    elif piece == "rim":
        time = np.arange(int(0.06 * RATE)) / RATE
        sound = np.sin(2 * np.pi * 1700 * time) + 0.6 * np.sin(2 * np.pi * 820 * time)
        sound *= 0.45 * np.exp(-90 * time)
    else:
        seconds, decay, low, high, gain = CYMBALS[piece]
        time = np.arange(int(seconds * RATE)) / RATE
        sound = gain * _noise(len(time), low, high, len(piece)) * np.exp(-decay * time)
        if piece == "shaker":
            sound *= np.minimum(1, time / 0.02)
    fade = min(400, len(sound))
    sound[-fade:] *= np.linspace(1, 0, fade)
    return sound
