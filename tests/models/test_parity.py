"""Our networks against diffusers' independent ones: same random weights, same inputs, fp32.

The weights are written in the published layout and read by our own loader, so names, shapes and
maths are tested together. Keys are mapped to diffusers' as its own converter does.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel
from diffusers.pipelines.ace_step.modeling_ace_step import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
)
from random_checkpoints import TINY_2B, TINY_XL, diffusers_weights
from safetensors.torch import load_file
from torch import Tensor, nn

from acestep.models.acestep import AceStep
from acestep.models.load import load_acestep, load_silence

TOLERANCE = 1e-5  # relative L2


class Pair(NamedTuple):
    """Ours, and what it takes to build theirs."""

    folder: Path
    config: dict[str, Any]
    ours: AceStep

    def theirs(self, cls: type, prefix: str, **extra: Tensor) -> Any:
        """A diffusers network with the weights under `prefix`; every key must find its place."""
        sizes = dict(self.config)
        if cls is not AceStepTransformer1DModel:
            own = {k.removeprefix("encoder_"): v for k, v in sizes.items() if k[:8] == "encoder_"}
            sizes |= own
        if cls in (AceStepAudioTokenizer, AceStepAudioTokenDetokenizer):
            # Theirs want one type per layer; ours index the DiT's longer list.
            depth = sizes["num_attention_pooler_hidden_layers"]
            sizes["layer_types"] = sizes["layer_types"][:depth]
        accepted = cls.__init__.__annotations__
        network = cls(**{key: value for key, value in sizes.items() if key in accepted})
        network.load_state_dict(diffusers_weights(self.folder, prefix) | extra, strict=True)
        return network.eval()


@pytest.fixture(scope="module", params=[TINY_2B, TINY_XL], ids=["2B", "XL"])
def pair(
    request: pytest.FixtureRequest, random_acestep: Callable[[Mapping[str, Any]], Path]
) -> Pair:
    folder = random_acestep(request.param)
    return Pair(folder, request.param, load_acestep(folder, torch.float32))


def error(ours: Tensor, theirs: Tensor) -> float:
    """Relative L2 distance."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frames", [31, 40], ids=["odd", "even"])
def test_dit_predicts_the_same_velocity(pair: Pair, frames: int) -> None:
    theirs = pair.theirs(AceStepTransformer1DModel, "decoder.")
    latents, context = noise(2, frames, 8), noise(2, frames, 16, seed=1)
    states = noise(2, 12, 64, seed=2)
    t, r = torch.tensor([0.7, 0.3]), torch.tensor([0.7, 0.1])
    with torch.no_grad():
        expected = theirs(latents, t, r, states, context).sample
        assert error(pair.ours.decoder(latents, t, r, states, context), expected) <= TOLERANCE


def test_condition_encoder_gives_the_same_states_and_mask(pair: Pair) -> None:
    theirs = pair.theirs(
        AceStepConditionEncoder,
        "encoder.",
        null_condition_emb=pair.ours.null_condition_emb,
        silence_latent=load_silence(pair.folder),
    )
    if pair.ours.config.prepends_timbre_token:
        # diffusers 0.42.1 forgets XL's timbre token: it reads the first frame's state instead of
        # the token's, so it is given the token here where it embeds the frames.
        timbre = theirs.timbre_encoder
        timbre.embed_tokens = PrependToken(timbre.special_token, timbre.embed_tokens)
    text, lyrics = noise(2, 7, 32), noise(2, 23, 32, seed=1)
    text_mask = torch.arange(7) < torch.tensor([[7], [4]])
    lyrics_mask = torch.arange(23) < torch.tensor([[23], [9]])
    inputs = (text, text_mask, lyrics, lyrics_mask)
    references, order = noise(3, 20, 8, seed=2), torch.tensor([0, 0, 1])
    with torch.no_grad():
        states, mask = pair.ours.encoder(*inputs, references, order)
        expected, expected_mask = theirs(*inputs, references, order)
    assert error(states, expected) <= TOLERANCE
    assert torch.equal(mask, expected_mask.bool())
    assert mask.sum(dim=1).tolist() == [23 + 2 + 7, 9 + 1 + 4]


class PrependToken(nn.Module):
    """An embedding that puts a learned token before what it embeds."""

    def __init__(self, token: nn.Parameter, embed: nn.Module) -> None:
        super().__init__()
        self.token, self.embed = token, embed

    def forward(self, frames: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(frames), -1, -1), self.embed(frames)], dim=1)


def test_tokenizer_gives_the_same_codes_and_reaches_every_level(pair: Pair) -> None:
    theirs = pair.theirs(AceStepAudioTokenizer, "tokenizer.")
    latents, silence = 4 * noise(2, 1003, 8), load_silence(pair.folder)
    with torch.no_grad():
        quantized, codes = pair.ours.tokenizer(latents, silence)
        expected, expected_codes = theirs.tokenize(latents, silence)
    assert codes.shape == (2, 201)
    assert torch.equal(codes, expected_codes[..., 0])
    assert error(quantized, expected) <= TOLERANCE
    levels = pair.ours.tokenizer.quantizer.unfold(codes)
    for dimension, count in enumerate(pair.config["fsq_input_levels"]):
        assert levels[..., dimension].unique().tolist() == list(range(count))


def test_codes_mean_the_same(pair: Pair) -> None:
    theirs = pair.theirs(AceStepAudioTokenizer, "tokenizer.").quantizer
    codes = torch.arange(64000)[None]
    with torch.no_grad():
        expected = theirs.get_output_from_indices(codes[..., None])
        assert error(pair.ours.tokenizer.quantizer.decode(codes), expected) <= TOLERANCE


def test_detokenizer_gives_the_same_latents(pair: Pair) -> None:
    theirs = pair.theirs(AceStepAudioTokenDetokenizer, "detokenizer.")
    quantized = noise(2, 6, 64)
    with torch.no_grad():
        latents = pair.ours.detokenizer(quantized)
        assert latents.shape == (2, 30, 8)
        assert error(latents, theirs(quantized)) <= TOLERANCE


def test_null_condition_fills_every_slot(pair: Pair) -> None:
    stored = load_file(pair.folder / "model.safetensors")["null_condition_emb"]
    null = pair.ours.null_condition(noise(2, 5, 64))
    assert torch.equal(null, stored.expand(2, 5, 64))


def test_kept_keys_and_values_do_not_change_the_velocity(pair: Pair) -> None:
    latents, context, states = noise(2, 31, 8), noise(2, 31, 16, seed=1), noise(2, 12, 64, seed=2)
    t = torch.tensor([0.7, 0.3])
    with torch.no_grad():
        kept = pair.ours.decoder.keys_values(states)
        plain = pair.ours.decoder(latents, t, t, states, context)
        assert torch.equal(pair.ours.decoder(latents, t, t, kept, context), plain)
