"""One song, in reading order: plan → read → condition → denoise → decode.

The pipeline decides nothing: every choice is in the resolved request, every weight in the store.
Tasks differ in what the DiT is told (`listen`), in where a run starts (`first_state`) and in what
it must keep (`hold`); all else is the same for all.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from acestep import audio, conditioning
from acestep.canvas import Canvas
from acestep.diffusion import context as contexts
from acestep.diffusion import guidance, noise, repaint, sampler, schedule, wavelet
from acestep.errors import AudioError, InvalidRequest
from acestep.models.dit import DiT
from acestep.models.layers import KeysValues
from acestep.progress import Reporter, Stage
from acestep.request import Cover, MusicRequest, Preset, Repaint
from acestep.seeds import take_seed
from acestep.source import Source
from acestep.store import ModelStore
from acestep.types import Codes, Context, Latents, States, Waveform


@dataclass(frozen=True)
class Rendering:
    """What the networks made: a waveform and its latents per take, and seconds per stage.

    `request` is resolved: with its plan and its source it makes this rendering again.
    """

    request: MusicRequest
    canvas: Canvas
    waveform: Waveform  # as decoded, cut to the sample; neither levelled nor joined to a source
    latents: Latents
    seconds: dict[Stage, float]


@dataclass(frozen=True)
class Condition:
    """What the DiT is told: states to attend to, shared by all takes, and each take's context."""

    states: States
    context: Context


@dataclass(frozen=True)
class Conditions:
    """What the DiT is told at first, and what in the steps after a share of them."""

    first: Condition
    later: Condition | None = None
    share: float = 1.0

    def switch(self, steps: int) -> int | None:
        """The step, from 0, that begins with the later condition."""
        return None if self.later is None else int(steps * self.share)


@torch.inference_mode()
def generate(
    request: MusicRequest,
    preset: Preset,
    store: ModelStore,
    report: Reporter,
    source: Source | None = None,
) -> Rendering:
    """Render every take of a request that has begun (`MusicRequest.begin`).

    Args:
        source: the song that a repaint or a cover starts from.

    Raises:
        AudioError: the reference recording cannot be used.
        InvalidRequest: the plan has codes that this checkpoint does not know, or a region does not
            fit the source.
        UnsoundResult: the planner would not end.
        Cancelled: the user stopped the run; noticed at every token, step and layer of the VAE.
    """
    seconds: dict[Stage, float] = {}
    if request.think and request.plan is None:
        with _timed(seconds, "planning"), store.planner() as planner:
            plan = planner.plan(request, preset.longest_plan, report)
        request = request.model_copy(update={"plan": plan})
    request = request.resolve(preset, has_planner=store.has_planner)
    canvas = lay_out(request, source)
    origin: Latents | None = None
    if source is not None:
        with _timed(seconds, "reading"):
            origin = place_source(source, canvas, store, report)
    with _timed(seconds, "conditioning"):
        conditions = listen(request, canvas, origin, store, report)
    with _timed(seconds, "rendering"):
        latents = denoise(request, preset, canvas, origin, conditions, store, report)
    with _timed(seconds, "decoding"), store.vae() as vae:
        waveform = vae.decode(
            latents, on_progress=lambda done, total: report("decoding", done, total)
        )
    return Rendering(request, canvas, canvas.cut(waveform.cpu()), latents.cpu(), seconds)


def lay_out(request: MusicRequest, source: Source | None) -> Canvas:
    """How long the song is, and which parts of it are made anew.

    Raises:
        InvalidRequest: a region does not fit the source.
    """
    if source is None:
        assert request.duration is not None, "the request is not resolved"
        return Canvas.blank(round(request.duration * audio.SAMPLE_RATE))
    if isinstance(request, Repaint):
        return Canvas.around(source.samples, request.regions_of(source.seconds))
    return Canvas.blank(source.samples)


def place_source(source: Source, canvas: Canvas, store: ModelStore, report: Reporter) -> Latents:
    """The source's latents in their place, with silence around them: (1, frame, channel)."""
    latents = encode_source(source, store, report)
    return contexts.placed(store.silence, latents, canvas.lead_frames, canvas.frames)


