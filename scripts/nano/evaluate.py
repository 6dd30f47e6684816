"""What the nano models can do, measured in what they make: one table, and the same as JSON.

    uv run python -m scripts.nano.evaluate --checkpoints work/nano --prompts 20

Every song is asked for in words, as a user would, from a score of a seed that no training has seen,
and made by `MusicService`; what was asked for is then looked for in the sound. Songs are kept, so a
run that was cut off goes on, and other weights start anew. The ceiling is what the same ears find
in the rendered scores.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep import MusicService
from acestep.checkpoints.folder import fingerprint
from acestep.checkpoints.locate import Checkpoints
from acestep.media import audio
from acestep.models.load import load_vae
from acestep.request import Cover, MusicRequest, Plan, Repaint
from scripts.nano import codes as nano_codes
from scripts.nano import listener as listeners
from scripts.nano import metrics, songs
from scripts.nano.genres import GENRES
from scripts.nano.instruments import RATE, Bank
from scripts.nano.judge_planner import asked
from scripts.nano.latents import WORK
from scripts.nano.listener import Heard, Listener
from scripts.nano.metrics import Key
from scripts.nano.render import render
from scripts.nano.score import Score

SECONDS = 20.0
TURBO, BASE = "acestep-v15-nano-turbo", "acestep-v15-nano-base"
PARTS = (TURBO, BASE, "acestep-5Hz-lm-nano", "acestep-nano-vae", "acestep-nano-text-encoder")
REGION = (6.0, 12.0)  # seconds that are repainted
AROUND = (2.0, 16.0)  # seconds in which the tempo must go on
COVERED = 8  # sources of covers
STRENGTHS = (1.0, 0.75, 0.5, 0.25, 0.0)
TILE = 125  # frames; far smaller than the product's, so that a song has borders
GROUPS = ("vae", "think", "plain", "codes", "base", "guidance", "repaint", "cover", "speed")
SPEED_CAPTION = "upbeat techno, 126 bpm"


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        bound: what issue and card promise, as (">=" or "<=", number); None is only reported.
        ceiling: the same figure of rendered scores.
        count: songs it was measured on.
    """

    group: str
    name: str
    value: float
    bound: tuple[str, float] | None = None
    ceiling: float | None = None
    count: int = 1

    @property
    def is_met(self) -> bool | None:
        if self.bound is None:
            return None
        sign, number = self.bound
        return self.value >= number if sign == ">=" else self.value <= number

    def row(self) -> str:
        bound = "" if self.bound is None else f"{self.bound[0]} {self.bound[1]:g}"
        ceiling = "" if self.ceiling is None else f"{self.ceiling:.2f}"
        met = {None: "", True: "yes", False: "NO"}[self.is_met]
        return (
            f"{self.group:9} {self.name:48} {bound:>8} {self.value:>8.2f} {met:>4} "
            f"{ceiling:>8} {self.count:>6}"
        )


@dataclass(frozen=True)
class Facts:
    """What is heard in one song."""

    tempo: float
    key: Key
    heard: Heard
    width: float

    @classmethod
    def of(cls, song: Tensor, listener: Listener) -> "Facts":
        return cls(metrics.tempo(song), metrics.key(song), listener.hear(song), metrics.width(song))

    @classmethod
    def read(cls, path: Path) -> "Facts":
        tempo, key, heard, width = json.loads(path.read_text(encoding="utf-8"))
        return cls(tempo, Key(*key), Heard(*heard), width)

    def write(self, path: Path) -> None:
        values = (self.tempo, self.key, self.heard, self.width)
        path.write_text(json.dumps(values), encoding="utf-8")


