"""Cover: a song in another style, with its structure kept.

For a share of the steps the DiT follows its source, through the 5 Hz codes or as it is; in the
steps after that it sees silence and goes by the caption alone.
"""

from acestep.diffusion import context, schedule
from acestep.diffusion.noise import noised
from acestep.library.report import EditReport
from acestep.library.source import Source
from acestep.media import edit_metrics
from acestep.request import Cover
from acestep.request.resolved import ResolvedRequest
from acestep.runtime.codec import Codec
from acestep.tasks.base import Guide, Start, needed
from acestep.tasks.conditioning import FILL_MASK, FOLLOW_CODES
from acestep.tasks.postprocess import audible, master
from acestep.tasks.timeline import Timeline
from acestep.types import Latents, Stereo


class CoverTask:
    """See `acestep.tasks.base.Task`."""

    def timeline(self, request: ResolvedRequest[Cover], source: Source | None) -> Timeline:
        return Timeline.blank(needed(source).samples)

    def guides(
        self,
        request: ResolvedRequest[Cover],
        timeline: Timeline,
        source_latents: Latents | None,
        codec: Codec,
    ) -> list[Guide]:
        frames, takes = timeline.frames, request.asked.takes
        song = needed(source_latents)
        followed = codec.through_codes(song) if request.asked.quantize else song
        first = Guide(FOLLOW_CODES, context.to_be_made(codec.silence, frames, takes, followed))
        share = request.asked.audio_cover_strength
        if share == 1.0:
            return [first]
        alone = Guide(FILL_MASK, context.to_be_made(codec.silence, frames, takes), share)
        return [first, alone]

    def start(
        self,
        request: ResolvedRequest[Cover],
        source_latents: Latents | None,
        noise: Latents,
        timesteps: tuple[float, ...],
    ) -> Start:
        strength = request.asked.cover_noise_strength
        if strength == 0.0:
            return Start(timesteps, noise)
        times = schedule.from_level(timesteps, 1 - strength)
        return Start(times, noised(needed(source_latents).to(noise), noise, times[0]))

    def constraint(
        self, request: ResolvedRequest[Cover], timeline: Timeline, source_latents: Latents | None
    ) -> None:
        return None

    def finish(
        self,
        request: ResolvedRequest[Cover],
        decoded: Stereo,
        timeline: Timeline,
        source: Source | None,
    ) -> tuple[Stereo, EditReport]:
        song, before = master(request.asked, decoded), needed(source)
        old = before.waveform[0]
        change = edit_metrics.change_db(old, song)
        return song, EditReport(
            change_inside_db=change,
            chroma_similarity=edit_metrics.chroma_similarity(song, old),
            source=f"Compared with {before.description}.",
            notes=tuple(audible(change)),
        )
