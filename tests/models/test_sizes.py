"""Full-size networks on the meta device, and what must not depend on batch or dtype."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from random_checkpoints import TINY_2B, TINY_XL
from test_config import ACESTEP, XL

from acestep.models.acestep import AceStep
from acestep.models.condition import pack_sequences, slots
from acestep.models.config import AceStepConfig
from acestep.models.layers import attention_mask, rotary, sinusoids
from acestep.models.load import load_acestep

Maker = Callable[[Mapping[str, Any]], Path]
REST = {  # the same in both sizes (docs/model.md)
    "encoder.lyric_encoder.": 404_789_248,
    "encoder.timbre_encoder.": 201_481_216,
    "encoder.text_projector.": 2_097_152,
    "tokenizer.": 105_032_198,
    "detokenizer.": 105_011_776,
    "null_condition_emb": 2_048,
}


@pytest.mark.parametrize(
    ("values", "tensors", "decoder", "total"),
    [
        (ACESTEP, 677, 1_575_458_880, 2_393_872_518),
        (ACESTEP | XL, 829, 4_168_897_088, 4_987_310_726),
    ],
    ids=["2B", "XL"],
)
def test_full_size_networks_have_the_published_tensors_and_parameters(
    values: dict[str, Any], tensors: int, decoder: int, total: int
) -> None:
    with torch.device("meta"):
        state = AceStep(AceStepConfig.from_dict(values)).state_dict()
    counts = {
        prefix: sum(tensor.numel() for key, tensor in state.items() if key.startswith(prefix))
        for prefix in ("decoder.", *REST)
    }
    assert len(state) == tensors
    assert counts == {"decoder.": decoder, **REST}
    assert sum(counts.values()) == total


def test_xl_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = AceStep(AceStepConfig.from_dict(ACESTEP | XL)).state_dict()
    shapes = {
        "decoder.proj_in.1.weight": (2560, 192, 2),
        "decoder.proj_out.1.weight": (2560, 64, 2),
        "decoder.time_embed_r.time_proj.weight": (6 * 2560, 2560),
        "decoder.condition_embedder.weight": (2560, 2048),
        "decoder.layers.31.self_attn.q_proj.weight": (4096, 2560),
        "decoder.layers.31.cross_attn.k_proj.weight": (1024, 2560),
        "decoder.layers.31.mlp.down_proj.weight": (2560, 9728),
        "encoder.lyric_encoder.layers.7.self_attn.q_proj.weight": (2048, 2048),
        "tokenizer.quantizer.project_in.weight": (6, 2048),
        "detokenizer.special_tokens": (1, 5, 2048),
        "null_condition_emb": (1, 1, 2048),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_positions_stay_exact_in_bf16(random_acestep: Maker) -> None:
    """Frequencies rounded to bf16 would be a radian off after a thousand positions."""
    model = load_acestep(random_acestep(TINY_2B), torch.bfloat16)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    assert not list(model.buffers())
    made = rotary(4000, model.config, torch.zeros(1, dtype=torch.bfloat16))
    exponents = torch.arange(0, 24, 2, dtype=torch.float64) / 24
    angles = torch.outer(torch.arange(4000, dtype=torch.float64), 1e6**-exponents)
    torch.testing.assert_close(made.cos[:, :12].double(), angles.cos(), atol=4e-3, rtol=0)
    torch.testing.assert_close(made.sin[:, 12:].double(), angles.sin(), atol=4e-3, rtol=0)


def test_times_are_embedded_in_fp32() -> None:
    """bf16 would not tell 0.9 from 0.9016, nor their cosines at a thousandfold."""
    t = torch.tensor([0.9, 0.9016])
    waves = sinusoids(t)
    assert waves.dtype == torch.float32
    angles = torch.outer(1000.0 * t.double(), 10000.0 ** (-torch.arange(128).double() / 128))
    torch.testing.assert_close(waves[:, :128].double(), angles.cos(), atol=2e-4, rtol=0)
    torch.testing.assert_close(waves[:, 128:].double(), angles.sin(), atol=2e-4, rtol=0)


@pytest.mark.parametrize("values", [TINY_2B, TINY_XL], ids=["2B", "XL"])
def test_two_equal_items_are_each_like_one_alone(
    values: dict[str, Any], random_acestep: Maker
) -> None:
    model = load_acestep(random_acestep(values), torch.float32)
    torch.manual_seed(0)
    text, lyrics = torch.randn(1, 7, 32), torch.randn(1, 23, 32)
    references, latents = torch.randn(1, 20, 8), torch.randn(1, 31, 8)
    context, t = torch.randn(1, 31, 16), torch.tensor([0.7])

    def velocity(copies: int) -> torch.Tensor:
        many = [tensor.expand(copies, *tensor.shape[1:]) for tensor in (text, lyrics)]
        masks = [torch.ones(tensor.shape[:2], dtype=torch.bool) for tensor in many]
        states, _ = model.encoder(
            many[0], masks[0], many[1], masks[1],
            references.repeat(copies, 1, 1), torch.arange(copies),
        )  # fmt: skip
        return model.decoder(
            latents.repeat(copies, 1, 1),
            t.repeat(copies),
            t.repeat(copies),
            states,
            context.repeat(copies, 1, 1),
        )

    torch.testing.assert_close(velocity(2), velocity(1).expand(2, -1, -1), atol=1e-5, rtol=1e-5)


def test_bf16_networks_take_and_return_fp32_latents(random_acestep: Maker) -> None:
    model = load_acestep(random_acestep(TINY_XL), torch.bfloat16)
    exact = load_acestep(random_acestep(TINY_XL), torch.float32)
    torch.manual_seed(0)
    inputs = torch.randn(1, 20, 8), torch.tensor([0.7]), torch.tensor([0.7])
    states, context = torch.randn(1, 9, 64), torch.randn(1, 20, 16)
    velocity, expected = (network.decoder(*inputs, states, context) for network in (model, exact))
    assert velocity.dtype == torch.float32
    assert (velocity - expected).norm() < 0.1 * expected.norm()


def test_the_window_reaches_as_far_on_both_sides() -> None:
    mask = attention_mask(torch.zeros(1, 12, 4), window=3)
    assert mask is not None
    seen = (mask[0, 0] == 0).nonzero().tolist()
    assert seen == [[i, j] for i in range(12) for j in range(12) if abs(i - j) <= 3]


def test_there_is_no_mask_where_everything_is_seen() -> None:
    assert attention_mask(torch.zeros(1, 4, 4), window=3) is None
    assert attention_mask(torch.zeros(1, 400, 4), window=None) is None


def test_packing_moves_padding_behind_and_keeps_both_orders() -> None:
    first = torch.arange(10.0).reshape(2, 5, 1)
    second = 100 + torch.arange(6.0).reshape(2, 3, 1)
    first_mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    second_mask = torch.tensor([[1, 0, 1], [0, 0, 0]], dtype=torch.bool)
    states, mask = pack_sequences(first, first_mask, second, second_mask)
    assert states[0, :, 0].tolist() == [0, 1, 3, 100, 102, 2, 4, 101]
    assert states[1, :, 0].tolist() == [5, 6, 7, 8, 9, 103, 104, 105]
    assert mask.tolist() == [[True] * 5 + [False] * 3, [True] + [False] * 7]


def test_references_find_their_items_in_any_order() -> None:
    timbres = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    states, mask = slots(timbres, torch.tensor([2, 0, 2, 2]), batch=4)
    assert states[..., 0].tolist() == [[2, 0, 0], [0, 0, 0], [1, 3, 4], [0, 0, 0]]
    assert mask.sum(dim=1).tolist() == [1, 0, 3, 0]
