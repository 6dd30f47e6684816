"""Where a source lies in the song to be made, and how old and new sound are joined.

Everything here counts samples of the finished song (48 kHz) or latent frames that cover it. The
frames of the source stay the frames it was encoded with, so music added before it begins a little
earlier than asked and is cut to the sample after decoding (`offset`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from acestep.media import audio
from acestep.media.audio import SAMPLES_PER_FRAME
from acestep.request.regions import Region
from acestep.types import Stereo, Waveform

MIN_FRAMES = 128  # shorter songs are filled up with silence: the networks know none (5.12 s)

Span = tuple[int, int]  # samples of the finished song


@dataclass(frozen=True)
class Timeline:
    """The layout of one song.

    Attributes:
        samples: its length.
        edited: the spans that are made anew, sorted and apart; the rest is the source's.
        pre_roll: samples that were added before the source.
        source_samples: length of the source; 0 when there is none.
    """

    samples: int
    edited: tuple[Span, ...]
    pre_roll: int = 0
    source_samples: int = 0

    @classmethod
    def blank(cls, samples: int, source_samples: int = 0) -> "Timeline":
        """A song that is new from beginning to end."""
        return cls(samples, ((0, samples),), 0, source_samples)

    @classmethod
    def around(cls, source_samples: int, regions: tuple[Region, ...]) -> "Timeline":
        """A source in which regions (settled, in its own seconds) are made anew or added."""
        spans = [tuple(round(edge * audio.SAMPLE_RATE) for edge in region) for region in regions]
        pre_roll = max(0, -spans[0][0])
        total = pre_roll + max(source_samples, spans[-1][1])
        edited = tuple((pre_roll + a, pre_roll + b) for a, b in spans)
        return cls(total, edited, pre_roll, source_samples)

    @property
    def seconds(self) -> float:
        return self.samples / audio.SAMPLE_RATE

    @property
    def offset(self) -> int:
        """Samples that are decoded before the song begins."""
        return -self.pre_roll % SAMPLES_PER_FRAME

    @property
    def song_frames(self) -> int:
        """Frames that cover the song."""
        return math.ceil((self.offset + self.samples) / SAMPLES_PER_FRAME)

    @property
    def frames(self) -> int:
        """Frames to render: the song's, or as many as the networks need."""
        return max(MIN_FRAMES, self.song_frames)

    @property
    def pre_roll_frames(self) -> int:
        """Frames before the source's first."""
        return (self.offset + self.pre_roll) // SAMPLES_PER_FRAME

    @property
    def inpaint_mask(self) -> Bool[Tensor, " frame"]:
        """True at every frame that is heard, if only in part, in a span made anew."""
        mask = torch.zeros(self.frames, dtype=torch.bool)
        for start, end in self.edited:
            first = (self.offset + start) // SAMPLES_PER_FRAME
            mask[first : math.ceil((self.offset + end) / SAMPLES_PER_FRAME)] = True
        return mask

    @property
    def preserved(self) -> Bool[Tensor, " sample"]:
        """True at every sample that is the source's."""
        preserved = torch.ones(self.samples, dtype=torch.bool)
        for start, end in self.edited:
            preserved[start:end] = False
        return preserved

    @property
    def replaced(self) -> list[Span]:
        """What of the source is made anew: the edited spans without what was added."""
        end_of_source = self.pre_roll + self.source_samples
        spans = [(max(a, self.pre_roll), min(b, end_of_source)) for a, b in self.edited]
        return [(a, b) for a, b in spans if a < b]

    def blends(self, crossfade: float) -> list[tuple[int, Span]]:
        """Each border between old and new sound, and the samples over which they are blended.

        The blend lies inside the edited span, is `crossfade` seconds long, at most half the span.
        """
        blends: list[tuple[int, Span]] = []
        for start, end in self.edited:
            length = min(round(crossfade * audio.SAMPLE_RATE), (end - start) // 2)
            blends += [(start, (start, start + length))] * (start > 0)
            blends += [(end, (end - length, end))] * (end < self.samples)
        return blends

    def cut(self, decoded: Waveform) -> Waveform:
        """The song itself, of what was decoded."""
        return decoded[..., self.offset : self.offset + self.samples]

    def lay(self, source: Waveform) -> Stereo:
        """The source in its place, and silence where it is not."""
        song = torch.zeros(2, self.samples)
        song[:, self.pre_roll : self.pre_roll + self.source_samples] = source[0]
        return song

    @property
    def new_samples(self) -> int:
        return sum(b - a for a, b in self.edited)

    def new_sound(self, song: Stereo) -> Stereo:
        """The spans made anew, one after the other."""
        return joined(song, self.edited)

    def splice(self, source: Waveform, new: Stereo, crossfade: float) -> Stereo:
        """The source with `new` in the edited spans; every other sample is the source's own.

        At each border the two are blended linearly. Where the source has ended, its mirror image
        takes its place: it goes on from the same sample, so nothing clicks.

        Args:
            new: the whole song as decoded, at its final level.
            crossfade: seconds, see `blends`.
        """
        song = self.lay(source)
        for start, end in self.edited:
            song[:, start:end] = new[:, start:end]
        for border, (start, end) in self.blends(crossfade):
            rising = torch.arange(1, end - start + 1) / (end - start + 1)
            weight = rising if border == start else rising.flip(0)
            old = self._mirrored(source, start, end)
            song[:, start:end] = torch.lerp(old, song[:, start:end], weight)
        return song

    def _mirrored(self, source: Waveform, start: int, end: int) -> Stereo:
        """Samples of the source, which is reflected at its ends."""
        last = self.source_samples - 1
        place = torch.arange(start, end) - self.pre_roll
        place = torch.where(place < 0, -1 - place, place)
        place = torch.where(place > last, 2 * last + 1 - place, place)
        return source[0][:, place.clamp(0, last)]


def joined(song: Stereo, spans: Sequence[Span]) -> Stereo:
    """Parts of a song, one after the other."""
    return torch.cat([song[:, a:b] for a, b in spans], dim=-1)
