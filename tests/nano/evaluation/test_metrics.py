"""What the metrics hear in rendered scores, where every fact is known."""

import math

import pytest
import torch
from torch import Tensor

from scripts.nano.data import songs
from scripts.nano.data.instruments import RATE, Bank
from scripts.nano.data.render import render
from scripts.nano.data.score import Score
from scripts.nano.evaluation import metrics
from scripts.nano.evaluation.metrics import Key

COUNT = 12


@pytest.fixture(scope="module")
def rendered() -> list[tuple[Score, Tensor]]:
    bank = Bank()
    scores = songs.scores(songs.HELD_OUT + 2000, COUNT, 20.0)
    return [(score, torch.from_numpy(render(score, bank))) for score in scores]


def share(claims: list[bool]) -> float:
    return sum(claims) / len(claims)


def tone(*frequencies: float, seconds: float = 4.0) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    waves = torch.stack([0.1 * torch.sin(2 * math.pi * f * time) for f in frequencies])
    return waves.sum(0).expand(2, -1)


def test_tempo_is_the_scores(rendered: list[tuple[Score, Tensor]]) -> None:
    found = [(metrics.tempo(song), score.bpm) for score, song in rendered]
    assert share([metrics.is_tempo(*pair) for pair in found]) >= 0.9


@pytest.mark.parametrize("bpm", [70, 100, 126, 165])
def test_clicks_have_their_tempo(bpm: int) -> None:
    song = torch.zeros(2, 15 * RATE)
    for beat in range(15 * bpm // 60):
        start = round(beat * 60 / bpm * RATE)
        song[:, start : start + 480] = 0.3 * torch.randn(
            2, len(song[0, start : start + 480]), generator=torch.Generator().manual_seed(beat)
        )
    assert metrics.is_tempo(metrics.tempo(song), bpm)
    assert not metrics.is_tempo(metrics.tempo(song), bpm * 1.1)


def test_silence_has_no_tempo() -> None:
    assert metrics.tempo(torch.zeros(2, 5 * RATE)) == 0.0


def test_key_is_the_scores_or_its_neighbour(rendered: list[tuple[Score, Tensor]]) -> None:
    relations = [
        metrics.relation(metrics.key(song), Key(score.key, score.minor)) for score, song in rendered
    ]
    assert share([relation != "other" for relation in relations]) >= 0.85
    # Four triads in turn rarely say which of a few related keys they are in.
    assert share([relation == "right" for relation in relations]) >= 0.25


@pytest.mark.parametrize(
    ("found", "relation"),
    [
        (Key(0, False), "right"), (Key(9, True), "relative"), (Key(7, False), "fifth"),
        (Key(5, False), "fifth"), (Key(0, True), "other"), (Key(4, True), "other"),
    ],
)  # fmt: skip
def test_keys_are_related_as_musicians_say(found: Key, relation: str) -> None:
    assert metrics.relation(found, Key(0, False)) == relation


def test_relations_go_both_ways() -> None:
    keys = [Key(root, is_minor) for root in range(12) for is_minor in (False, True)]
    for one in keys:
        found = [metrics.relation(one, other) for other in keys]
        assert found == [metrics.relation(other, one) for other in keys]
        assert [found.count(r) for r in ("right", "relative", "fifth")] == [1, 1, 2]


def test_chroma_knows_a_note_from_another() -> None:
    assert metrics.chroma(tone(440.0)).sum(0).argmax() == 9
    assert metrics.chroma_similarity(tone(440.0), tone(880.0)) > 0.95
    assert metrics.chroma_similarity(tone(440.0), tone(523.25)) < 0.2


def test_a_song_is_like_itself_and_less_like_others(
    rendered: list[tuple[Score, Tensor]],
) -> None:
    (_, song), (_, other) = rendered[:2]
    assert metrics.chroma_similarity(song, song) == pytest.approx(1, abs=1e-4)
    assert metrics.onset_similarity(song, song) == pytest.approx(1, abs=1e-4)
    assert metrics.mel_distance(song, song) == 0
    assert metrics.chroma_similarity(song, other) < 0.8
    assert metrics.onset_similarity(song, other) < 0.6
    assert metrics.mel_distance(song, other) > 4


def test_width_is_side_over_middle() -> None:
    left = torch.stack([torch.ones(100), torch.zeros(100)])
    assert metrics.width(left) == pytest.approx(1)
    assert metrics.width(torch.ones(2, 100)) == 0


def test_a_step_is_a_click_and_music_is_none(rendered: list[tuple[Score, Tensor]]) -> None:
    song = tone(220.0, 330.0)
    border = len(song[0]) // 2
    assert metrics.click(song, [border]) < 1.5
    stepped = song.clone()
    stepped[:, border:] += 0.05
    assert metrics.click(stepped, [border]) > 10