class Studio:
    """Makes every song once. Songs are files named after their kind and number."""

    def __init__(self, checkpoints: Path, folder: Path) -> None:
        places = Checkpoints(checkpoints)
        marks = "".join(fingerprint(places.resolve(part)) for part in PARTS)
        self.checkpoints = checkpoints
        self.folder = folder / hashlib.sha256(marks.encode()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._bank = Bank()
        self._services: dict[str, MusicService] = {}

    def service(self, model: str) -> MusicService:
        if model not in self._services:
            self._services[model] = MusicService.load(
                model, device="cpu", checkpoints=self.checkpoints
            )
        return self._services[model]

    def make(self, name: str, model: str, request: MusicRequest) -> tuple[Tensor, dict[str, Any]]:
        """The song of a request and its recipe; made when it is not there."""
        path, done = self.folder / f"{name}.flac", self.folder / f"{name}.done"
        wish = request.model_dump_json()
        if not done.exists() or done.read_text(encoding="utf-8") != wish:
            began = time.monotonic()
            self.service(model).run(request)[0].save(path, overwrite=True)
            done.write_text(wish, encoding="utf-8")
            print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        recipe = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return audio.read(path)[0], recipe

    def rendered(self, score: Score) -> Tensor:
        return torch.from_numpy(render(score, self._bank))

    def source(self, score: Score) -> Path:
        """The rendered score as a file, for edits."""
        path = self.folder / f"source-{score.seed}.flac"
        if not path.exists():
            audio.write(path, self.rendered(score), "flac")
        return path


class Ears:
    """All metrics of a song, kept in a file that is named after its samples and the metrics."""

    def __init__(self, vae: Path, folder: Path) -> None:
        self.listener = Listener.load(vae)
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        sources = (Path(metrics.__file__), Path(listeners.__file__), listeners.WEIGHTS)
        self.marks = b"".join(path.read_bytes() for path in sources) + fingerprint(vae).encode()

    def facts(self, song: Tensor) -> Facts:
        name = hashlib.sha256(song.numpy().tobytes() + self.marks).hexdigest()[:16]
        path = self.folder / f"{name}.json"
        if not path.exists():
            Facts.of(song, self.listener).write(path)
        return Facts.read(path)


class Examination:
    """Asks for songs, group by group, and turns what is heard into figures."""

    def __init__(self, studio: Studio, prompts: int) -> None:
        self.studio, self.prompts = studio, prompts
        self.few = max(3, prompts // 4)  # of what takes long
        vae = Checkpoints(studio.checkpoints).resolve("acestep-nano-vae")
        self.ears = Ears(vae, studio.folder.parent / "facts")
        self.scores = list(songs.scores(songs.EVALUATION, prompts, SECONDS))

    @functools.cached_property
    def ceiling(self) -> list[Facts]:
        return [self.ears.facts(self.studio.rendered(score)) for score in self.scores]

    def songs(
        self, name: str, count: int, model: str, ask: Callable[[Score], MusicRequest]
    ) -> list[Facts]:
        """The facts of the first `count` scores' songs."""
        found: list[Facts] = []
        for index, score in enumerate(self.scores[:count]):
            song, _ = self.studio.make(f"{name}-{index:03d}", model, ask(score))
            found.append(self.ears.facts(song))
        return found

    def common(self, group: str, found: list[Facts], tempo: float | None = 0.8) -> list[Figure]:
        """Tempo, key, drums and style of songs that were asked for."""
        scores, ceiling = self.scores[: len(found)], self.ceiling[: len(found)]
        rules: list[tuple[str, float | None, Callable[[Score, Facts], bool]]] = [
            ("tempo within 2 % or its octave", tempo, has_tempo),
            ("tempo within 2 %", None, has_exact_tempo),
            ("key right, relative or a fifth away", 0.8, has_near_key),
            ("key right", None, has_key),
            ("drums as asked", 0.95, has_drums),
            ("style told by the listener", 0.8, has_style),
            ("voice as asked", 0.95, has_voice),
        ]
        figures = [
            Figure(
                group,
                name,
                share(rule(score, facts) for score, facts in zip(scores, found, strict=True)),
                None if bound is None else (">=", bound),
                share(rule(score, facts) for score, facts in zip(scores, ceiling, strict=True)),
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
                    "syllables heard against syllables written",
                    correlation(wanted, [found[i].heard.syllables for i in sung]),
                    (">=", 0.7),
                    correlation(wanted, [ceiling[i].heard.syllables for i in sung]),
                    len(sung),
                )
            )
        width = mean(facts.width for facts in found)
        ceiling_width = mean(facts.width for facts in ceiling)
        return [*figures, Figure(group, "stereo width", width, None, ceiling_width, len(found))]

    def think(self) -> list[Figure]:
        return self.common("think", self.songs("think", self.prompts, TURBO, thinking))

    def plain(self) -> list[Figure]:
        return self.common("plain", self.songs("plain", self.prompts, TURBO, unplanned), None)

    def codes(self) -> list[Figure]:
        """What a perfect planner would get: the DiT with the codes of the scores themselves."""
        return self.common("codes", self.songs("codes", self.few, TURBO, planned))

    def base(self) -> list[Figure]:
        return self.common("base", self.songs("base", self.prompts, BASE, thinking))

    def guidance(self) -> list[Figure]:
        """Without a planner, all that a song knows of its caption comes through the DiT's ear."""
        shares: list[float] = []
        for name, ask in (("unguided", unguided), ("guided", unplanned)):
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
            whole, tiled = vae.decode(latents)[0], vae.decode(latents, tile_frames=TILE)[0]
            borders = [k * TILE * vae.hop for k in range(1, latents.shape[1] // TILE)]
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
            near = [is_near(metrics.key(cut(x, REGION)), score) for x in (song, source)]
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
            "--duration", f"{SECONDS:g}", "--models-dir", str(self.studio.checkpoints),
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


def thinking(score: Score) -> MusicRequest:
    """A caption is all that a planner needs."""
    return asked(score).model_copy(update={"think": True})


def unplanned(score: Score) -> MusicRequest:
    """Without a planner nobody fills in what the DiT is told of tempo and key, so the user does."""
    return with_metadata(asked(score).model_copy(update={"think": False}), score)


def unguided(score: Score) -> MusicRequest:
    return unplanned(score).model_copy(update={"guidance_scale": 1.0})


def planned(score: Score) -> MusicRequest:
    plan = Plan(codes=(tuple(nano_codes.codes(score)),))
    return with_metadata(asked(score).model_copy(update={"plan": plan}), score)


def with_metadata(request: MusicRequest, score: Score) -> MusicRequest:
    """The facts as settings too."""
    return request.model_copy(
        update={
            "bpm": score.bpm,
            "key_scale": score.key_scale,
            "time_signature": score.time_signature,
            "vocal_language": score.language,
        }
    )


def has_tempo(score: Score, facts: Facts) -> bool:
    return metrics.is_tempo(facts.tempo, score.bpm)


def has_exact_tempo(score: Score, facts: Facts) -> bool:
    return metrics.is_tempo(facts.tempo, score.bpm, (1.0,))


def has_near_key(score: Score, facts: Facts) -> bool:
    return is_near(facts.key, score)


def has_key(score: Score, facts: Facts) -> bool:
    return facts.key == Key(score.key, score.minor)


def has_drums(score: Score, facts: Facts) -> bool:
    return facts.heard.has_drums == (score.kit is not None)


def has_style(score: Score, facts: Facts) -> bool:
    return facts.heard.style == score.genre


def has_voice(score: Score, facts: Facts) -> bool:
    return facts.heard.has_voice == bool(score.syllables)


def is_near(key: Key, score: Score) -> bool:
    return metrics.relation(key, Key(score.key, score.minor)) != "other"


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
