"""What an edit did to a song, in numbers and in sentences (measured in `media.edit_metrics`)."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class EditReport:
    """What a repaint or a cover did to its source.

    Attributes:
        samples_changed_outside: stereo samples outside the regions that are not the source's,
            counted one by one; 0 is the promise. A cover keeps no samples, so it has 0 too.
        change_inside_db: how far the new sound lies from the old one, as the mean difference of
            their levels over bands and time; None where nothing was replaced.
        seams: one score per border between source and new sound, in the song's order: 1 is no
            seam, 0 a border that jumps far more than the music around it.
        chroma_similarity: of a cover, how closely its pitch classes follow the source's: 1 is the
            same harmony, 0 an unrelated one; None for repaints and where there is no sound.
        source: one sentence about what the song was compared with.
        notes: what the user should know, one sentence each.
    """

    samples_changed_outside: int = 0
    change_inside_db: float | None = None
    seams: tuple[float, ...] = ()
    chroma_similarity: float | None = None
    source: str = ""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {**asdict(self), "seams": list(self.seams), "notes": list(self.notes)}

    def sentences(self) -> list[str]:
        """The report in words, what matters most first."""
        said = list(self.notes)
        if self.chroma_similarity is not None:
            said.append(
                f"Harmony: {self.chroma_similarity:.2f} like the source "
                "(1 is the same, 0 unrelated)."
            )
        elif self.seams:  # without a border there is no outside
            samples = "sample" if self.samples_changed_outside == 1 else "samples"
            said.append(f"Outside the region {self.samples_changed_outside:,} {samples} changed.")
        if self.change_inside_db is not None:
            where = "Inside it" if self.chroma_similarity is None else "Throughout"
            said.append(f"{where} the sound changed by {self.change_inside_db:.1f} dB on average.")
        if self.seams:
            scores = ", ".join(f"{seam:.2f}" for seam in self.seams)
            said.append(f"Seams: {scores} (1 is none).")
        return [*said, self.source] if self.source else said