def encode_source(source: Source, store: ModelStore, report: Reporter) -> Latents:
    """The latents that the source was made of, if they were kept; else it is encoded."""
    return _encode(source.waveform, store, report) if source.latents is None else source.latents


def source_codes(source: Source, store: ModelStore, report: Reporter) -> Codes:
    """The source as the planner reads it: one row of five codes per second."""
    latents = encode_source(source, store, report)
    with torch.inference_mode(), store.conditioner() as acestep:
        _, codes = acestep.tokenizer(latents.to(store.device, store.dtype), store.silence)
    return codes


def listen(
    request: MusicRequest,
    canvas: Canvas,
    origin: Latents | None,
    store: ModelStore,
    report: Reporter,
) -> Conditions:
    """What the DiT is told in each task.

    A repaint sees its source with silence in the holes. A cover sees its source in outline, and
    from a share of the steps on nothing but silence. A new song sees what its plan outlines.

    Args:
        origin: the source's latents in their place, for the tasks that have a source.
    """
    reference = encode_reference(request, store, report)
    empty = contexts.text2music(store.silence, canvas.frames, request.takes)

    def told(instruction: str, context: Context) -> Condition:
        prompt = conditioning.caption_prompt(request, instruction, canvas.seconds)
        return Condition(encode_condition(request, prompt, reference, store, report), context)

    if isinstance(request, Repaint):
        assert origin is not None, "a repaint has a source"
        context = contexts.repaint(store.silence, origin, canvas.window, request.takes)
        return Conditions(told(conditioning.REPAINT, context))
    hints = outline(request, origin, store)
    if hints is None:
        return Conditions(told(conditioning.FILL_MASK, empty))
    context = contexts.text2music(store.silence, canvas.frames, request.takes, hints)
    first = told(conditioning.FOLLOW_CODES, context)
    if not isinstance(request, Cover) or request.audio_cover_strength == 1.0:
        return Conditions(first)
    return Conditions(first, told(conditioning.FILL_MASK, empty), request.audio_cover_strength)


def outline(request: MusicRequest, origin: Latents | None, store: ModelStore) -> Latents | None:
    """What the song is to follow: a source's or a plan's codes as latents, or the source itself.

    Raises:
        InvalidRequest: the plan was made for another checkpoint.
    """
    if origin is not None:
        if not (isinstance(request, Cover) and request.quantize):
            return origin
        with store.conditioner() as acestep:
            latents = origin.to(store.device, store.dtype)
            quantized, _ = acestep.tokenizer(latents, store.silence)
            return acestep.detokenizer(quantized)[:, : origin.shape[1]].float().cpu()
    if request.plan is None or not request.plan.codes:
        return None
    codes = torch.tensor(request.plan.codes, device=store.device)
    if codes.max() >= store.config.codebook_size:
        raise InvalidRequest(
            "plan",
            f"The plan has the code {codes.max().item()}, but this checkpoint knows "
            f"{store.config.codebook_size:,}: it was planned for another model.",
        )
    with store.conditioner() as acestep:
        return acestep.detokenizer(acestep.tokenizer.quantizer.decode(codes)).float().cpu()


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
    return _encode(conditioning.reference_clips(waveform, frames), store, report)


def encode_condition(
    request: MusicRequest, caption: str, reference: Latents, store: ModelStore, report: Reporter
) -> States:
    """The packed lyric, timbre and text states that the DiT reads, for one take."""
    report("conditioning", 0, 2)
    with store.text_encoder() as text_encoder:
        text, text_mask = text_encoder.encode_caption(caption)
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


