"""The quantizer's constants, and how the codec treats what does not fill a code."""

import pytest
import torch
from random_checkpoints import TINY_2B
from torch import Tensor

from acestep.models.codec import AudioDetokenizer, AudioTokenizer, Quantizer
from acestep.models.config import AceStepConfig

# Where the projected value passes from one level to the next, by number of levels (docs/model.md).
THRESHOLDS = {
    8: (-1.11195, -0.62778, -0.29190, 0.0, 0.29190, 0.62778, 1.11195),
    5: (-0.86643, -0.25342, 0.25342, 0.86643),
}
CONFIG = AceStepConfig.from_dict(TINY_2B)


@pytest.fixture
def quantizer() -> Quantizer:
    torch.manual_seed(0)
    return Quantizer(CONFIG).requires_grad_(False)


@pytest.fixture
def tokenizer() -> AudioTokenizer:
    torch.manual_seed(0)
    return AudioTokenizer(CONFIG).requires_grad_(False)


def open_quantizer(quantizer: Quantizer) -> Quantizer:
    """One whose projection passes the first numbers of its input through."""
    quantizer.project_in.weight.copy_(torch.eye(6, 64))
    quantizer.project_in.bias.zero_()
    return quantizer


def projected(values: Tensor) -> Tensor:
    """States that `open_quantizer` projects to the same value in every dimension."""
    return torch.nn.functional.pad(values[None, :, None].expand(1, -1, 6), (0, 58))


def test_every_code_survives_being_taken_apart(quantizer: Quantizer) -> None:
    codes = torch.arange(64000)[None]
    levels = quantizer.unfold(codes)
    assert len(levels[0].unique(dim=0)) == 64000
    assert torch.equal(quantizer.codes(levels), codes)
    assert torch.equal(quantizer.nearest(quantizer.coordinates(levels)), levels)


def test_the_first_dimension_is_the_lowest_digit(quantizer: Quantizer) -> None:
    digits = torch.eye(6, dtype=torch.long)[None]
    assert quantizer.codes(digits).tolist() == [[1, 8, 64, 512, 2560, 12800]]


def test_levels_are_evenly_spaced_from_minus_one_to_one(quantizer: Quantizer) -> None:
    lowest = quantizer.coordinates(quantizer.unfold(torch.tensor([[0, 63999]])))
    assert lowest.tolist() == [[[-1.0] * 6, [1.0] * 6]]


@pytest.mark.parametrize(("dimension", "count"), [(0, 8), (2, 8), (3, 5), (5, 5)])
def test_levels_change_at_the_published_thresholds(
    quantizer: Quantizer, dimension: int, count: int
) -> None:
    thresholds = torch.tensor(THRESHOLDS[count])
    for values, shift in ((thresholds - 2e-5, 0), (thresholds + 2e-5, 1)):
        bounded = open_quantizer(quantizer).bound(projected(values))
        levels = quantizer.nearest(bounded)[0, :, dimension]
        assert levels.tolist() == [i + shift for i in range(count - 1)]


def test_even_a_huge_value_has_a_level(quantizer: Quantizer) -> None:
    codes = open_quantizer(quantizer).encode(projected(torch.tensor([-1e6, 1e6])))
    assert codes.tolist() == [[0, 63999]]


def test_decoding_the_codes_is_what_encoding_returned(quantizer: Quantizer) -> None:
    quantized, codes = quantizer(torch.randn(2, 50, 64) * 3)
    assert torch.equal(quantizer.decode(codes), quantized)


def test_a_bf16_quantizer_still_counts_in_fp32(quantizer: Quantizer) -> None:
    states = (torch.randn(4, 500, 64) * 3).bfloat16()
    halved = quantizer.bfloat16()
    exact = Quantizer(CONFIG)
    exact.load_state_dict({key: value.float() for key, value in halved.state_dict().items()})
    assert torch.equal(halved.encode(states), exact.encode(states.float()))
    assert halved.decode(torch.zeros(1, 1, dtype=torch.long)).dtype == torch.bfloat16


@pytest.mark.parametrize("frames", [1, 4, 5, 7, 10])
def test_a_group_that_is_not_full_is_filled_with_the_first_silence(
    tokenizer: AudioTokenizer, frames: int
) -> None:
    latents, silence = torch.randn(2, frames, 8), torch.randn(1, 20, 8)
    _, codes = tokenizer(latents, silence)
    filling = silence[:, : -frames % 5].expand(2, -1, -1)
    _, filled = tokenizer(torch.cat([latents, filling], dim=1), torch.zeros(1, 20, 8))
    assert codes.shape == (2, -(-frames // 5))
    assert torch.equal(codes, filled)


def test_groups_do_not_hear_each_other(tokenizer: AudioTokenizer) -> None:
    latents, silence = torch.randn(1, 20, 8), torch.zeros(1, 5, 8)
    _, whole = tokenizer(latents, silence)
    _, second = tokenizer(latents[:, 5:10], silence)
    assert torch.equal(whole[:, 1:2], second)


def test_detokenizer_makes_five_frames_of_a_code() -> None:
    torch.manual_seed(0)
    detokenizer = AudioDetokenizer(CONFIG).requires_grad_(False)
    quantized = torch.randn(2, 3, 64)
    latents = detokenizer(quantized)
    assert latents.shape == (2, 15, 8)
    torch.testing.assert_close(detokenizer(quantized[:, 1:2]), latents[:, 5:10])
