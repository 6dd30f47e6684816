"""Text2music: everything is made, from words alone or along the codes of a plan."""

from acestep.diffusion import context
from acestep.library.source import Source
from acestep.media.audio import SAMPLE_RATE
from acestep.request.text2music import ResolvedText2Music
from acestep.runtime.codec import Codec
from acestep.tasks.base import Guide, Start
from acestep.tasks.conditioning import FILL_MASK, FOLLOW_CODES
from acestep.tasks.postprocess import master
from acestep.tasks.timeline import Timeline
from acestep.types import Latents, Stereo


class Text2MusicTask:
    """See `acestep.tasks.base.Task`."""

    def timeline(self, request: ResolvedText2Music, source: Source | None) -> Timeline:
        return Timeline.blank(round(request.duration * SAMPLE_RATE))

    def guides(
        self,
        request: ResolvedText2Music,
        timeline: Timeline,
        source_latents: Latents | None,
        codec: Codec,
    ) -> list[Guide]:
        frames, takes = timeline.frames, request.asked.takes
        if not request.codes:
            return [Guide(FILL_MASK, context.to_be_made(codec.silence, frames, takes))]
        planned = codec.decode(request.codes)
        return [Guide(FOLLOW_CODES, context.to_be_made(codec.silence, frames, takes, planned))]

    def start(
        self,
        request: ResolvedText2Music,
        source_latents: Latents | None,
        noise: Latents,
        timesteps: tuple[float, ...],
    ) -> Start:
        return Start(timesteps, noise)

    def constraint(
        self, request: ResolvedText2Music, timeline: Timeline, source_latents: Latents | None
    ) -> None:
        return None

    def finish(
        self,
        request: ResolvedText2Music,
        decoded: Stereo,
        timeline: Timeline,
        source: Source | None,
    ) -> tuple[Stereo, None]:
        return master(request.asked, decoded), None
