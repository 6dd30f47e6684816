"""What the nano models can do, measured in what they make: one table, and the same as JSON.

    uv run python -m scripts.nano.evaluation.evaluate --checkpoints work/nano --prompts 20

Every song is asked for in words, as a user would, from a score of a seed that no training has seen,
and made by `MusicService`; what was asked for is then measured in the sound. Songs are kept, so a
run that was cut off goes on, and other weights or presets start anew. The ceiling is what the same
metrics find in the rendered scores.
"""

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.checkpoints.locate import Checkpoints
from acestep.media import audio
from acestep.models.load import load_vae
from acestep.request import Cover, MusicRequest, Repaint
from scripts.nano.data import songs
from scripts.nano.data.genres import GENRES
from scripts.nano.data.instruments import RATE
from scripts.nano.data.score import Score
from scripts.nano.evaluation import metrics
from scripts.nano.evaluation.figures import Figure
from scripts.nano.evaluation.measurement import (
    Measurement,
    MeasurementCache,
    has_drums,
    has_exact_tempo,
    has_key,
    has_near_key,
    has_style,
    has_tempo,
    has_voice,
    is_near_key,
)
from scripts.nano.evaluation.requests import (
    coded_request,
    plain_request,
    thinking_request,
    unguided_request,
    with_metadata,
)
from scripts.nano.evaluation.studio import BASE, TURBO, Studio
from scripts.nano.paths import WORK

REGION = (6.0, 12.0)  # seconds that are repainted
AROUND = (2.0, 16.0)  # seconds in which the tempo must go on
COVERED = 8  # sources of covers
STRENGTHS = (1.0, 0.75, 0.5, 0.25, 0.0)
DECODED_FRAMES = 125  # frames; far smaller than the product's, so that a song has borders
GROUPS = ("vae", "think", "plain", "codes", "base", "guidance", "repaint", "cover", "speed")
SPEED_CAPTION = "upbeat techno, 126 bpm"


