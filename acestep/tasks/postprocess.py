"""From decoded sound to a finished song: level, splice and report, one function per task."""

import torch

from acestep.library.report import EditReport
from acestep.library.source import Source
from acestep.media import audio, edit_metrics
from acestep.request import Cover, MusicRequest, Repaint
from acestep.tasks.timeline import Canvas, joined
from acestep.types import Stereo, Waveform


def finish(
    request: MusicRequest, decoded: Stereo, canvas: Canvas, source: Source | None
) -> tuple[Stereo, EditReport | None]:
    """The finished song and, where it was made from another, what became of that one."""
    if source is None:
        return _master(request, decoded), None
    if isinstance(request, Repaint):
        song = repainted(request, decoded, canvas, source.waveform)
        return song, _repaint_report(request, song, canvas, source)
    assert isinstance(request, Cover)
    song = _master(request, decoded)
    return song, _cover_report(song, source)


def repainted(request: Repaint, decoded: Stereo, canvas: Canvas, source: Waveform) -> Stereo:
    """The source with the new sound in its regions, at the source's level.

    The decoder's idea of the kept parts shows how loud its new ones are: both get the same gain.
    Only new sound is ever scaled, and once more if it would clip.
    """
    kept = canvas.kept
    if not kept.any():
        return _master(request, decoded)
    gain = _gain(decoded[:, kept], canvas.lay(source)[:, kept]) if request.normalize else 1.0
    new = decoded * gain
    peak = canvas.new_sound(new).abs().max().clamp(min=1.0)
    return canvas.splice(source, new / peak, request.crossfade)


def _gain(decoded: Stereo, source: Stereo) -> float:
    """What brings the one to the loudness of the other; 1 where either is silent."""
    if audio.is_silent(decoded[None]) or audio.is_silent(source[None]):
        return 1.0
    rms = [torch.linalg.vector_norm(x, dtype=torch.float64).item() for x in (source, decoded)]
    return rms[0] / rms[1]


def _master(request: MusicRequest, decoded: Stereo) -> Stereo:
    return audio.master(
        decoded,
        peak_db=request.peak_db if request.normalize else None,
        fade_in=request.fade_in,
        fade_out=request.fade_out,
    )


def _repaint_report(request: Repaint, song: Stereo, canvas: Canvas, source: Source) -> EditReport:
    old, kept, replaced = canvas.lay(source.waveform), canvas.kept, canvas.replaced
    change = None
    if replaced:
        change = edit_metrics.change_db(*(joined(x, replaced) for x in (old, song)))
    notes = _audible(change)
    if kept.any() and (loss := audio.loss(song[:, kept], request.format)):
        exact = "flac or wav32" if loss == "only nearly the same" else "wav32"
        notes += [f"Saved as {request.format}, the rest is {loss}: {exact} keeps it."]
    return EditReport(
        samples_changed_outside=edit_metrics.changed_samples(song, old, kept),
        change_inside_db=change,
        seams=tuple(
            edit_metrics.seam_score(song, border, zone)
            for border, zone in canvas.blends(request.crossfade)
        ),
        source=f"The rest is {source.description}."
        if kept.any()
        else f"Compared with {source.description}.",
        notes=tuple(notes),
    )


def _cover_report(song: Stereo, source: Source) -> EditReport:
    old = source.waveform[0]
    change = edit_metrics.change_db(old, song)
    return EditReport(
        change_inside_db=change,
        chroma_similarity=edit_metrics.chroma_similarity(song, old),
        source=f"Compared with {source.description}.",
        notes=tuple(_audible(change)),
    )


def _audible(change: float | None) -> list[str]:
    is_inaudible = change is not None and change < edit_metrics.AUDIBLE_DB
    return ["Nothing audible changed."] if is_inaudible else []
