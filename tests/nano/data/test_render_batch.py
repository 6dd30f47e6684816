"""The batch renderer makes what the readable one makes."""

import numpy as np
import pytest

from scripts.nano.data.genres import GENRES
from scripts.nano.data.render import render
from scripts.nano.data.render_batch import BatchRenderer
from scripts.nano.data.score import compose


def test_a_batch_is_what_render_makes_of_each_score() -> None:
    scores = [compose(seed, 4.0, genre=genre) for seed, genre in enumerate(GENRES)]
    renderer = BatchRenderer()
    for score, mix in zip(scores, renderer.render(scores), strict=True):
        np.testing.assert_allclose(mix.numpy(), render(score, renderer.bank), atol=1e-5)


def test_songs_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one duration"):
        BatchRenderer().render([compose(0, 1.0), compose(1, 2.0)])
