"""One song, in reading order: plan → read → condition → denoise → decode.

The pipeline decides nothing and knows no task by name: every choice is in the resolved request,
every weight in the store, and what sets a task apart in its room (`acestep.tasks`).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from acestep.diffusion import context, guidance, noise, sampler, schedule, wavelet
from acestep.diffusion.context import Conditioning
from acestep.errors import AudioError
from acestep.library.source import Source
from acestep.media import audio
from acestep.progress import Reporter, Stage
from acestep.request import MusicRequest, Plan, Preset
from acestep.request.planned import PlannedRequest
from acestep.request.resolved import ResolvedRequest
from acestep.runtime.codec import Codec
from acestep.runtime.devices import synchronize
from acestep.runtime.store import ModelStore
from acestep.seeds import take_seed
from acestep.tasks.base import Guide, Task
from acestep.tasks.conditioning import caption_prompt, lyrics_prompt, reference_clips
from acestep.tasks.timeline import Timeline
from acestep.types import Codes, Latents, States, Waveform


@dataclass(frozen=True)
class Rendering:
    """What the networks made: a waveform and its latents per take, and seconds per stage.

    `request`, with its plan and its source, makes this rendering again. `traded` says what was
    given up on the way because memory ran out.
    """

    request: ResolvedRequest
    timeline: Timeline
    waveform: Waveform  # as decoded, cut to the sample; neither levelled nor joined to a source
    latents: Latents
    seconds: dict[Stage, float]
    traded: tuple[str, ...] = ()


@torch.inference_mode()
def generate(
    request: MusicRequest,
    task: Task[Any],
    preset: Preset,
    store: ModelStore,
    report: Reporter,
    source: Source | None = None,
) -> Rendering:
    """Render every take of a request.

    Args:
        source: the song that an edit starts from.

    Raises:
        AudioError: the reference recording cannot be used.
        InvalidRequest: the plan has codes that this checkpoint does not know, or a region does not
            fit the source.
        UnsoundResult: the planner would not end.
        Cancelled: the user stopped the run; noticed at every token, step and layer of the VAE.
        RuntimeError, MemoryError: memory ran out under the lightest plan too.
    """
    clock, known = Clock(store.device), len(store.plan.traded)
    request = request.seeded()
    if (song := request.to_plan(has_planner=store.has_planner)) is not None:
        with clock.stage("planning"):
            planned = store.attempt(lambda: plan_song(song, preset, store, report))
            request = song.with_plan(planned)
    resolved = request.resolve(preset)
    timeline = task.timeline(resolved, source)
    source_latents: Latents | None = None
    if source is not None:
        with clock.stage("reading"):
            source_latents = place_source(source, timeline, store, report)
    with clock.stage("conditioning"):
        guides = store.attempt(
            lambda: task.guides(resolved, timeline, source_latents, Codec(store))
        )
        conditionings = build_conditionings(resolved, guides, timeline, store, report)
    with clock.stage("rendering"):
        latents = store.attempt(
            lambda: denoise(
                resolved, task, timeline, source_latents, guides, conditionings, store, report
            )
        )
    with clock.stage("decoding"):
        waveform = timeline.cut(store.attempt(lambda: decode(latents, store, report)))
    traded = store.plan.traded[known:]
    return Rendering(resolved, timeline, waveform, latents.cpu(), clock.seconds, traded)


def plan_song(song: PlannedRequest, preset: Preset, store: ModelStore, report: Reporter) -> Plan:
    """What the planner makes of a request."""
    with store.planner() as planner:
        return planner.plan(song, preset, report)


def place_source(
    source: Source, timeline: Timeline, store: ModelStore, report: Reporter
) -> Latents:
    """The source's latents in their place, with silence around them: (1, frame, channel)."""
    latents = encode_source(source, store, report)
    return context.placed(store.silence, latents, timeline.pre_roll_frames, timeline.frames)


def encode_source(source: Source, store: ModelStore, report: Reporter) -> Latents:
    """The latents that the source was made of, if they were kept; else it is encoded."""
    return _encode(source.waveform, store, report) if source.latents is None else source.latents


@torch.inference_mode()
def source_codes(source: Source, store: ModelStore, report: Reporter) -> Codes:
    """The source as the planner reads it: one row of five codes per second."""
    return Codec(store).encode(encode_source(source, store, report))


def build_conditionings(
    request: ResolvedRequest,
    guides: Sequence[Guide],
    timeline: Timeline,
    store: ModelStore,
    report: Reporter,
) -> list[Conditioning]:
    """What the DiT attends to under each guide."""
    reference = encode_reference(request.asked, store, report)
    return [
        Conditioning(
            store.attempt(partial(encode_condition, request, caption, reference, store, report)),
            guide.context,
        )
        for guide in guides
        for caption in [
            caption_prompt(request.asked, guide.instruction, timeline.seconds, request.caption)
        ]
    ]


