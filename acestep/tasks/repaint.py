"""Repaint: regions of a song are made anew or added; the rest stays bit-identical."""

from acestep.diffusion import context
from acestep.diffusion.inpaint import InpaintConstraint
from acestep.library.report import EditReport
from acestep.library.source import Source
from acestep.media import audio, edit_metrics
from acestep.request import Repaint
from acestep.request.resolved import ResolvedRequest
from acestep.runtime.codec import Codec
from acestep.tasks.base import Guide, Start, needed
from acestep.tasks.conditioning import REPAINT
from acestep.tasks.postprocess import audible
from acestep.tasks.timeline import Timeline, joined
from acestep.types import Latents, Stereo, Waveform


class RepaintTask:
    """See `acestep.tasks.base.Task`."""

    def timeline(self, request: ResolvedRequest[Repaint], source: Source | None) -> Timeline:
        song = needed(source)
        return Timeline.around(song.samples, request.asked.regions_of(song.seconds))

    def guides(
        self,
        request: ResolvedRequest[Repaint],
        timeline: Timeline,
        source_latents: Latents | None,
        codec: Codec,
    ) -> list[Guide]:
        song, mask, takes = needed(source_latents), timeline.inpaint_mask, request.asked.takes
        return [Guide(REPAINT, context.inpainted(codec.silence, song, mask, takes))]

    def start(
        self,
        request: ResolvedRequest[Repaint],
        source_latents: Latents | None,
        noise: Latents,
        timesteps: tuple[float, ...],
    ) -> Start:
        return Start(timesteps, noise)

    def constraint(
        self, request: ResolvedRequest[Repaint], timeline: Timeline, source_latents: Latents | None
    ) -> InpaintConstraint:
        asked = request.asked
        song = needed(source_latents)
        return InpaintConstraint.of(
            asked.mode, asked.strength, timeline.inpaint_mask, song, is_turbo=request.is_turbo
        )

    def finish(
        self,
        request: ResolvedRequest[Repaint],
        decoded: Stereo,
        timeline: Timeline,
        source: Source | None,
    ) -> tuple[Stereo, EditReport]:
        before = needed(source)
        song = repainted(request.asked, decoded, timeline, before.waveform)
        return song, report(request.asked, song, timeline, before)


def repainted(request: Repaint, decoded: Stereo, timeline: Timeline, source: Waveform) -> Stereo:
    """The source with the new sound in its regions, at the source's level.

    The decoder's idea of the preserved parts shows how loud its new ones are: both get the same
    gain. Only new sound is ever scaled, and once more if it would clip.
    """
    preserved = timeline.preserved
    if not preserved.any():
        return audio.master(decoded, peak_db=request.peak_db if request.normalize else None)
    lain = timeline.lay(source)
    gain = _gain(decoded[:, preserved], lain[:, preserved]) if request.normalize else 1.0
    new = decoded * gain
    peak = timeline.new_sound(new).abs().max().clamp(min=1.0)
    return timeline.splice(source, new / peak, request.crossfade)


def report(request: Repaint, song: Stereo, timeline: Timeline, source: Source) -> EditReport:
    """What the repaint did to its source."""
    old, preserved, replaced = timeline.lay(source.waveform), timeline.preserved, timeline.replaced
    change = None
    if replaced:
        change = edit_metrics.change_db(*(joined(x, replaced) for x in (old, song)))
    notes = audible(change)
    if preserved.any() and (loss := audio.loss(song[:, preserved], request.format)):
        exact = "flac or wav32" if loss == "only nearly the same" else "wav32"
        notes += [f"Saved as {request.format}, the rest is {loss}: {exact} keeps it."]
    return EditReport(
        samples_changed_outside=edit_metrics.changed_samples(song, old, preserved),
        change_inside_db=change,
        seams=tuple(
            edit_metrics.seam_score(song, border, zone)
            for border, zone in timeline.blends(request.crossfade)
        ),
        source=f"The rest is {source.description}."
        if preserved.any()
        else f"Compared with {source.description}.",
        notes=tuple(notes),
    )


def _gain(decoded: Stereo, source: Stereo) -> float:
    """What brings the one to the loudness of the other; 1 where either is silent."""
    if audio.is_silent(decoded[None]) or audio.is_silent(source[None]):
        return 1.0
    rms = audio.rms(source), audio.rms(decoded)
    return rms[0] / rms[1]
