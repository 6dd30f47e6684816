"""A figure counts what it is told to count."""

import pytest

from scripts.nano.evaluation.figures import Figure


@pytest.mark.parametrize(
    ("bound", "value", "is_met"),
    [
        ((">=", 0.8), 0.8, True),
        ((">=", 0.8), 0.79, False),
        (("<=", 3.5), 3.4, True),
        (None, 1, None),
    ],
)
def test_a_figure_knows_whether_it_is_reached(bound, value, is_met) -> None:
    figure = Figure("think", "tempo", value, bound)
    assert figure.is_met is is_met
    assert ("NO" in figure.row()) == (is_met is False)