def encode_reference(request: MusicRequest, store: ModelStore, report: Reporter) -> Latents:
    """Latents of the recording to take the timbre from; silence when there is none.

    Shape: (1, timbre_fix_frame, channel).
    """
    frames = store.config.timbre_fix_frame
    if request.reference_audio is None:
        return context.silence(store.silence, frames)
    report("reading", 0, 1)
    waveform = audio.read(request.reference_audio)
    if audio.is_silent(waveform):
        raise AudioError(f"The reference recording {request.reference_audio.name} is silent.")
    return _encode(reference_clips(waveform, frames), store, report)


def encode_condition(
    request: ResolvedRequest, caption: str, reference: Latents, store: ModelStore, report: Reporter
) -> States:
    """The packed lyric, timbre and text states that the DiT reads, for one take."""
    report("conditioning", 0, 2)
    with store.text_encoder() as text_encoder:
        text, text_mask = text_encoder.encode_caption(caption)
        lyrics, lyrics_mask = text_encoder.embed_lyrics(lyrics_prompt(request.asked))
    del text_encoder  # or its weights would be kept beside the conditioner's, where they take turns
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
    request: ResolvedRequest,
    task: Task[Any],
    timeline: Timeline,
    source_latents: Latents | None,
    guides: Sequence[Guide],
    conditionings: Sequence[Conditioning],
    store: ModelStore,
    report: Reporter,
) -> Latents:
    """Integrate from seeded noise to latents, in fp32 outside the network."""
    asked, channels = request.asked, store.silence.shape[-1]
    seeds = [take_seed(request.seed, take) for take in range(asked.takes)]
    first_noise = noise.draw_noise(seeds, timeline.frames, channels).to(store.device)
    times = schedule.timesteps(
        is_turbo=request.is_turbo, steps=request.steps, shift=request.shift, custom=asked.timesteps
    )
    start = task.start(request, source_latents, first_noise, times)
    steps = len(start.timesteps) - 1
    told = [conditionings[number] for number in per_step(guides, steps)]
    constraint = task.constraint(request, timeline, source_latents)

    def after_step(step: sampler.Step) -> Latents:
        corrected = wavelet.dcw(
            step, request.dcw, asked.dcw_scaler, asked.dcw_high_scaler, asked.dcw_wavelet
        )
        step = replace(step, latents=corrected)
        return (
            step.latents if constraint is None else constraint.after_step(step, first_noise, steps)
        )

    with store.denoiser() as denoiser:
        report("rendering", 0, steps)
        latents = sampler.SAMPLERS[asked.solver](
            guidance.guided(
                lambda latents, t, step: denoiser.velocity(latents, t, told[step]),
                lambda latents, t, step: denoiser.pair(latents, t, told[step]),
                rule=asked.guidance_rule,
                scale=request.guidance_scale,
                start=asked.guidance_start,
                end=asked.guidance_end,
            ),
            start.latents,
            start.timesteps,
            renoise=noise.renoise(seeds, timeline.frames, channels),
            after_step=after_step,
            on_step=lambda done, total: report("rendering", done, total),
        )
    return latents if constraint is None else constraint.after_run(latents)


def per_step(guides: Sequence[Guide], steps: int) -> list[int]:
    """For each step, the number of the guide that it goes by: the last that has taken over."""
    firsts = [int(steps * guide.start) for guide in guides]
    return [max(i for i, first in enumerate(firsts) if first <= step) for step in range(steps)]


def decode(latents: Latents, store: ModelStore, report: Reporter) -> Waveform:
    """The sound of every take, in main memory."""
    with store.vae() as vae:
        return vae.decode(
            latents,
            tile_frames=store.plan.tile_frames,
            on_progress=lambda done, total: report("decoding", done, total),
        ).cpu()


def _encode(waveform: Waveform, store: ModelStore, report: Reporter) -> Latents:
    """Latents of a recording, whose last frame is filled up with silence."""
    whole = torch.nn.functional.pad(waveform, (0, -waveform.shape[-1] % audio.SAMPLES_PER_FRAME))
    report("reading", 0, 1)

    def encode() -> Latents:
        with store.vae() as vae:
            return vae.encode(
                whole,
                tile_frames=store.plan.tile_frames,
                on_progress=lambda done, total: report("reading", done, total),
            )

    return store.attempt(encode)


class Clock:
    """Seconds by stage. A GPU works on after a call returns, so it is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[Stage, float] = {}
        self._device = device

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        began = time.perf_counter()
        yield
        synchronize(self._device)
        self.seconds[name] = time.perf_counter() - began
