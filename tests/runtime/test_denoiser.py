"""The seam to the DiT: however many takes the network sees together, each gets its own velocity."""

import pytest
import torch
from random_checkpoints import TINY_2B

from acestep.diffusion.context import Conditioning
from acestep.models.acestep import AceStep
from acestep.models.config import AceStepConfig
from acestep.runtime.denoiser import EagerDenoiser

TAKES = 3


@pytest.fixture(scope="module")
def networks() -> AceStep:
    torch.manual_seed(3)
    return AceStep(AceStepConfig.from_dict(TINY_2B)).requires_grad_(False).eval()


def denoiser(networks: AceStep, takes_at_once: int | None = None) -> EagerDenoiser:
    return EagerDenoiser(
        networks.decoder, networks.null_condition, torch.device("cpu"), takes_at_once
    )


@pytest.mark.parametrize("takes_at_once", [1, 2])
def test_fewer_takes_at_once_give_the_same_velocities(
    networks: AceStep, takes_at_once: int
) -> None:
    latents, context = torch.randn(TAKES, 20, 8), torch.randn(TAKES, 20, 16)
    conditioning = Conditioning(torch.randn(1, 7, 64), context)
    together, apart = denoiser(networks), denoiser(networks, takes_at_once)
    with torch.inference_mode():
        for t in (1.0, 0.4):
            expected = together.velocity(latents, t, conditioning)
            torch.testing.assert_close(apart.velocity(latents, t, conditioning), expected)
            pairs = apart.pair(latents, t, conditioning), together.pair(latents, t, conditioning)
            for got, wanted in zip(*pairs, strict=True):
                torch.testing.assert_close(got, wanted)
            torch.testing.assert_close(pairs[0][0], expected)
    assert not torch.allclose(*pairs[0])  # the branches differ, so their order is tested


def test_another_conditioning_is_noticed(networks: AceStep) -> None:
    latents, context = torch.randn(1, 20, 8), torch.randn(1, 20, 16)
    first, second = (Conditioning(torch.randn(1, 7, 64), context) for _ in range(2))
    one = denoiser(networks)
    with torch.inference_mode():
        one.velocity(latents, 0.5, first)
        changed = one.velocity(latents, 0.5, second)
        assert torch.equal(changed, denoiser(networks).velocity(latents, 0.5, second))
        assert not torch.allclose(changed, one.velocity(latents, 0.5, first))
