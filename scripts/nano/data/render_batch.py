"""The mix of `render` for many songs at once, in torch: made for a GPU, where it feeds a training.

Every sound of the bank lies in one long tensor on the device. A block of an event is a row: it is
gathered, shaped and added to its song's buses, thousands of rows in one operation.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scripts.nano.data.instruments import RATE, Bank
from scripts.nano.data.render import HUM, LOUDNESS, PEAK, Event, duck, events, fft_size, room
from scripts.nano.data.score import Score

BLOCK_SAMPLES = 4096  # per row
BLOCKS_AT_ONCE = 8192  # bounds the memory of an operation
BUSES = 6  # left, right, reverb; the same again for what kicks hold down


class BatchRenderer:
    """Renders songs of one length; sounds stay on the device from call to call."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.bank = Bank()
        self._places: dict[tuple, int] = {}
        self._sounds = torch.zeros(0, device=device)

    @torch.no_grad()
    def render(self, scores: Sequence[Score]) -> Tensor:
        """[song, 2, sample] fp32 on the device: `render.render` of each score, up to rounding.

        All scores must have the same duration.
        """
        length = round(scores[0].duration * RATE)
        if any(round(score.duration * RATE) != length for score in scores):
            raise ValueError("A batch holds songs of one duration.")
        found = [(i, event) for i, score in enumerate(scores) for event in events(score, self.bank)]
        self._keep([event for _, event in found])
        buses = self._mix(found, len(scores), length)
        ducks = torch.from_numpy(np.stack([duck(score, length) for score in scores]))
        mix = buses[:, :3] + buses[:, 3:] * ducks.to(self.device)[:, None]

        size = fft_size(length)
        hall = torch.from_numpy(room(size)).to(self.device)
        wet = torch.fft.irfft(torch.fft.rfft(mix[:, 2], size)[:, None] * hall, size)[..., :length]
        amounts = torch.tensor([score.reverb * 1.6 for score in scores], device=self.device)
        dry = mix[:, :2] + amounts[:, None, None] * wet
        rms = dry[..., ::7].square().mean((1, 2)).sqrt() + 1e-9
        peak = dry.abs().amax((1, 2)) + 1e-9
        return torch.tanh(dry * torch.minimum(LOUDNESS / rms, PEAK / peak)[:, None, None])

    def _keep(self, found: Sequence[Event]) -> None:
        """Put sounds that are new at the end of the tensor."""
        new: list[Tensor] = []
        end = len(self._sounds)
        for event in found:
            if event.sound not in self._places:
                self._places[event.sound] = end
                new.append(torch.from_numpy(event.samples))
                end += len(event.samples)
        if new:
            self._sounds = torch.cat([self._sounds, torch.cat(new).to(self.device)])

    def _mix(self, found: Sequence[tuple[int, Event]], songs: int, length: int) -> Tensor:
        """[song, bus, sample]."""
        whole = torch.tensor(
            [
                (
                    song * BUSES + 3 * event.ducks,
                    event.start,
                    min(event.length, length - event.start),  # heard
                    event.length if event.loops else min(event.length, len(event.samples)),
                    self._places[event.sound],
                    len(event.samples),
                    event.attack,
                    event.release,
                    event.hum,
                    event.start if event.loops else 0,
                )
                for song, event in found
            ],
            device=self.device,
        )
        gains = torch.tensor([(e.left, e.right, e.send) for _, e in found], device=self.device)
        falls = torch.tensor([-event.decay / RATE for _, event in found], device=self.device)
        blocks = -(-whole[:, 2] // BLOCK_SAMPLES)
        row = torch.repeat_interleave(torch.arange(len(whole), device=self.device), blocks)
        first = torch.repeat_interleave(blocks.cumsum(0) - blocks, blocks)
        number = torch.arange(len(row), device=self.device) - first
        buses = torch.zeros(songs * BUSES * length + 1, device=self.device)  # the last is for none
        for start in range(0, len(row), BLOCKS_AT_ONCE):
            rows = slice(start, start + BLOCKS_AT_ONCE)
            which = row[rows]
            self._add(buses, whole[which], gains[which], falls[which], number[rows], length)
        return buses[:-1].view(songs, BUSES, length)

    def _add(
        self,
        buses: Tensor,
        event: Tensor,
        gains: Tensor,
        falls: Tensor,
        block: Tensor,
        length: int,
    ) -> None:
        bus, begin, heard, sounding, place, size, attack, release, hum, phase = event[
            ..., None
        ].unbind(1)
        inside = torch.arange(BLOCK_SAMPLES, device=self.device)
        at = block[:, None] * BLOCK_SAMPLES + inside  # since the event's beginning
        sound = self._sounds[place + (phase + at) % size] * torch.exp(falls[:, None] * at)
        left = (sounding - 1 - at) / (torch.minimum(release, sounding) - 1).clamp_min(1)
        rise = torch.where(attack > 0, at / (attack - 1).clamp_min(1), 1.0)
        fall = torch.where(release > 0, left, 1.0)
        swell = torch.where((hum > 0) & (at < HUM), 0.25 + 0.75 * at / (HUM - 1), 1.0)
        sound = sound * rise.clamp(max=1) * fall.clamp(0, 1) * swell
        is_heard = at < heard
        for offset, gain in enumerate(gains.unbind(1)):
            target = (bus + offset) * length + begin + at
            target = torch.where(is_heard, target, len(buses) - 1)
            buses.index_add_(0, target.flatten(), (sound * gain[:, None]).flatten())
