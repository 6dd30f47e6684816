"""Sampling against a plain restatement in numpy, its edges, and its independence of the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acestep.planner.sampling import Sampling, guide, is_sound, sample, uniform_draws
from acestep.request import Text2Music

INF = float("inf")


def restated(
    logits: np.ndarray, sampling: Sampling, draw: float, allowed: np.ndarray | None
) -> tuple[int, float]:
    """The token by the book, in float64, and how far the draw was from picking another one."""
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
    if sampling.temperature == 0:
        return int(logits.argmax()), 1.0
    order = np.argsort(-logits, kind="stable")
    if not sampling.top_k and sampling.top_p == 1:
        order = np.arange(len(logits))
    scaled = logits[order] / sampling.temperature
    p = np.exp(scaled - scaled.max())
    if sampling.top_k:
        p[sampling.top_k :] = 0
    p /= p.sum()
    margin = 1.0
    if sampling.top_p < 1:
        before = p.cumsum() - p
        margin = np.abs(before - sampling.top_p).min()
        p[before >= sampling.top_p] = 0
        p /= p.sum()
    edges = p.cumsum()
    margin = min(margin, np.abs(edges - draw)[p > 0].min(), np.abs(edges - p - draw).min())
    return int(order[int((edges <= draw).sum())]), margin


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 0.85, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 3, 20, 1000]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
)


@given(samplings, st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=200, deadline=None)
def test_sampling_is_what_numpy_says(sampling: Sampling, seed: int, masked: bool):
    random = np.random.default_rng(seed)
    logits = (4 * random.standard_normal((4, 50))).astype(np.float32)
    allowed = random.random((4, 50)) < 0.3 if masked else None
    if allowed is not None:
        allowed[:, 7] = True
    draws = uniform_draws([seed, seed + 1, seed + 2, seed + 3], "codes", 1)[:, 0]
    tokens = sample(
        torch.from_numpy(logits),
        sampling,
        draws,
        None if allowed is None else torch.from_numpy(allowed),
    )
    for row in range(4):
        permitted = None if allowed is None else allowed[row]
        draw = int(draws[row]) / 2**31
        token, margin = restated(logits[row].astype(np.float64), sampling, draw, permitted)
        assert permitted is None or permitted[tokens[row]]
        assert margin < 1e-5 or tokens[row] == token


def test_greedy_rows_pick_the_likeliest_allowed_token_and_leave_the_others_to_chance():
    logits = torch.tensor([[0.0, 3.0, 2.9, 9.0]]).expand(400, -1)
    allowed = torch.tensor([[True, True, True, False]]).expand(400, -1)
    draws = uniform_draws([0], "test", 400)[0]
    plain = sample(logits, Sampling(1.0), draws, allowed)
    greedy = torch.arange(400) % 2 == 0
    mixed = sample(logits, Sampling(1.0), draws, allowed, greedy)
    assert (mixed[greedy] == 1).all() and (plain[greedy] == 2).any()
    assert torch.equal(mixed[~greedy], plain[~greedy])


def frequencies(logits: list[float], sampling: Sampling, count: int = 20_000) -> torch.Tensor:
    draws = uniform_draws([0], "test", count)[0]
    tokens = sample(torch.tensor([logits]).expand(count, -1), sampling, draws)
    return torch.bincount(tokens, minlength=len(logits)) / count


def test_tokens_come_as_often_as_their_probability_says():
    logits = torch.tensor([0.0, 2.0, -INF, 1.0])
    measured = frequencies(logits.tolist(), Sampling(temperature=0.5, top_p=1.0))
    assert torch.allclose(measured, (logits / 0.5).softmax(-1), atol=0.01)
    assert measured[2] == 0


def test_top_p_keeps_the_token_that_crosses_the_share():
    shares = torch.tensor([0.1, 0.4, 0.3, 0.2])
    measured = frequencies(shares.log().tolist(), Sampling(temperature=1.0, top_p=0.5))
    assert torch.allclose(measured, torch.tensor([0.0, 4 / 7, 3 / 7, 0.0]), atol=0.01)


def test_top_p_keeps_at_least_the_likeliest_token():
    assert frequencies([0.0, 1.0, 0.5], Sampling(1.0, 0, 1e-9), 100)[1] == 1


def test_top_p_counts_shares_of_what_top_k_left():
    shares = torch.tensor([0.4, 0.3, 0.2, 0.1])
    measured = frequencies(shares.log().tolist(), Sampling(1.0, top_k=2, top_p=0.55))
    assert measured[0] == 1  # 0.4 is not past 0.55, but 0.4 of the remaining 0.7 is


def test_temperature_comes_before_top_p():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().tolist()
    assert frequencies(logits, Sampling(temperature=0.2, top_p=0.8))[0] == 1
    assert frequencies(logits, Sampling(temperature=1.0, top_p=0.8))[1] > 0.3


def test_top_k_one_and_temperature_zero_are_the_likeliest_token():
    logits = torch.randn(8, 30, generator=torch.Generator().manual_seed(0))
    draws = uniform_draws(range(8), "test", 1)[:, 0]
    for sampling in (Sampling(temperature=0.0), Sampling(2.0, top_k=1, top_p=1.0)):
        assert torch.equal(sample(logits, sampling, draws), logits.argmax(-1))


@pytest.mark.parametrize("draw", [0, 2**31 - 1])
@pytest.mark.parametrize("sampling", [Sampling(1.0, 0, 1.0), Sampling(1.0, 5, 0.99)])
def test_the_first_and_last_draw_pick_a_possible_token(draw: int, sampling: Sampling):
    logits = torch.full((1, 70_000), -INF)
    logits[0, 100:110] = torch.arange(10.0)
    token = sample(logits, sampling, torch.tensor([draw]))
    assert 100 <= token.item() < 110


def test_only_allowed_tokens_are_picked_whatever_their_logit():
    logits = torch.tensor([[50.0, 0.0, -50.0]])
    allowed = torch.tensor([[False, False, True]])
    for sampling in (Sampling(temperature=0.0), Sampling(), Sampling(2.0, 2, 1.0)):
        assert sample(logits, sampling, torch.tensor([123]), allowed).item() == 2


def test_a_take_is_the_same_alone_and_in_a_batch():
    logits = torch.randn(3, 5, 200, generator=torch.Generator().manual_seed(1))
    together = uniform_draws([10, 11, 12], "codes", 5)
    for take in range(3):
        alone = uniform_draws([10 + take], "codes", 5)
        for step in range(5):
            batch = sample(logits[:, step], Sampling(), together[:, step])
            single = sample(logits[take : take + 1, step], Sampling(), alone[:, step])
            assert batch[take] == single[0]


def test_draws_depend_on_seed_and_name_and_not_on_how_many_are_made():
    assert torch.equal(uniform_draws([5], "codes", 100)[:, :7], uniform_draws([5], "codes", 7))
    assert not torch.equal(uniform_draws([5], "codes", 7), uniform_draws([6], "codes", 7))
    assert not torch.equal(uniform_draws([5], "codes", 7), uniform_draws([5], "metadata", 7))


def test_half_precision_logits_are_sampled_in_fp32():
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(2)).bfloat16()
    draws = uniform_draws(range(4), "test", 1)[:, 0]
    assert torch.equal(sample(logits, Sampling(), draws), sample(logits.float(), Sampling(), draws))


def test_guidance_of_scale_one_is_the_conditional_side():
    conditional, unconditional = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(guide(conditional, unconditional, 1.0), conditional, atol=1e-6)
    guided = guide(conditional, unconditional, 2.5)
    assert torch.allclose(guided, 2.5 * conditional - 1.5 * unconditional, atol=1e-5)


def test_guidance_may_differ_from_take_to_take():
    conditional, unconditional = torch.randn(2, 2, 9, generator=torch.Generator().manual_seed(4))
    guided = guide(conditional, unconditional, torch.tensor([[1.0], [3.0]]))
    assert torch.allclose(guided[0], conditional[0], atol=1e-6)
    assert torch.equal(guided[1], guide(conditional, unconditional, 3.0)[1])


def test_guidance_keeps_ruled_out_tokens_ruled_out_without_nan():
    conditional = torch.tensor([[-INF, -INF, 1.0, 2.0]])
    unconditional = torch.tensor([[-INF, 0.0, -INF, 1.0]])
    assert guide(conditional, unconditional, 2.0).tolist() == [[-INF, -INF, 1.0, 3.0]]


def test_guidance_of_half_precision_is_computed_in_fp32():
    conditional = torch.tensor([[1.0]], dtype=torch.bfloat16)
    unconditional = torch.tensor([[257.0 - 1]], dtype=torch.bfloat16)
    guided = guide(conditional, unconditional, 1.5)
    assert guided.dtype == torch.float32 and guided.item() == 256 - 1.5 * 255


def test_rows_from_which_nothing_can_be_picked_are_found():
    logits = torch.tensor([[0.0, 1.0], [float("nan"), 1.0], [INF, 1.0], [-INF, -INF], [-INF, 1.0]])
    assert is_sound(logits).tolist() == [True, False, False, False, True]
    allowed = torch.tensor([[True, False]]).expand(5, -1)
    assert is_sound(logits, allowed).tolist() == [True, False, False, False, False]


def test_sampling_settings_are_the_requests():
    request = Text2Music(caption="x", lm_temperature=0.5, lm_top_k=40, lm_top_p=0.8)
    assert Sampling.of(request) == Sampling(0.5, 40, 0.8)
