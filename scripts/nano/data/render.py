"""Makes sound of a score: notes of the bank, mixed, ducked, with reverb; 48 kHz stereo."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scripts.nano.data.instruments import RATE, TONES, VOICES, Bank, Samples
from scripts.nano.data.score import Note, Score, Track

LOUDNESS = 0.11  # RMS of a finished mix
PEAK = 1.6  # before the soft clipper
DRUM_GAIN, DRUM_SEND = 0.75, 0.06
PANS = {"rim": -0.3, "hat": 0.3, "open": 0.3, "shaker": -0.4, "ride": 0.4}
DUCK = 0.22  # seconds that a kick holds the others down
HUM = 2400  # samples over which a voiced consonant swells


@dataclass(frozen=True)
class Event:
    """One sound in the mix: when, what, how long, how it is shaped and where it goes."""

    start: int  # samples, as all lengths here
    length: int
    sound: tuple  # the bank's key
    samples: Samples
    loops: bool  # as if it had begun with the song
    attack: int
    release: int
    left: float
    right: float
    send: float
    ducks: bool
    hum: bool = False
    decay: float = 0.0  # per second


def render(score: Score, bank: Bank) -> Samples:
    """The song as [2, sample] float32."""
    length = round(score.duration * RATE)
    held, free = np.zeros((3, length), np.float32), np.zeros((3, length), np.float32)
    for event in events(score, bank):
        bus = held if event.ducks else free
        stop = min(event.start + event.length, length)
        sound = _shape(event)[: stop - event.start]
        for row, gain in enumerate((event.left, event.right, event.send)):
            if gain:
                bus[row, event.start : stop] += np.float32(gain) * sound
    mix = free + held * duck(score, length)
    if score.reverb:
        mix[:2] += score.reverb * 1.6 * _reverberate(mix[2])
    dry = mix[:2]
    rms = float(np.sqrt(np.square(dry[:, ::7]).mean())) + 1e-9
    peak = float(np.abs(dry).max()) + 1e-9
    return np.tanh(dry * np.float32(min(LOUDNESS / rms, PEAK / peak)))


def events(score: Score, bank: Bank) -> Iterator[Event]:
    """Every sound of a song that begins before its end."""
    length = round(score.duration * RATE)
    for name, track in score.tracks.items():
        for note in track.notes:
            if round(note.start * RATE) < length:
                yield from _note_events(score, track, note, bank, ducks=name != "voice")
    for hit in score.hits:
        assert score.kit is not None
        left, right = _pan(PANS.get(hit.piece, 0.0), DRUM_GAIN * hit.velocity)
        sound = bank.drum(score.kit, hit.piece)
        yield Event(
            round(hit.start * RATE), len(sound), ("drum", score.kit, hit.piece), sound, False, 0, 0,
            left, right, DRUM_SEND * (left + right), ducks=False,
        )  # fmt: skip


def _note_events(
    score: Score, track: Track, note: Note, bank: Bank, *, ducks: bool
) -> Iterator[Event]:
    tone = TONES[track.instrument]
    start = round(note.start * RATE)
    gain = track.gain * note.velocity
    left, right = _pan(track.pan, gain)
    send = gain * track.send
    vowel = ""
    hums = False
    if track.instrument in VOICES and note.syllable is not None:
        consonant, vowel = note.syllable
        hums = consonant == "m"
        noise = bank.consonant(consonant)
        if len(noise):
            key = ("consonant", consonant)
            yield Event(start, len(noise), key, noise, False, 0, 0, left, right, send, ducks)
    length = int(note.length * RATE) + int(tone.release * RATE)
    if tone.decay is not None:
        length = min(length, int(tone.length * RATE))
    knock = bank.knock(track.instrument)
    if len(knock):
        key = ("knock", track.instrument)
        yield Event(start, len(knock), key, knock, False, 0, 0, left, right, send, ducks)
    key = (track.instrument, note.pitch, score.brightness, vowel)
    for part, layer in enumerate(bank.tone(*key)):
        to_left, to_right, to_room = left, right, send
        if layer.side is not None:
            to_left, to_right = (gain, 0.0) if layer.side == 0 else (0.0, gain)
            to_room = send / 2
        yield Event(
            start, length, (*key, part), layer.samples, True, int(tone.attack * RATE),
            int(tone.release * RATE), to_left, to_right, to_room, ducks, hums, layer.decay,
        )  # fmt: skip


def _shape(event: Event) -> Samples:
    """The sound at its full length, with attack and release."""
    if event.loops:
        sound = np.resize(np.roll(event.samples, -event.start), event.length)
    else:
        sound = event.samples[: event.length].copy()
    if event.decay:
        fall = np.float32(-event.decay / RATE) * np.arange(len(sound), dtype=np.float32)
        sound *= np.exp(fall)
    attack, release = min(event.attack, len(sound)), min(event.release, len(sound))
    if event.attack:
        sound[:attack] *= np.linspace(0, 1, event.attack, dtype=np.float32)[:attack]
    if release:
        sound[len(sound) - release :] *= np.linspace(1, 0, release, dtype=np.float32)
    if event.hum:
        hum = min(HUM, len(sound))
        sound[:hum] *= np.linspace(0.25, 1, HUM, dtype=np.float32)[:hum]
    return sound


def _pan(pan: float, gain: float) -> tuple[float, float]:
    """Constant power; the centre is at full level on both sides."""
    angle = (pan + 1) * math.pi / 4
    return gain * math.cos(angle) * math.sqrt(2), gain * math.sin(angle) * math.sqrt(2)


def duck(score: Score, length: int) -> Samples:
    """The gain that kicks leave to the instruments."""
    gain = np.ones(length, np.float32)
    if score.sidechain:
        samples = int(DUCK * RATE)
        curve = 1 - 0.75 * score.sidechain * (1 - np.linspace(0, 1, samples) ** 0.6)
        for hit in score.hits:
            if hit.piece == "kick":
                first = round(hit.start * RATE)
                stop = min(first + samples, length)
                gain[first:stop] = curve[: stop - first]
    return gain


def fft_size(length: int) -> int:
    """A size that the FFT likes, with room for the reverb's tail."""
    wanted = length + RATE // 2
    return min(
        odd << max(0, math.ceil(math.log2(wanted / odd))) for odd in (1, 3, 5, 9, 15, 25, 27, 45)
    )


def _reverberate(send: Samples) -> Samples:
    size = fft_size(len(send))
    wet = np.fft.irfft(np.fft.rfft(send, size) * room(size), size)
    return wet[:, : len(send)].astype(np.float32)


@functools.lru_cache(maxsize=4)
def room(size: int) -> Samples:
    """Spectra of two noise tails, [2, frequency]: a small bright hall of one second."""
    time = np.arange(RATE) / RATE
    spectra: list[Samples] = []
    for seed in (21, 22):
        noise = np.random.default_rng(seed).standard_normal(RATE)
        spectrum, f = np.fft.rfft(noise), np.fft.rfftfreq(RATE, 1 / RATE)
        low = 1 / np.sqrt(1 + (f / 2500) ** 4)
        high = (1 - low) / np.sqrt(1 + (f / 9000) ** 4)
        tail = np.fft.irfft(spectrum * low) * np.exp(-6.9 * time)
        tail += np.fft.irfft(spectrum * high) * np.exp(-15.3 * time)
        tail[: int(0.012 * RATE)] = 0
        tail *= np.minimum(1, time / 0.02)
        spectra.append(np.fft.rfft(tail / np.sqrt((tail**2).sum()), size))
    return np.stack(spectra).astype(np.complex64)
