"""INT8 and NF4 layers against the plain ones: how far off, on every path, and what they survive."""

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from random_checkpoints import TINY_2B
from torch import Tensor, nn
from torch.nn import functional as F

from acestep.diffusion.context import to_be_made
from acestep.diffusion.noise import draw_noise
from acestep.diffusion.sampler import euler
from acestep.diffusion.schedule import timesteps
from acestep.models import quantize
from acestep.models.acestep import AceStep
from acestep.models.load import load_acestep, load_qwen3, load_silence
from acestep.models.quantize import (
    FEW_ROWS,
    Int8Linear,
    Nf4Linear,
    blockwise_product,
    dense_weight,
    int8_product,
    integer_product,
    packed_product,
    product_name,
    quantize_linears,
    relative_error,
)
from acestep.models.text_encoder import TextEncoder

ROOT = Path(__file__).parents[2]
NANO = ROOT / "checkpoints/acestep-v15-nano-turbo"
NANO_TEXT = ROOT / "checkpoints/acestep-nano-text-encoder"
NANO_LM = ROOT / "checkpoints/acestep-5Hz-lm-nano"
Product = Callable[[Tensor, Tensor, Tensor], Tensor]


def int_mm(rows: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.aten._int_mm(rows, weight.t())


PRODUCTS: dict[str, Product] = {
    "packed": packed_product,
    "blockwise": blockwise_product,
    "integer": lambda rows, weight, scale: integer_product(rows, weight, scale, int_mm),
}


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def distance(a: Tensor, b: Tensor) -> float:
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


def int8_of(weight: Tensor) -> Int8Linear:
    layer = Int8Linear(weight.shape[1], weight.shape[0])
    layer.store(weight)
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, FEW_ROWS, FEW_ROWS + 1, 70])
def test_a_gaussian_layer_is_within_one_percent(rows: int, dtype: torch.dtype) -> None:
    weight, x = gaussian(1100, 256), gaussian(rows, 256, seed=1).to(dtype)
    product = int8_of(weight)(x)
    assert product.dtype == dtype
    assert distance(product, F.linear(x.float(), weight)) <= 1.1e-2


@pytest.mark.parametrize("name", PRODUCTS)
def test_every_product_is_that_of_the_dense_weight(name: str) -> None:
    layer, x = int8_of(gaussian(1100, 256)), gaussian(20, 256, seed=1)
    product = PRODUCTS[name](x, layer.weight, layer.scale)
    bound = {"packed": 4e-3, "blockwise": 1e-6, "integer": 2e-4}[name]
    assert distance(product, F.linear(x, dense_weight(layer))) <= bound


@pytest.mark.parametrize("name", PRODUCTS)
def test_one_large_number_in_a_row_does_not_drown_the_others(name: str) -> None:
    layer, x = int8_of(gaussian(64, 256)), gaussian(20, 256, seed=1)
    x[3, 7] = 2000.0
    with_outlier = F.linear(x, dense_weight(layer))
    rest = x.clone()
    rest[3, 7] = 0
    without = F.linear(rest, dense_weight(layer))[3]
    column = 2000.0 * dense_weight(layer)[:, 7]
    product = PRODUCTS[name](x, layer.weight, layer.scale)
    assert distance(product, with_outlier) <= 4e-3
    if name != "packed":  # which rounds the sum to bf16
        assert distance(product[3] - column, without) <= 5e-2


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_a_number_stays_so(name: str, bad: float) -> None:
    """Else a broken song would pass for a sound one."""
    layer, x = int8_of(gaussian(64, 256)), gaussian(20, 256, seed=1)
    x[3, 7] = bad
    finite = PRODUCTS[name](x, layer.weight, layer.scale).isfinite()
    assert not finite[3].any()
    assert finite[:3].all() and finite[4:].all()


def test_a_row_of_the_packed_product_is_the_same_alone() -> None:
    layer, x = int8_of(gaussian(300, 256)), gaussian(FEW_ROWS, 256, seed=1)
    together = layer(x)
    assert all(
        torch.equal(layer(x[start : start + size]), together[start : start + size])
        for start, size in [(0, 1), (3, 2), (5, 7)]
    )


@pytest.mark.parametrize("width", [1, 24, 67, 100])
def test_any_width_is_multiplied(width: int) -> None:
    weight, x = gaussian(37, width), gaussian(3, width, seed=1)
    layer = int8_of(weight)
    assert distance(layer(x), F.linear(x, dense_weight(layer))) <= 5e-3


