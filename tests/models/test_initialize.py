"""What a fresh network begins with, and that one without numbers draws none."""

import pytest
import torch
from random_checkpoints import TINY_2B

from acestep.models.acestep import AceStep
from acestep.models.config import AceStepConfig
from acestep.models.initialize import Embedding, gaussian


def test_a_parameter_begins_with_numbers_of_the_deviation_asked_for() -> None:
    torch.manual_seed(0)
    begun = gaussian(100, 100, scale=0.02)
    assert begun.requires_grad
    assert float(begun.detach().std()) == pytest.approx(0.02, rel=0.03)


def test_a_fresh_network_follows_from_the_seed() -> None:
    def fresh() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return AceStep(AceStepConfig.from_dict(TINY_2B)).state_dict()

    first, second = fresh(), fresh()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not any((first[key] == 0).all() for key in first)


def test_nothing_is_drawn_for_a_network_without_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with torch.device("meta"):
        parameters = (gaussian(3, 4), Embedding(5, 6).weight)
    assert all(parameter.is_meta for parameter in parameters)
    assert torch.equal(torch.get_rng_state(), before)