class Examination:
    """Asks for songs, group by group, and turns what is measured into figures."""

    def __init__(self, studio: Studio, prompts: int) -> None:
        self.studio, self.prompts = studio, prompts
        self.few = max(3, prompts // 4)  # of what takes long
        vae = Checkpoints(studio.checkpoints).resolve("acestep-nano-vae")
        self.cache = MeasurementCache(vae, studio.folder.parent / "measurements")
        self.scores = list(songs.scores(songs.EVALUATION, prompts, songs.SONG_SECONDS))

    @functools.cached_property
    def ceiling(self) -> list[Measurement]:
        return [self.cache.measure(self.studio.rendered(score)) for score in self.scores]

    def songs(
        self, name: str, count: int, model: str, ask: Callable[[Score], MusicRequest]
    ) -> list[Measurement]:
        """The measurements of the first `count` scores' songs."""
        found: list[Measurement] = []
        for index, score in enumerate(self.scores[:count]):
            song, _ = self.studio.make(f"{name}-{index:03d}", model, ask(score))
            found.append(self.cache.measure(song))
        return found

    def common(
        self, group: str, found: list[Measurement], tempo: float | None = 0.8
    ) -> list[Figure]:
        """Tempo, key, drums and style of songs that were asked for."""
        scores, ceiling = self.scores[: len(found)], self.ceiling[: len(found)]
        rules: list[tuple[str, float | None, Callable[[Score, Measurement], bool]]] = [
            ("tempo within 2 % or its octave", tempo, has_tempo),
            ("tempo within 2 %", None, has_exact_tempo),
            ("key right, relative or a fifth away", 0.8, has_near_key),
            ("key right", None, has_key),
            ("drums as asked", 0.95, has_drums),
            ("style told by the feature probe", 0.8, has_style),
            ("voice as asked", 0.95, has_voice),
        ]
        figures = [
            Figure(
                group,
                name,
                share(rule(score, measured) for score, measured in zip(scores, found, strict=True)),
                None if bound is None else (">=", bound),
                share(
                    rule(score, measured) for score, measured in zip(scores, ceiling, strict=True)
                ),
                len(found),
            )
            for name, bound, rule in rules
        ]
        sung = [i for i, score in enumerate(scores) if score.syllables]
        if len(sung) > 2:
            wanted = [len(scores[i].syllables) for i in sung]
            figures.append(
                Figure(
                    group,
                    "syllables found against syllables written",
                    correlation(wanted, [found[i].features.syllables for i in sung]),
                    (">=", 0.7),
                    correlation(wanted, [ceiling[i].features.syllables for i in sung]),
                    len(sung),
                )
            )
        width = mean(measured.width for measured in found)
        ceiling_width = mean(measured.width for measured in ceiling)
        return [*figures, Figure(group, "stereo width", width, None, ceiling_width, len(found))]

    def think(self) -> list[Figure]:
        return self.common("think", self.songs("think", self.prompts, TURBO, thinking_request))

    def plain(self) -> list[Figure]:
        return self.common("plain", self.songs("plain", self.prompts, TURBO, plain_request), None)

    def codes(self) -> list[Figure]:
        """What a perfect planner would get: the DiT with the codes of the scores themselves."""
        return self.common("codes", self.songs("codes", self.few, TURBO, coded_request))

    def base(self) -> list[Figure]:
        return self.common("base", self.songs("base", self.prompts, BASE, thinking_request))

    def guidance(self) -> list[Figure]:
        """Without a planner, a song knows its caption through the DiT's conditioning alone."""
        shares: list[float] = []
        for name, ask in (("unguided", unguided_request), ("guided", plain_request)):
            found = self.songs(name, self.prompts, BASE, ask)
            pairs = list(zip(self.scores, found, strict=False))
            rules = (has_near_key, has_drums, has_style, has_voice)
            shares.append(mean(share(rule(s, f) for s, f in pairs) for rule in rules))
        count, bound = self.prompts, (">=", shares[0])
        return [
            Figure("guidance", "caption followed at guidance 1", shares[0], None, None, count),
            Figure(
                "guidance", "caption followed as the preset says", shares[1], bound, None, count
            ),
        ]

    def vae(self) -> list[Figure]:
        """Songs to latents and back, in one piece and in tiles."""
        vae = load_vae(Checkpoints(self.studio.checkpoints).resolve("acestep-nano-vae", "vae"))
        distances: list[float] = []
        clicks: list[float] = []
        errors: list[float] = []
        ceilings: list[float] = []
        for score in self.scores[: self.few]:
            song = self.studio.rendered(score)
            latents = vae.encode(song[None])
            whole = vae.decode(latents)[0]
            tiled = vae.decode(latents, tile_frames=DECODED_FRAMES)[0]
            tiles = latents.shape[1] // DECODED_FRAMES
            borders = [k * DECODED_FRAMES * vae.hop for k in range(1, tiles)]
            distances.append(metrics.mel_distance(tiled, song))
            clicks.append(metrics.click(tiled, borders))
            ceilings.append(metrics.click(song, borders))
            errors.append(((tiled - whole).abs().max() / whole.abs().max()).item())
        count, bend = len(clicks), max(ceilings)
        return [
            Figure("vae", "log-mel distance, dB", mean(distances), ("<=", 3.5), 0.0, count),
            Figure("vae", "sharpest bend at a tile's border", max(clicks), None, bend, count),
            Figure("vae", "tiles against one piece", max(errors), ("<=", 1e-3), 0.0, count),
        ]

    def repaint(self) -> list[Figure]:
        """The middle of a rendered song made anew, and what the join sounds like."""
        reports: list[dict[str, Any]] = []
        tempi: list[tuple[bool, bool]] = []
        keys: list[tuple[bool, bool]] = []
        for index, score in enumerate(self.scores[: self.few]):
            request = Repaint(
                source_audio=self.studio.source(score),
                repainting_start=REGION[0],
                repainting_end=REGION[1],
                caption=score.caption,
                lyrics=score.lyrics,
                seed=score.seed,
            )
            name = f"repaint-{index:03d}"
            song, recipe = self.studio.make(name, TURBO, with_metadata(request, score))
            reports.append(recipe["report"])
            source = self.studio.rendered(score)
            near = [is_near_key(metrics.key(cut(x, REGION)), score) for x in (song, source)]
            found = [metrics.tempo(cut(x, AROUND)) for x in (song, source)]
            same = [metrics.is_tempo(bpm, score.bpm) for bpm in found]
            keys.append((near[0], near[1]))
            tempi.append((same[0], same[1]))
        count = len(reports)
        outside = max(report["samples_changed_outside"] for report in reports)
        change = mean(report["change_inside_db"] for report in reports)
        seams = [seam for report in reports for seam in report["seams"]]
        tempo, real_tempo = (share(claims) for claims in zip(*tempi, strict=True))
        key, real_key = (share(claims) for claims in zip(*keys, strict=True))
        bound = (">=", 0.8)
        return [
            Figure("repaint", "samples changed outside", outside, ("<=", 0), 0.0, count),
            Figure("repaint", "change inside, dB", change, (">=", 1.0), None, count),
            Figure("repaint", "smoothness of the seams", mean(seams), None, 1.0, len(seams)),
            Figure("repaint", "tempo goes on over the region", tempo, bound, real_tempo, count),
            Figure("repaint", "key of the region is the song's", key, bound, real_key, count),
        ]

    def cover(self) -> list[Figure]:
        """Rendered songs in another style, from all of their structure to none of it."""
        styles = list(GENRES)
        covers: dict[float, list[Tensor]] = {strength: [] for strength in STRENGTHS}
        scores = self.scores[:COVERED]
        sources = [self.studio.rendered(score) for score in scores]
        for index, score in enumerate(scores):
            style = styles[(styles.index(score.genre) + 3) % len(styles)]
            for strength in STRENGTHS:
                request = Cover(
                    source_audio=self.studio.source(score),
                    audio_cover_strength=strength,
                    caption=", ".join((GENRES[style].names[0], GENRES[style].moods[0])),
                    lyrics=score.lyrics,
                    seed=score.seed,
                )
                song, _ = self.studio.make(f"cover-{strength:g}-{index:03d}", TURBO, request)
                covers[strength].append(song)

        def likeness(of: Callable[[Tensor, Tensor], float], strength: float) -> float:
            return mean(of(*pair) for pair in zip(covers[strength], sources, strict=True))

        others = [*sources[1:], sources[0]]
        floor = mean(map(metrics.chroma_similarity, others, sources))
        chroma = {s: likeness(metrics.chroma_similarity, s) for s in STRENGTHS}
        levels = [mean(map(level_db, songs)) for songs in covers.values()]
        falls = [chroma[a] - chroma[b] for a, b in pairwise(STRENGTHS)]
        bounds = {1.0: (">=", 0.8), 0.0: ("<=", 0.8)}
        count = len(sources)
        return [
            *(
                Figure("cover", f"chroma like the source at strength {strength:g}", value,
                       bounds.get(strength), 1.0, count)
                for strength, value in chroma.items()
            ),
            Figure("cover", "chroma of two unrelated songs", floor, None, None, count),
            Figure("cover", "least fall of chroma from a strength to the next", min(falls),
                   (">=", 0.0), None, count),
            Figure("cover", "levels of the strengths apart, dB", max(levels) - min(levels),
                   ("<=", 3.0), 0.0, count),
            Figure("cover", "onsets like the source at strength 1",
                   likeness(metrics.onset_similarity, 1.0), None, 1.0, count),
            Figure("cover", "onsets like the source at strength 0",
                   likeness(metrics.onset_similarity, 0.0), None, 1.0, count),
            Figure("cover", "change of timbre at strength 1, dB of mel bands",
                   likeness(metrics.mel_distance, 1.0), None, 0.0, count),
        ]  # fmt: skip

    def speed(self) -> list[Figure]:
        """A song from the command line, in a process of its own: start-up is counted."""
        path = self.studio.folder / "speed.flac"
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        path.with_suffix(".safetensors").unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "acestep", "generate", "--caption", SPEED_CAPTION,
            "--duration", f"{songs.SONG_SECONDS:g}", "--models-dir", str(self.studio.checkpoints),
            "--out", str(path),
        ]  # fmt: skip
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"acestep generate ended with {os.waitstatus_to_exitcode(status)}")
        seconds, song = time.monotonic() - began, audio.read(path)[0]
        found = metrics.tempo(song)
        return [
            Figure("speed", "seconds for a song of 20 s with Think", seconds, ("<=", 30)),
            Figure("speed", "processor seconds", usage.ru_utime + usage.ru_stime),
            Figure("speed", "peak memory, GB", usage.ru_maxrss * 1024 / 1e9, ("<=", 2.5)),
            Figure("speed", f"tempo of '{SPEED_CAPTION}'", found, None, 126.0),
        ]