def test_rows_of_zeros_and_empty_batches_are_no_trouble() -> None:
    layer = int8_of(torch.zeros(8, 32))
    assert torch.equal(layer(gaussian(2, 32)), torch.zeros(2, 8))
    assert layer.squared_error == 0
    for product in PRODUCTS.values():
        assert torch.equal(product(torch.zeros(20, 32), layer.weight, layer.scale).sum(),
                           torch.tensor(0.0))  # fmt: skip
    assert int8_of(gaussian(8, 32))(torch.empty(0, 3, 32)).shape == (0, 3, 8)


def test_the_biggest_number_of_a_row_is_kept_and_none_is_half_a_step_off() -> None:
    weight = gaussian(50, 96)
    layer = int8_of(weight)
    error = (dense_weight(layer) - weight).abs()
    assert (error <= 0.5001 * layer.scale[:, None]).all()
    assert layer.weight.abs().amax(dim=1).eq(127).all()
    assert layer.squared_error == pytest.approx(error.square().sum().item(), rel=1e-4)


def test_casting_and_moving_keep_the_scales_exact() -> None:
    layer = int8_of(gaussian(40, 96))
    scale, weight = layer.scale.clone(), layer.weight.clone()
    layer.to(torch.bfloat16).half().to("cpu", torch.float64)
    assert torch.equal(layer.scale, scale) and layer.scale.dtype == torch.float32
    assert torch.equal(layer.weight, weight) and layer.weight.dtype == torch.int8
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_it_computes_with_whatever_data_its_parameters_point_at() -> None:
    """As layers do that are streamed."""
    first, second, x = int8_of(gaussian(40, 96)), int8_of(gaussian(40, 96, seed=2)), gaussian(5, 96)
    expected = second(x)
    for parameter, other in zip(first.parameters(), second.parameters(), strict=True):
        parameter.data = other.data
    assert torch.equal(first(x), expected)


def test_a_saved_layer_is_the_same_when_it_is_read_again() -> None:
    layer, again = int8_of(gaussian(40, 96)), Int8Linear(96, 40)
    again.load_state_dict(copy.deepcopy(layer.state_dict()), strict=True)
    assert torch.equal(again(gaussian(5, 96)), layer(gaussian(5, 96)))


def test_hooks_and_gradients_pass_through() -> None:
    layer, x = int8_of(gaussian(40, 96)), gaussian(20, 96).requires_grad_()
    layer.register_forward_hook(lambda module, args, output: output + args[0].sum())
    layer(x).sum().backward()
    expected = dense_weight(layer).sum(dim=0) + 20 * 40
    assert x.grad is not None
    assert torch.allclose(x.grad, expected.expand_as(x), rtol=1e-4)


def test_joined_layers_are_those_side_by_side() -> None:
    layers = [int8_of(gaussian(out, 96, seed=out)) for out in (40, 24, 8)]
    x = gaussian(3, 5, 96)
    assert torch.equal(Int8Linear.joined(layers)(x), torch.cat([la(x) for la in layers], dim=-1))


def test_a_bias_is_added() -> None:
    network = nn.Sequential(nn.Linear(96, 40))
    plain = copy.deepcopy(network)
    (layer,) = quantize_linears(network, "int8", lambda name: True).values()
    layer.store(plain[0].weight)  # pyright: ignore[reportArgumentType]
    layer.load_state_dict({"bias": plain[0].bias}, strict=False)
    x = gaussian(3, 96)
    assert distance(network(x), plain(x)) <= 1.2e-2


