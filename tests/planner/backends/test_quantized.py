"""The planner with quantized weights against itself with plain ones."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from acestep.errors import Unavailable
from acestep.models import quantize
from acestep.models.load import load_qwen3
from acestep.models.quantize import WeightForm, relative_error
from acestep.planner.backends import Continuation, load_backend
from acestep.planner.backends.decoder import Dense, PackedQwen3
from acestep.planner.backends.pt import PtBackend
from acestep.planner.backends.vllm import unavailable
from acestep.planner.grammar import AudioCodeConstraint
from acestep.planner.sampling import Sampling

NANO = Path(__file__).parents[3] / "checkpoints/acestep-5Hz-lm-nano"
PROMPT = "A calm piano melody, slow, in a minor key, with strings and soft drums behind it."


@pytest.fixture(scope="module")
def ids() -> Tensor:
    tokens = PtBackend.load(NANO, dtype=torch.float32).vocabulary.encode(PROMPT)
    return torch.tensor([tokens, tokens[::-1]])


@torch.inference_mode()
def logits(
    weights: WeightForm, ids: Tensor, pieces: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Of every code after every token of `ids`, read in `pieces` as the planner does."""
    decoder = PackedQwen3(load_qwen3(NANO, dtype, weights=weights))
    cache = decoder.reserve(2, ids.shape[1])
    states = torch.cat([decoder(piece, cache) for piece in ids.split(pieces, dim=1)], dim=1)
    codes = AudioCodeConstraint(PtBackend.load(NANO).vocabulary, count=0).head_rows
    return decoder.head(codes, pack=True)(states).float()


def distance(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize(("weights", "bound"), [("int8", 1.5e-2), ("nf4", 0.15)])
def test_logits_are_close_to_the_plain_ones(weights: WeightForm, bound: float, ids: Tensor) -> None:
    if weights == "nf4":
        pytest.importorskip("bitsandbytes")
    pieces = [ids.shape[1] - 3, 1, 1, 1]
    plain = logits("plain", ids, pieces)
    quantized = logits(weights, ids, pieces)
    assert 1e-3 < distance(quantized, plain) <= bound
    # A code that the plain planner finds likely stays likely.
    likely, still = plain.softmax(-1), quantized.softmax(-1)
    assert (likely - still).abs().sum(-1).mean() / 2 <= 6 * bound


def test_int8_in_bf16_is_hardly_worse_than_bf16(ids: Tensor) -> None:
    pieces = [ids.shape[1] - 2, 1, 1]
    exact = logits("plain", ids, pieces)
    short = distance(logits("plain", ids, pieces, torch.bfloat16), exact)
    assert distance(logits("int8", ids, pieces, torch.bfloat16), exact) <= short + 1.5e-2


def test_a_joined_product_is_that_of_its_layers(ids: Tensor) -> None:
    network = load_qwen3(NANO, torch.float32, weights="int8")
    attention = network.get_submodule("layers.0.self_attn")
    layers = [attention.get_submodule(f"{name}_proj") for name in "qkv"]
    x = torch.randn(2, 1, network.config.hidden_size)
    assert torch.equal(Dense.joined(*layers)(x), torch.cat([la(x) for la in layers], dim=-1))


def test_embedding_and_norms_stay_exact() -> None:
    plain, int8 = (load_qwen3(NANO, torch.float32, weights=form) for form in ("plain", "int8"))
    kept = plain.state_dict().keys() - {key for key in plain.state_dict() if "_proj.weight" in key}
    assert len(kept) > 10
    for key in kept:
        assert torch.equal(plain.state_dict()[key], int8.state_dict()[key])
    assert 1e-3 < relative_error(int8) < 1.2e-2


def codes(backend: PtBackend, takes: int) -> list[list[int]]:
    vocabulary = backend.vocabulary
    continuation = Continuation(
        conditional=vocabulary.encode(PROMPT),
        unconditional=vocabulary.encode("NO USER INPUT"),
        constraints=[AudioCodeConstraint(vocabulary, 12) for _ in range(takes)],
        seeds=range(takes),
        name="planner/test",
        sampling=Sampling(),
        scale=2.0,
        max_tokens=13,
    )
    return backend.generate(continuation, lambda done, total: None)


def test_a_take_of_an_int8_planner_is_the_same_alone_and_among_others() -> None:
    backend = PtBackend.load(NANO, dtype=torch.float32, weights="int8")
    (alone,) = codes(backend, takes=1)
    assert len(set(alone)) > 3
    assert codes(backend, takes=8)[0] == alone


def test_vllm_says_that_it_does_not_quantize_and_auto_why_it_chose_pytorch(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert unavailable(gpu, is_installed=True) is None
    reason = unavailable(gpu, is_installed=True, weights="int8")
    assert reason is not None and "not in INT8; pt does." in reason
    monkeypatch.setattr(
        "acestep.planner.backends.vllm.unavailable",
        lambda device, *, weights: unavailable(gpu, is_installed=True, weights=weights),
    )
    with pytest.raises(Unavailable, match="not in INT8"):
        load_backend(NANO, "vllm", device=cpu, dtype=torch.float32, weights="int8")
    with caplog.at_level("INFO", logger="acestep"):
        backend = load_backend(NANO, "auto", device=cpu, dtype=torch.float32, weights="int8")
    assert isinstance(backend, PtBackend)
    assert f"runs on PyTorch. {reason}" in caplog.text


def test_nf4_is_refused_where_it_cannot_be_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "_has_bitsandbytes", lambda: False)
    with pytest.raises(Unavailable, match="NF4 needs bitsandbytes"):
        load_backend(NANO, "pt", device=torch.device("cpu"), dtype=torch.float32, weights="nf4")


@pytest.mark.gpu
@pytest.mark.parametrize("weights", ["int8", "nf4"])
def test_codes_are_written_on_cuda_graphs_too(weights: WeightForm) -> None:
    """Owed: has not run."""
    pytest.importorskip("bitsandbytes")
    backend = PtBackend.load(NANO, device="cuda", dtype=torch.bfloat16, weights=weights)
    (alone,) = codes(backend, takes=1)
    assert len(alone) == 13 and len(set(alone)) > 3
    assert codes(backend, takes=1) == [alone]