def denoise(
    request: MusicRequest,
    preset: Preset,
    canvas: Canvas,
    origin: Latents | None,
    conditions: Conditions,
    store: ModelStore,
    report: Reporter,
) -> Latents:
    """Integrate from seeded noise to latents, in fp32 outside the network."""
    assert request.seed is not None and request.guidance_scale is not None
    assert request.steps is not None and request.shift is not None
    takes, channels, scale = request.takes, store.silence.shape[-1], request.guidance_scale
    seeds = [take_seed(request.seed, take) for take in range(takes)]
    drawn = noise.draw_noise(seeds, canvas.frames, channels).to(store.device)
    timesteps = schedule.timesteps(
        is_turbo=preset.is_turbo,
        steps=request.steps,
        shift=request.shift,
        custom=request.timesteps,
    )
    timesteps, start = first_state(request, origin, drawn, timesteps)
    steps = len(timesteps) - 1
    keeper = hold(request, canvas, origin, drawn, steps)
    switch = conditions.switch(steps)

    with store.dit() as dit:
        told = listener(dit, conditions.later if switch == 0 else conditions.first, scale, store)

        def after_step(step: sampler.Step) -> Latents:
            step = replace(step, latents=wavelet.dcw(step, request.dcw))
            return step.latents if keeper is None else keeper.after_step(step)

        def on_step(done: int, total: int) -> None:
            nonlocal told
            if done == switch and done < total:
                told = listener(dit, conditions.later, scale, store)
            report("rendering", done, total)

        report("rendering", 0, steps)
        latents = sampler.SAMPLERS[request.solver](
            guidance.guided(
                lambda latents, t: told.conditional(latents, t),
                lambda latents, t: told.pair(latents, t),
                rule=request.guidance_rule,
                scale=scale,
                start=request.guidance_start,
                end=request.guidance_end,
            ),
            start,
            timesteps,
            renoise=noise.renoise(seeds, canvas.frames, channels),
            after_step=after_step,
            on_step=on_step,
        )
    return latents if keeper is None else keeper.after_run(latents)


def first_state(
    request: MusicRequest, origin: Latents | None, drawn: Latents, timesteps: tuple[float, ...]
) -> tuple[tuple[float, ...], Latents]:
    """The times of the run and the state it begins with: noise, or a cover's noisy source."""
    if not isinstance(request, Cover) or request.cover_noise_strength == 0.0:
        return timesteps, drawn
    assert origin is not None, "a cover has a source"
    timesteps = schedule.from_level(timesteps, 1 - request.cover_noise_strength)
    return timesteps, noise.noised(origin.to(drawn), drawn, timesteps[0])


def hold(
    request: MusicRequest, canvas: Canvas, origin: Latents | None, drawn: Latents, steps: int
) -> repaint.Keeper | None:
    """What keeps a repaint to its source."""
    if not isinstance(request, Repaint):
        return None
    assert origin is not None, "a repaint has a source"
    firmness = repaint.Hold.of(request.mode, request.strength)
    window = canvas.window.to(drawn.device)
    return repaint.Keeper(firmness, origin.to(drawn), drawn, window, steps)


@dataclass(frozen=True)
class Listener:
    """The DiT with one condition in its ear: its velocity, and that without the text beside it."""

    conditional: sampler.Velocity
    pair: guidance.Pair


def listener(dit: DiT, condition: Condition | None, scale: float, store: ModelStore) -> Listener:
    """Neither the text nor its keys and values change from step to step, so they are made once."""
    assert condition is not None, "a run that switches has a later condition"
    context = condition.context.to(store.device, store.dtype)
    takes = len(context)
    with_text = condition.states.expand(takes, -1, -1)
    alone = dit.keys_values(with_text)
    both = alone
    if scale > 1:
        both = dit.keys_values(torch.cat([with_text, store.null_condition(with_text)]))

    def predict(latents: Latents, t: float, text: list[KeysValues]) -> Latents:
        # r = t: the published checkpoints are sampled without their mean-flow branch.
        times = torch.full((len(latents),), t, device=store.device)
        return dit(latents, times, times, text, context.repeat(len(latents) // takes, 1, 1))

    def pair(latents: Latents, t: float) -> tuple[Latents, Latents]:
        velocity = predict(latents.repeat(2, 1, 1), t, both)
        return velocity[:takes], velocity[takes:]

    return Listener(lambda latents, t: predict(latents, t, alone), pair)


def _encode(waveform: Waveform, store: ModelStore, report: Reporter) -> Latents:
    """Latents of a recording, whose last frame is filled up with silence."""
    whole = torch.nn.functional.pad(waveform, (0, -waveform.shape[-1] % audio.SAMPLES_PER_FRAME))
    report("reading", 0, 1)
    with store.vae() as vae:
        return vae.encode(whole, on_progress=lambda done, total: report("reading", done, total))


@contextmanager
def _timed(seconds: dict[Stage, float], stage: Stage) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
