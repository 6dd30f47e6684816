"""The silence latent and its clock."""

import torch

from scripts.nano.data.silence import PERIOD, clocked_silence


def test_the_silence_is_what_it_was_with_a_clock_on_it() -> None:
    silence = clocked_silence(torch.full((1, 20, 64), 0.25))
    assert torch.equal(silence[:, PERIOD:], silence[:, :-PERIOD])
    assert len(silence[0, :PERIOD].unique(dim=0)) == PERIOD
    torch.testing.assert_close(silence.mean(1), torch.full((1, 64), 0.25), atol=1e-3, rtol=0)
    assert torch.equal(silence, silence.to(torch.bfloat16).float())
