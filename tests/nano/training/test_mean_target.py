"""The mean target is an average of the song."""

import torch

from scripts.nano.data import codes
from scripts.nano.data.score import compose
from scripts.nano.data.silence import PERIOD
from scripts.nano.training.mean_target import mean_target
from scripts.nano.training.train_acestep import levels_of


def test_a_mean_target_is_the_mean_of_a_period_and_knows_when_a_chord_changes() -> None:
    score = compose(1, 4.0)
    facts = levels_of(score)
    song = torch.randn(100, 64, generator=torch.Generator().manual_seed(1))
    means = torch.stack([song[phase::PERIOD].mean(0) for phase in range(PERIOD)])
    torch.testing.assert_close(mean_target(song, None), means.repeat(100 // PERIOD, 1))
    # A song whose frames say nothing but chord and place in the period is its own average.
    levels = facts.repeat_interleave(codes.FRAMES, dim=0)
    chord = levels[:, 3] * codes.LEVELS[4] + levels[:, 4]
    assert len(chord.unique()) > 1
    plain = torch.stack([chord, torch.arange(100) % PERIOD, chord * 0], dim=1).float()
    torch.testing.assert_close(mean_target(plain, facts), plain)
    assert not torch.allclose(mean_target(plain, None), plain)
