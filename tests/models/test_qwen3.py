"""Qwen3 against transformers, with and without its cache, and its published sizes."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config as ReferenceConfig
from transformers import Qwen3Model

from acestep.models.config import Qwen3Config
from acestep.models.layers import rotary_at
from acestep.models.load import load_qwen3
from acestep.models.qwen3 import KVCache, Qwen3

TINY = Qwen3Config(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=56,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=12,  # queries are 48 wide, the states 32: a mix-up cannot pass
    rms_norm_eps=1e-6,
    rope_theta=1_000_000.0,
)
EMBEDDING = Qwen3Config(
    vocab_size=151_669,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    rms_norm_eps=1e-6,
    rope_theta=1_000_000.0,
)
PLANNER = replace(EMBEDDING, vocab_size=217_204)


def randomize(module: torch.nn.Module) -> None:
    """Matrices that keep the states' size, and norm weights away from 1."""
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.3 * noise if parameter.dim() == 1 else 0.15 * noise)


def published(folder: Path, config: Qwen3Config) -> Qwen3Model:
    """transformers' network with random weights; `folder` then holds what it writes."""
    torch.manual_seed(0)
    reference = Qwen3Model(ReferenceConfig(**asdict(config))).eval()
    randomize(reference)
    reference.save_pretrained(folder)
    return reference


def tiny() -> Qwen3:
    torch.manual_seed(0)
    network = Qwen3(TINY).eval().requires_grad_(False)
    randomize(network)
    return network


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, num_key_value_heads=4, head_dim=8),
        replace(TINY, num_attention_heads=6, num_key_value_heads=1, head_dim=16),
    ],
    ids=["grouped", "one key per query", "one key for all"],
)
def test_hidden_states_equal_those_of_transformers(config, tmp_path):
    reference = published(tmp_path, config)
    ids = torch.randint(config.vocab_size, (2, 150))
    with torch.no_grad():
        expected = reference(ids).last_hidden_state
    states = load_qwen3(tmp_path, torch.float32)(ids)
    assert (states - expected).norm() / expected.norm() <= 1e-5


def test_keys_with_the_model_prefix_and_a_tied_head_load_to_the_same_network(tmp_path):
    published(tmp_path, TINY)
    plain = load_qwen3(tmp_path, torch.float32)
    file = tmp_path / "model.safetensors"
    tensors = {f"model.{key}": tensor for key, tensor in load_file(file).items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, file)
    prefixed = load_qwen3(tmp_path, torch.float32)
    assert prefixed.state_dict().keys() == plain.state_dict().keys()
    ids = torch.randint(TINY.vocab_size, (1, 9))
    assert torch.equal(prefixed(ids), plain(ids))


def test_embed_is_the_lookup_alone():
    network = tiny()
    ids = torch.randint(TINY.vocab_size, (2, 5))
    assert torch.equal(network.embed(ids), network.embed_tokens.weight[ids])


