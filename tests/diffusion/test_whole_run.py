"""Noise to latents against diffusers' own ACE-Step pipeline: same random weights, fp32.

Theirs is the oracle for all of it: grid, scheduler, doubled batch, guidance, network. Only what
comes before, the encoding of texts, is replaced by the same drawn states on both sides.
"""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from random_checkpoints import TINY_2B, TINY_XL, diffusers_weights
from torch import Tensor, nn

from acestep.diffusion.context import to_be_made
from acestep.diffusion.guidance import guided
from acestep.diffusion.noise import draw_noise
from acestep.diffusion.sampler import euler
from acestep.diffusion.schedule import timesteps
from acestep.models.load import load_acestep, load_silence

with warnings.catch_warnings():
    # Importing diffusers' attention code registers custom operators on types that torch deprecates.
    warnings.simplefilter("ignore", FutureWarning)
    from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel
    from diffusers.pipelines.ace_step.pipeline_ace_step import AceStepPipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

TAKES, FRAMES, CONDITIONS = 2, 31, 9  # odd, so the last patch is half padding
SHIFT, GUIDANCE_SCALE = 3.0, 7.0


@dataclass(frozen=True)
class Run:
    """One checkpoint and what both sides start from."""

    folder: Path
    config: dict[str, Any]
    steps: int
    noise: Tensor
    states: Tensor

    @property
    def is_turbo(self) -> bool:
        return self.config["is_turbo"]


@pytest.fixture(params=[TINY_2B, TINY_XL], ids=["2B", "XL"])
def sizes(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.fixture(params=[("turbo", 8), ("base", 6)], ids=["turbo", "base"])
def run(
    request: pytest.FixtureRequest,
    sizes: dict[str, Any],
    random_acestep: Callable[[dict[str, Any]], Path],
) -> Run:
    version, steps = request.param
    config = sizes | {"is_turbo": version == "turbo", "model_version": version}
    width = config.get("encoder_hidden_size", config["hidden_size"])
    states = torch.randn(TAKES, CONDITIONS, width, generator=torch.Generator().manual_seed(1))
    noise = draw_noise([1, 2], FRAMES, config["audio_acoustic_hidden_dim"])
    return Run(random_acestep(config), config, steps, noise, states)


class GivenConditions(nn.Module):
    """Stands where diffusers has its condition encoder."""

    device = torch.device("cpu")

    def __init__(self, states: Tensor, null: Tensor, silence: Tensor) -> None:
        super().__init__()
        self.states, self.null_condition_emb, self.silence_latent = states, null, silence

    def forward(self, **texts: Tensor) -> tuple[Tensor, None]:
        return self.states, None


class TheirPipeline(AceStepPipeline):
    """diffusers' pipeline without texts, and with its grid computed in float64.

    Their fp32 formula ends up to one unit in the last place beside the exact time; the network's
    time embedding multiplies that by 1000, and 6 guided steps make 1.4e-5 of it.
    """

    def encode_prompt(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        nothing = torch.empty(0)
        return nothing, nothing, nothing, nothing

    def _get_timestep_schedule(self, *args: Any, **kwargs: Any) -> Tensor:
        return super()._get_timestep_schedule(*args, **kwargs | {"dtype": torch.float64})


def theirs(run: Run) -> Tensor:
    (null_condition,) = diffusers_weights(run.folder, "null_condition_emb").values()
    pipeline = TheirPipeline(
        vae=None,  # pyright: ignore[reportArgumentType]
        text_encoder=None,  # pyright: ignore[reportArgumentType]
        tokenizer=None,  # pyright: ignore[reportArgumentType]
        transformer=their_transformer(run),
        condition_encoder=GivenConditions(  # pyright: ignore[reportArgumentType]
            run.states, null_condition, their_silence(run.folder)
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    (latents,) = pipeline(
        prompt=["a song"] * TAKES,
        audio_duration=FRAMES / 25,
        num_inference_steps=run.steps,
        guidance_scale=1.0 if run.is_turbo else GUIDANCE_SCALE,
        shift=SHIFT,
        latents=run.noise,
        output_type="latent",
        return_dict=False,
    )
    return latents


def their_transformer(run: Run) -> AceStepTransformer1DModel:
    accepted = inspect.signature(AceStepTransformer1DModel.__init__).parameters
    sizes = {key: value for key, value in run.config.items() if key in accepted}
    transformer = AceStepTransformer1DModel(**sizes)
    transformer.load_state_dict(diffusers_weights(run.folder, "decoder."), strict=True)
    return transformer.eval()


def their_silence(folder: Path) -> Tensor:
    return torch.load(folder / "silence_latent.pt", weights_only=True).transpose(1, 2)


@torch.inference_mode()
def ours(run: Run) -> Tensor:
    model = load_acestep(run.folder, dtype=torch.float32, device="cpu")
    context = to_be_made(load_silence(run.folder), FRAMES, TAKES)
    both_states = torch.cat([run.states, model.null_condition_emb.expand_as(run.states)])
    both_contexts = torch.cat([context, context])

    def conditional(latents: Tensor, t: float, step: int = 0) -> Tensor:
        time = torch.full((TAKES,), t)
        return model.decoder(latents, time, time, run.states, context)

    def pair(latents: Tensor, t: float, step: int = 0) -> tuple[Tensor, Tensor]:
        time = torch.full((2 * TAKES,), t)
        both = model.decoder(latents.repeat(2, 1, 1), time, time, both_states, both_contexts)
        return both[:TAKES], both[TAKES:]

    scale = 1.0 if run.is_turbo else GUIDANCE_SCALE
    velocity = guided(conditional, pair, rule="apg", scale=scale)
    return euler(
        velocity, run.noise, timesteps(is_turbo=run.is_turbo, steps=run.steps, shift=SHIFT)
    )


def test_a_whole_run_agrees_with_diffusers(run: Run) -> None:
    expected, latents = theirs(run), ours(run)
    assert (expected - run.noise).norm() > 0.5 * run.noise.norm()  # the run went somewhere
    assert ((latents - expected).norm() / expected.norm()).item() <= 1e-5


@pytest.mark.parametrize("shift", [1.0, 2.0, 3.0, 2.4])
@pytest.mark.parametrize("steps", [1, 6, 8, 50])
def test_the_grid_is_the_one_diffusers_computes_in_float32(steps: int, shift: float) -> None:
    pipeline = AceStepPipeline(*[None] * 6)  # pyright: ignore[reportArgumentType]
    expected = pipeline._get_timestep_schedule(steps, shift, dtype=torch.float32)
    grid = timesteps(is_turbo=False, steps=steps, shift=shift)
    torch.testing.assert_close(torch.tensor(grid[:-1]), expected, rtol=2.0**-22, atol=0.0)
