"""One song, in reading order: plan → condition → context → denoise → decode.

The pipeline decides nothing: every choice is in the resolved request, every weight in the store.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from acestep import audio, conditioning
from acestep.diffusion import context as contexts
from acestep.diffusion import guidance, noise, sampler, schedule, wavelet
from acestep.errors import AudioError, InvalidRequest
from acestep.models.layers import KeysValues
from acestep.progress import Reporter, Stage
from acestep.request import MusicRequest, Preset
from acestep.seeds import take_seed
from acestep.store import ModelStore
from acestep.types import Context, Latents, States, Waveform


@dataclass(frozen=True)
class Rendering:
    """What the networks made: a waveform and its latents per take, and seconds per stage.

    `request` is resolved: with its plan it makes this rendering again.
    """

    request: MusicRequest
    waveform: Waveform  # as decoded: neither normalised nor cut to the sample
    latents: Latents
    seconds: dict[Stage, float]


@torch.inference_mode()
def generate(
    request: MusicRequest, preset: Preset, store: ModelStore, report: Reporter
) -> Rendering:
    """Render every take of a request that has begun (`MusicRequest.begin`).

    Raises:
        AudioError: the reference recording cannot be used.
        InvalidRequest: the plan has codes that this checkpoint does not know.
        UnsoundResult: the planner would not end.
        Cancelled: the user stopped the run; noticed at every token, step and tile.
    """
    seconds: dict[Stage, float] = {}
    if request.think and request.plan is None:
        with _timed(seconds, "planning"), store.planner() as planner:
            plan = planner.plan(request, preset.longest_plan, report)
        request = request.model_copy(update={"plan": plan})
    request = request.resolve(preset, has_planner=store.has_planner)
    with _timed(seconds, "conditioning"):
        reference = encode_reference(request, store, report)
        states = encode_condition(request, reference, store, report)
        context = build_context(request, frame_count(request), store)
    with _timed(seconds, "rendering"):
        latents = denoise(request, preset, states, context, store, report)
    with _timed(seconds, "decoding"), store.vae() as vae:
        waveform = vae.decode(latents, on_tile=lambda done, total: report("decoding", done, total))
    return Rendering(request, waveform.cpu(), latents.cpu(), seconds)


def frame_count(request: MusicRequest) -> int:
    """Latent frames that cover the request's duration."""
    assert request.duration is not None, "the request is not resolved"
    return math.ceil(round(request.duration * audio.LATENT_RATE, 6))


def encode_reference(request: MusicRequest, store: ModelStore, report: Reporter) -> Latents:
    """Latents of the recording to take the timbre from; silence when there is none.

    Shape: (1, timbre_fix_frame, channel).
    """
    frames = store.config.timbre_fix_frame
    if request.reference_audio is None:
        return contexts.silence(store.silence, frames)
    report("reading", 0, 1)
    waveform = audio.read(request.reference_audio)
    if audio.is_silent(waveform):
        raise AudioError(f"The reference recording {request.reference_audio.name} is silent.")
    with store.vae() as vae:
        return vae.encode(
            conditioning.reference_clips(waveform, frames).to(store.device),
            on_tile=lambda done, total: report("reading", done, total),
        )


def encode_condition(
    request: MusicRequest, reference: Latents, store: ModelStore, report: Reporter
) -> States:
    """The packed lyric, timbre and text states that the DiT reads, for one take."""
    report("conditioning", 0, 2)
    with store.text_encoder() as text_encoder:
        text, text_mask = text_encoder.encode_caption(conditioning.caption_prompt(request))
        lyrics, lyrics_mask = text_encoder.embed_lyrics(conditioning.lyrics_prompt(request))
    report("conditioning", 1, 2)
    with store.conditioner() as acestep:
        states, _ = acestep.encoder(
            text,
            text_mask,
            lyrics,
            lyrics_mask,
            reference.to(store.device, store.dtype),
            torch.zeros(1, dtype=torch.long, device=store.device),
        )
    report("conditioning", 2, 2)
    return states


def build_context(request: MusicRequest, frames: int, store: ModelStore) -> Context:
    """Source latents and mask for all takes: silence, or what the planner's codes stand for."""
    hints = None
    if request.plan is not None and request.plan.codes:
        codes = torch.tensor(request.plan.codes, device=store.device)
        if codes.max() >= store.config.codebook_size:
            raise InvalidRequest(
                "plan",
                f"The plan has the code {codes.max().item()}, but this checkpoint knows "
                f"{store.config.codebook_size:,}: it was planned for another model.",
            )
        with store.conditioner() as acestep:
            hints = acestep.detokenizer(acestep.tokenizer.quantizer.decode(codes)).float().cpu()
    return contexts.text2music(store.silence, frames, request.takes, hints)


def denoise(
    request: MusicRequest,
    preset: Preset,
    states: States,
    context: Context,
    store: ModelStore,
    report: Reporter,
) -> Latents:
    """Integrate from seeded noise to latents, in fp32 outside the network."""
    assert request.seed is not None and request.guidance_scale is not None
    assert request.steps is not None and request.shift is not None
    device, takes, scale = store.device, request.takes, request.guidance_scale
    frames, channels = context.shape[1], store.silence.shape[-1]
    seeds = [take_seed(request.seed, take) for take in range(takes)]
    timesteps = schedule.timesteps(
        is_turbo=preset.is_turbo,
        steps=request.steps,
        shift=request.shift,
        custom=request.timesteps,
    )
    context = context.to(device, store.dtype)
    with_text = states.expand(takes, -1, -1)
    without_text = store.null_condition(with_text)

    with store.dit() as dit:
        # Neither the text nor its keys and values change from step to step.
        alone = dit.keys_values(with_text)
        both = dit.keys_values(torch.cat([with_text, without_text])) if scale > 1 else alone

        def predict(latents: Latents, t: float, conditions: list[KeysValues]) -> Latents:
            # r = t: the published checkpoints are sampled without their mean-flow branch.
            times = torch.full((len(latents),), t, device=device)
            repeats = len(latents) // takes
            return dit(latents, times, times, conditions, context.repeat(repeats, 1, 1))

        def conditional(latents: Latents, t: float) -> Latents:
            return predict(latents, t, alone)

        def pair(latents: Latents, t: float) -> tuple[Latents, Latents]:
            velocity = predict(latents.repeat(2, 1, 1), t, both)
            return velocity[:takes], velocity[takes:]

        report("rendering", 0, len(timesteps) - 1)
        return sampler.SAMPLERS[request.solver](
            guidance.guided(
                conditional,
                pair,
                rule=request.guidance_rule,
                scale=scale,
                start=request.guidance_start,
                end=request.guidance_end,
            ),
            noise.draw_noise(seeds, frames, channels).to(device),
            timesteps,
            renoise=noise.renoise(seeds, frames, channels),
            after_step=lambda step: wavelet.dcw(step, request.dcw),
            on_step=lambda done, total: report("rendering", done, total),
        )


@contextmanager
def _timed(seconds: dict[Stage, float], stage: Stage) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