def test_no_token_sees_what_comes_after_it():
    network = tiny()
    ids = torch.randint(TINY.vocab_size, (1, 12))
    changed = torch.cat([ids[:, :7], (ids[:, 7:] + 1) % TINY.vocab_size], dim=1)
    before, after = network(ids), network(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().amax(dim=-1).min() > 1e-3


@pytest.mark.parametrize("pieces", [(1,) * 11, (6, 1, 1, 3), (11,)])
def test_reading_in_pieces_through_the_cache_equals_reading_at_once(pieces):
    network = tiny()
    ids = torch.randint(TINY.vocab_size, (2, 11))
    cache = KVCache(TINY, batch=2, capacity=20, dtype=torch.float32)
    states = torch.cat([network(piece, cache) for piece in ids.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(states, network(ids), rtol=1e-5, atol=1e-5)
    assert cache.length.tolist() == [11, 11]


def test_rows_of_different_length_share_a_cache():
    network = tiny()
    long, short = torch.randint(TINY.vocab_size, (1, 9)), torch.randint(TINY.vocab_size, (1, 4))
    padded = torch.cat([short, torch.zeros(1, 5, dtype=torch.long)], dim=1)
    cache = KVCache(TINY, batch=2, capacity=16, dtype=torch.float32)
    network(torch.cat([long, padded]), cache)
    cache.rewind(torch.tensor([9, 4]))

    steps = torch.randint(TINY.vocab_size, (2, 3))
    states = torch.cat([network(step, cache) for step in steps.split(1, dim=1)], dim=1)
    for row, prompt in enumerate((long, short)):
        alone = network(torch.cat([prompt, steps[row : row + 1]], dim=1))[:, -3:]
        torch.testing.assert_close(states[row : row + 1], alone, rtol=1e-5, atol=1e-5)


def test_reading_farther_into_the_cache_than_needed_changes_nothing():
    network = tiny()
    ids, step = torch.randint(TINY.vocab_size, (1, 5)), torch.randint(TINY.vocab_size, (1, 1))
    caches = [KVCache(TINY, batch=1, capacity=32, dtype=torch.float32) for _ in range(2)]
    for cache in caches:
        network(ids, cache)
    caches[1].extent = 31
    torch.testing.assert_close(network(step, caches[0]), network(step, caches[1]))


def test_the_cache_never_moves_its_memory():
    network = tiny()
    cache = KVCache(TINY, batch=1, capacity=8, dtype=torch.float32)
    tensors = [cache.length, *(tensor for layer in cache.layers for tensor in layer)]
    places = [tensor.data_ptr() for tensor in tensors]
    network(torch.tensor([[1, 2, 3]]), cache)
    network(torch.tensor([[4]]), cache)
    cache.rewind(torch.tensor([2]))
    assert [tensor.data_ptr() for tensor in tensors] == places
    assert cache.layers[0].keys.shape == (1, 2, 8, 12)


def test_a_full_cache_says_so():
    network = tiny()
    cache = KVCache(TINY, batch=1, capacity=4, dtype=torch.float32)
    network(torch.tensor([[1, 2, 3]]), cache)
    with pytest.raises(ValueError, match="holds 4 tokens; 3 and 2 more do not fit"):
        network(torch.tensor([[4, 5]]), cache)


def test_bf16_weights_do_not_round_the_rotary_frequencies(tmp_path):
    published(tmp_path, TINY)
    network = load_qwen3(tmp_path, torch.bfloat16)
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert not list(network.buffers())

    rope = []
    network.get_submodule("layers.0.self_attn").register_forward_hook(
        lambda module, inputs, kwargs, output: rope.append(kwargs["rope"]), with_kwargs=True
    )
    states = network(torch.randint(TINY.vocab_size, (1, 1200)))
    assert states.dtype == torch.bfloat16
    pair = torch.arange(6, dtype=torch.float64)
    angles = torch.outer(torch.arange(1200, dtype=torch.float64), 1e6 ** (-2 * pair / 12))
    exact = angles.cos().repeat(1, 2)
    # 2^-9 is half a bf16 step below 1; rounded frequencies would be 0.1 rad off by then.
    assert (rope[0].cos[0, 0].double() - exact).abs().max() < 2**-9 + 1e-3
    assert rotary_at(torch.tensor([1199]), TINY, torch.float32).cos.dtype == torch.float32


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (EMBEDDING, 595_776_512),
        (PLANNER, 662_884_352),
        (replace(PLANNER, hidden_size=2048, intermediate_size=6144), 1_854_243_840),
        (
            replace(
                PLANNER,
                hidden_size=2560,
                intermediate_size=9728,
                num_hidden_layers=36,
                num_attention_heads=32,
            ),
            4_189_554_176,
        ),
    ],
    ids=["embedding 0.6B", "planner 0.6B", "planner 1.7B", "planner 4B"],
)
def test_the_published_networks_have_their_published_sizes(config, parameters):
    with torch.device("meta"):
        network = Qwen3(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert {"embed_tokens.weight", "layers.0.self_attn.q_norm.weight", "norm.weight"} <= set(
        network.state_dict()
    )
