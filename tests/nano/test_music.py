"""What the shipped nano models make, measured in the sound: seeds and bounds are fixed.

The bounds are below what `scripts.nano.evaluate` measured (the model cards say how much); where a
card says that a figure is not reached, there is no test that would pretend it is.
"""

from pathlib import Path

import pytest
import torch

from acestep import MusicService, Repaint, Text2Music
from acestep.request import Plan
from acestep.track import Track
from scripts.nano import metrics, songs
from scripts.nano.codes import codes
from scripts.nano.listener import Listener
from scripts.nano.score import Score, compose

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
SECONDS = 12.0
STYLES = ("hiphop", "lofi", "synthpop", "rock")  # with drums; and two without
QUIET = ("ambient", "classical")


@pytest.fixture(scope="module")
def service() -> MusicService:
    return MusicService.load(device="cpu", checkpoints=CHECKPOINTS)


@pytest.fixture(scope="module")
def planned(service: MusicService) -> list[tuple[Score, Track]]:
    """Songs whose plans are scores: what the DiT makes of a plan that is right."""
    made: list[tuple[Score, Track]] = []
    for number, style in enumerate((*STYLES, *QUIET)):
        score = compose(
            songs.EVALUATION + number, SECONDS, genre=style, time_signature=4, voice=False,
            drums=style in STYLES,
        )  # fmt: skip
        request = Text2Music(
            caption=score.caption,
            bpm=score.bpm,
            key_scale=score.key_scale,
            duration=SECONDS,
            seed=number,
            plan=Plan(codes=(tuple(codes(score)),)),
        )
        made.append((score, service.run(request)[0]))
    return made


def test_songs_have_the_asked_length_two_sides_and_a_sound_level(
    planned: list[tuple[Score, Track]],
) -> None:
    for _, track in planned:
        assert track.waveform.shape == (2, SECONDS * 48_000)
        assert 0.01 < track.waveform.std() < 0.5
        assert metrics.width(track.waveform) > 0.01


def test_songs_keep_the_tempo_of_their_plan(planned: list[tuple[Score, Track]]) -> None:
    kept = [metrics.is_tempo(metrics.tempo(t.waveform), s.bpm) for s, t in planned[: len(STYLES)]]
    assert sum(kept) >= 3


def test_drums_are_where_the_plan_has_them(planned: list[tuple[Score, Track]]) -> None:
    listener = Listener.load(CHECKPOINTS / "acestep-nano-vae")
    right = [
        listener.hear(track.waveform).has_drums == (score.kit is not None)
        for score, track in planned
    ]
    assert sum(right) >= 5


def test_a_seed_makes_its_song_again_and_another_seed_another(service: MusicService) -> None:
    def song(seed: int) -> torch.Tensor:
        request = Text2Music(caption="lo-fi beat, 80 bpm", think=False, duration=10, seed=seed)
        return service.run(request)[0].waveform

    first = song(3)
    assert torch.equal(first, song(3))
    assert not torch.allclose(first, song(4), atol=0.05)


def test_a_repaint_changes_its_region_and_nothing_else(
    service: MusicService, planned: list[tuple[Score, Track]], tmp_path: Path
) -> None:
    source = planned[0][1].save(tmp_path / "source.flac")
    request = Repaint(source_audio=source, repainting_start=4, repainting_end=8, seed=5)
    report = service.run(request)[0].report
    assert report is not None and report.samples_changed_outside == 0
    assert report.change_inside_db is not None and report.change_inside_db > 1
    assert min(report.seams) > 0.5