def test_the_dit_and_the_condition_encoders_layers_are_quantized_and_nothing_else(
    random_acestep: Callable[[Mapping[str, Any]], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = random_acestep(TINY_2B)
    with caplog.at_level(logging.INFO, logger="acestep"):
        model = load_acestep(folder, torch.float32, int8=True)
    names = {name for name, module in model.named_modules() if isinstance(module, Int8Linear)}
    # 4 DiT layers of 4 + 4 + 3 products; 3 and 2 encoder layers of 4 + 3.
    assert len(names) == 4 * 11 + (3 + 2) * 7
    assert all(".layers." in name for name in names)
    assert {name.split(".")[0] for name in names} == {"decoder", "encoder"}
    exact = load_acestep(folder, torch.float32)
    for name in names:
        linear = exact.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        layer = model.get_submodule(name)
        assert isinstance(layer, Int8Linear)
        assert distance(dense_weight(layer), linear.weight) <= 1.2e-2
    assert 1e-3 < relative_error(model) < 1.2e-2
    assert relative_error(exact) == 0
    assert f"79 layers in INT8, {100 * relative_error(model):.2f} %" in caplog.text
    for key, tensor in exact.state_dict().items():
        if key.removesuffix(".weight") not in names:
            assert torch.equal(model.state_dict()[key], tensor)


def test_one_part_in_int8_leaves_the_others_on_meta(
    random_acestep: Callable[[Mapping[str, Any]], Path],
) -> None:
    model = load_acestep(random_acestep(TINY_2B), parts=["encoder"], int8=True)
    assert not any(parameter.is_meta for parameter in model.encoder.parameters())
    assert all(parameter.is_meta for parameter in model.decoder.parameters())
    assert 0 < relative_error(model) == relative_error(model.encoder)


def test_int8_is_measured_against_the_file_and_not_against_the_cast_weights(
    random_acestep: Callable[[Mapping[str, Any]], Path],
) -> None:
    folder = random_acestep(TINY_2B)  # in fp32
    short, exact = (load_acestep(folder, dtype, int8=True) for dtype in (torch.bfloat16, None))
    for a, b in zip(short.decoder.layers.modules(), exact.decoder.layers.modules(), strict=True):
        if isinstance(a, Int8Linear) and isinstance(b, Int8Linear):
            assert torch.equal(a.weight, b.weight) and torch.equal(a.scale, b.scale)


def test_it_takes_half_of_what_bf16_does() -> None:
    plain, int8 = (load_acestep(NANO, torch.bfloat16, int8=int8).decoder for int8 in (False, True))
    sizes = [sum(p.nbytes for p in network.layers.parameters()) for network in (plain, int8)]
    assert sizes[1] <= 0.52 * sizes[0]


@torch.inference_mode()
def conditions(int8: bool, model: AceStep) -> Tensor:
    text_encoder = TextEncoder.load(NANO_TEXT, torch.float32, int8=int8)
    caption, lyrics = "slow violin", "[Chorus]\nla la la"
    reference = load_silence(NANO)[:, : model.config.timbre_fix_frame]
    states, _ = model.encoder(
        *text_encoder.encode_caption(caption), *text_encoder.embed_lyrics(lyrics),
        reference, torch.zeros(1, dtype=torch.long),
    )  # fmt: skip
    return states


@torch.inference_mode()
def latents(int8: bool) -> Tensor:
    """A song from caption to latents, text encoder and condition encoder included."""
    model = load_acestep(NANO, torch.float32, int8=int8)
    states = conditions(int8, model)
    frames = 150
    context = to_be_made(load_silence(NANO), frames, 1)

    def velocity(latents: Tensor, t: float, step: int = 0) -> Tensor:
        time = torch.full((1,), t)
        return model.decoder(latents, time, time, states, context)

    noise = draw_noise([2], frames, model.config.audio_acoustic_hidden_dim)
    return euler(velocity, noise, timesteps(is_turbo=True, steps=8, shift=3.0))


@pytest.mark.parametrize("has_vnni", [False, True])
def test_the_latents_of_a_song_are_within_three_percent(
    has_vnni: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = latents(int8=False)
    monkeypatch.setattr(quantize, "_has_vnni", lambda: has_vnni)
    # PyTorch's own integers are slow without VNNI; these are the same up to 24 bits.
    monkeypatch.setattr(quantize, "_cpu_integers", lambda a, b: F.linear(a.float(), b.float()))
    error = distance(latents(int8=True), exact)
    assert 1e-3 < error <= 3e-2


class TestBitsandbytes:
    """Needs the package, whose import takes seconds of a core: once for all that stand here."""

    def test_its_int8_product_is_ours(self) -> None:
        functional = pytest.importorskip("bitsandbytes.functional")
        layer, x = int8_of(gaussian(64, 256)), gaussian(20, 256, seed=1)
        theirs = integer_product(x, layer.weight, layer.scale, functional.int8_linear_matmul)
        assert torch.equal(theirs, PRODUCTS["integer"](x, layer.weight, layer.scale))

    def test_its_weights_are_ours(self) -> None:
        functional = pytest.importorskip("bitsandbytes.functional")
        weight = gaussian(64, 256)
        layer = int8_of(weight)
        whole, largest, _ = functional.int8_vectorwise_quant(weight)
        assert torch.allclose(largest / 127, layer.scale)
        assert (whole.int() - layer.weight.int()).abs().max() <= 1  # it rounds x · (127 / largest)

    @pytest.mark.parametrize("width", [128, 160])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_nf4_is_within_ten_percent(self, width: int, dtype: torch.dtype) -> None:
        pytest.importorskip("bitsandbytes")
        weight, x = gaussian(96, width), gaussian(3, 2, width, seed=1).to(dtype)
        layer = Nf4Linear(width, 96)
        layer.store(weight)
        assert layer.weight.nbytes + layer.scale.nbytes <= 0.64 * weight.numel()
        assert layer(x).dtype == dtype
        assert distance(layer(x), F.linear(x.float(), weight)) <= 0.11
        assert distance(layer(x), F.linear(x.float(), dense_weight(layer))) <= 6e-3
        error = (dense_weight(layer) - weight).square().sum()
        assert layer.squared_error == pytest.approx(error.item())

    def test_joined_nf4_layers_are_those_side_by_side(self) -> None:
        pytest.importorskip("bitsandbytes")
        layers = [Nf4Linear(128, out) for out in (32, 16)]
        for layer in layers:
            layer.store(gaussian(layer.out_features, 128, seed=layer.out_features))
        x = gaussian(3, 128)
        together = Nf4Linear.joined(layers).to(torch.bfloat16)
        assert torch.allclose(together(x), torch.cat([la(x) for la in layers], dim=-1), atol=1e-5)


@pytest.mark.gpu
class TestOnCuda:
    """Owed: has not run."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("rows", [1, 2, 40])
    def test_bitsandbytes_product_is_that_of_the_dense_weight(
        self, rows: int, dtype: torch.dtype
    ) -> None:
        pytest.importorskip("bitsandbytes")
        layer = int8_of(gaussian(512, 256).to("cuda"))
        x = gaussian(rows, 256, seed=1).to("cuda", dtype)
        bound = 1e-3 if dtype == torch.float32 else 5e-3
        assert distance(layer(x), F.linear(x.float(), dense_weight(layer))) <= bound

    def test_without_bitsandbytes_weights_are_made_numbers_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quantize, "_has_bitsandbytes", lambda: False)
        layer, x = int8_of(gaussian(512, 256).to("cuda")), gaussian(40, 256).to("cuda")
        assert distance(layer(x), F.linear(x, dense_weight(layer))) <= 1e-3

    def test_quantizing_there_gives_the_same_bytes(self) -> None:
        here, there = (int8_of(gaussian(512, 256).to(device)) for device in ("cpu", "cuda"))
        assert torch.equal(here.weight, there.weight.cpu())
        assert torch.equal(here.scale, there.scale.cpu())

    def test_nf4_is_that_of_the_dense_weight(self) -> None:
        pytest.importorskip("bitsandbytes")
        layer = Nf4Linear(256, 512)
        layer.store(gaussian(512, 256).to("cuda"))
        x = gaussian(2, 256, seed=1).to("cuda", torch.bfloat16)
        assert distance(layer(x), F.linear(x.float(), dense_weight(layer))) <= 1e-2


def test_nf4_without_bitsandbytes_says_what_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "_has_bitsandbytes", lambda: False)
    with pytest.raises(quantize.Unavailable, match="uv pip install bitsandbytes"):
        load_qwen3(NANO_LM, weights="nf4")


def test_the_text_encoders_lyrics_are_those_of_the_plain_one() -> None:
    plain, int8 = (TextEncoder.load(NANO_TEXT, torch.float32, int8=int8) for int8 in (False, True))
    assert torch.equal(plain.embed_lyrics("la la")[0], int8.embed_lyrics("la la")[0])
    states, exact = (encoder.encode_caption("slow violin")[0] for encoder in (int8, plain))
    assert 1e-4 < distance(states, exact) <= 2e-2


def test_the_product_is_chosen_by_rows_width_and_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = int8_of(gaussian(64, 256)), gaussian(20, 256, seed=1)
    monkeypatch.setattr(quantize, "_has_vnni", lambda: False)
    few, many = x[:2], x
    assert torch.equal(
        int8_product(few, layer.weight, layer.scale),
        packed_product(few, layer.weight, layer.scale),
    )
    assert torch.equal(
        int8_product(many, layer.weight, layer.scale),
        blockwise_product(many, layer.weight, layer.scale),
    )
    monkeypatch.setattr(quantize, "_has_vnni", lambda: True)
    assert torch.equal(
        int8_product(many, layer.weight, layer.scale),
        PRODUCTS["integer"](many, layer.weight, layer.scale),
    )


def test_the_log_names_the_product_of_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "_has_vnni", lambda: True)
    monkeypatch.setattr(quantize, "_has_bitsandbytes", lambda: True)
    names = [product_name(torch.device(kind)) for kind in ("cpu", "cuda", "mps")]
    assert "VNNI" in names[0] and "bitsandbytes" in names[1] and "again" in names[2]
    assert "4-bit" in product_name(torch.device("cuda"), "nf4")
    monkeypatch.setattr(quantize, "_has_bitsandbytes", lambda: False)
    assert "uv pip install bitsandbytes" in product_name(torch.device("cuda"))
