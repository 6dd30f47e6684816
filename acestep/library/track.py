"""A finished song: what the user plays, keeps and saves."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from torch import Tensor

from acestep.errors import AudioError
from acestep.library import output_paths, recipe
from acestep.library.latents import kept
from acestep.library.report import EditReport
from acestep.media import audio
from acestep.media.audio_checks import Health
from acestep.media.files import write_files
from acestep.request import MusicRequest
from acestep.types import Latents


@dataclass(frozen=True)
class Track:
    """One take of a request, checked and brought to level.

    Attributes:
        waveform: (2, sample) float32 in [-1, 1], 48 kHz, on the CPU.
        request: the resolved request; it and `take` make this track again.
        seed: this take's own seed.
        seconds: time spent per stage.
        recipe: everything about the track but its sound, as JSON data.
        report: what an edit did to its source; None for a new song.
        latents: (1, frame, channel), what the song was decoded from; None when they do not begin
            with its first sample. Saved beside the song, so that an edit of it can start there.
    """

    waveform: Tensor
    request: MusicRequest
    take: int
    seed: int
    seconds: dict[str, float]
    health: Health
    warnings: list[str]
    recipe: dict[str, Any]
    sample_rate: int = audio.SAMPLE_RATE
    report: EditReport | None = None
    latents: Latents | None = None

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.waveform.shape[-1] / self.sample_rate

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the song with its recipe inside, and beside it recipe (`.json`) and latents.

        The suffix chooses the format; where several share one (wav), the request's wins.

        Raises:
            AudioError: a file of that name exists, or cannot be written. Nothing is left behind.
        """
        path = Path(path)
        for beside in map(path.with_suffix, output_paths.SIDECARS):
            if beside.exists() and not overwrite:
                raise AudioError(f"{beside.name} exists already and was not overwritten.")
        format = audio.format_of(path, self.request.format)
        song = audio.encode(self.waveform, format, recipe.pack(self.recipe))
        files = {path.with_suffix(output_paths.RECIPE): recipe.sidecar(self.recipe)}
        if self.latents is not None:
            vae = self.recipe["models"]["vae"]["fingerprint"]
            latents = kept(self.latents, audio.decode(song), vae)
            files |= {} if latents is None else {path.with_suffix(output_paths.LATENTS): latents}
        write_files({**files, path: song}, overwrite=overwrite)
        return path

    def save_in(self, folder: str | Path) -> Path:
        """Write to `folder/<date>/NNNN_<task>_<slug>.<format>`, a name that nothing has yet.

        Raises:
            AudioError: the folder cannot be made or written to.
        """
        task, caption = self.recipe["request"]["task"], self.request.caption
        return self.save(
            output_paths.next_path(folder, task, caption, self.request.format, date.today())
        )