def level_db(song: Tensor) -> float:
    return 20 * song.square().mean().sqrt().log10().item()


def cut(song: Tensor, span: tuple[float, float]) -> Tensor:
    return song[:, round(span[0] * RATE) : round(span[1] * RATE)]


def share(claims: Iterable[bool]) -> float:
    return mean(float(claim) for claim in claims)


def mean(values: Iterable[float]) -> float:
    kept = list(values)
    return sum(kept) / len(kept)


def correlation(wanted: Sequence[float], found: Sequence[float]) -> float:
    return torch.corrcoef(torch.tensor([wanted, found], dtype=torch.float32))[0, 1].item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the nano models.")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    studio = Studio(arguments.checkpoints, WORK / "evaluation")
    examination = Examination(studio, arguments.prompts)
    print(f"{'':9} {'':48} {'bound':>8} {'figure':>8} {'met':>4} {'ceiling':>8} {'songs':>6}")
    figures: list[Figure] = []
    for group in arguments.only:
        found: list[Figure] = getattr(examination, group)()
        figures += found
        print(*(figure.row() for figure in found), sep="\n", flush=True)
    if arguments.json is not None:
        table = {
            "prompts": arguments.prompts,
            "figures": [dataclasses.asdict(f) | {"is_met": f.is_met} for f in figures],
        }
        arguments.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
