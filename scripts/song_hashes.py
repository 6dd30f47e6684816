"""Are the samples still the same? The SHA-256 of thirty songs, recorded before a change of
structure and compared after it.

    uv run python -m scripts.song_hashes record before.json
    uv run python -m scripts.song_hashes compare before.json

The songs cover tasks, Think, both nano models, solvers, takes, repaint modes and foreign sources.
Hashes hold for one machine and one set of package versions, so no file of them is in git.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from acestep import Cover, MusicService, Repaint, Text2Music

TASKS = {"text2music": Text2Music, "repaint": Repaint, "cover": Cover}
TURBO, BASE = "acestep-v15-nano-turbo", "acestep-v15-nano-base"
LYRICS = "[Verse]\nStreetlights bloom along the bay\nEvery window holds a song"
SHORT: dict[str, Any] = {"duration": 10, "seed": 7, "think": False}
OWN = "own.flac"  # the first song, saved with its latents: what edits of our own songs start from


def songs() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Name, model, task and fields of every song."""
    words = {"caption": "warm lo-fi beat, dusty drums", "bpm": 80, "key_scale": "A minor"}
    sung = {"caption": "synth-pop, female vocal", "lyrics": LYRICS, "vocal_language": "en"}
    for model, fast in ((TURBO, {}), (BASE, {"steps": 6})):
        kind = model.rpartition("-")[2]
        yield f"{kind} plain", model, "text2music", {**words, **SHORT, **fast}
        yield f"{kind} takes", model, "text2music", {**sung, **SHORT, **fast, "takes": 2}
        yield f"{kind} heun", model, "text2music", {**words, **SHORT, "steps": 4, "solver": "heun"}
        yield f"{kind} sde", model, "text2music", {**words, **SHORT, "steps": 4, "solver": "sde"}
        yield f"{kind} think", model, "text2music", {**words, "duration": 10, "seed": 7, **fast}
        yield (
            f"{kind} think takes", model, "text2music",
            {"caption": "upbeat techno, 126 bpm", "duration": 10, "seed": 3, "takes": 2, **fast},
        )  # fmt: skip
    yield "think sung", TURBO, "text2music", {**sung, "duration": 12.5, "seed": 5}
    greedy = {"lm_temperature": 0, "lm_cfg_scale": 1}
    yield "think greedy", TURBO, "text2music", {
        "caption": "folk waltz", "seed": 5, "duration": 10, **greedy,
    }  # fmt: skip
    yield (
        "think negative", TURBO, "text2music",
        {**words, "duration": 10, "seed": 9, "lm_negative_prompt": "drums", "lm_top_k": 50},
    )  # fmt: skip
    yield "timesteps", TURBO, "text2music", {**words, **SHORT, "timesteps": [1, 0.75, 0.5, 0.25]}
    yield "dcw", TURBO, "text2music", {**words, **SHORT, "dcw": "double"}
    yield "reference", TURBO, "text2music", {**words, **SHORT, "reference_audio": "stereo.wav"}
    yield (
        "adg interval", BASE, "text2music",
        {**words, **SHORT, "steps": 6, "guidance_rule": "adg", "guidance_start": 0.2},
    )  # fmt: skip
    edit = {"caption": "flute solo", "seed": 3}
    for mode in ("balanced", "conservative", "aggressive"):
        region = {"source_audio": OWN, "repainting_start": 3, "repainting_end": 6, "mode": mode}
        yield f"repaint {mode}", TURBO, "repaint", {**edit, **region}
    yield (
        "repaint base", BASE, "repaint",
        {**edit, "source_audio": OWN, "regions": [[1, 2], [5, 7.5]], "steps": 6},
    )  # fmt: skip
    yield "repaint foreign", TURBO, "repaint", {
        **edit, "source_audio": "mono.wav", "repainting_start": 2.02, "repainting_end": 5,
    }  # fmt: skip
    yield "extend", TURBO, "repaint", {
        **edit, "source_audio": "stereo.wav", "repainting_start": -2.5, "repainting_end": 1,
    }  # fmt: skip
    cover = {"caption": "jazz trio", "seed": 3}
    for strength in (1.0, 0.5, 0.0):
        fields = {"source_audio": OWN, "audio_cover_strength": strength}
        yield f"cover {strength:g}", TURBO, "cover", {**cover, **fields}
    yield "cover foreign", TURBO, "cover", {
        **cover, "source_audio": "mono.wav", "cover_noise_strength": 0.3, "takes": 2,
    }  # fmt: skip
    yield "cover base unquantized", BASE, "cover", {
        **cover, "source_audio": "stereo.wav", "quantize": False, "audio_cover_strength": 0.4,
        "steps": 6,
    }  # fmt: skip


def write_sources(folder: Path) -> None:
    """Two recordings of nobody's: 44.1 kHz mono and 48 kHz stereo, tones and noise."""
    random = np.random.default_rng(0)
    for name, rate, channels, seconds in (("mono", 44_100, 1, 7.3), ("stereo", 48_000, 2, 8.0)):
        t = np.arange(round(seconds * rate)) / rate
        pitches = np.array([[220], [277], [330]]) * 2 * np.pi
        tones = (np.sin(pitches * t) * np.sin(pitches / 700 * t)).sum(axis=0)
        sound = 0.1 * tones[:, None] + 0.01 * random.normal(size=(len(t), channels))
        soundfile.write(folder / f"{name}.wav", sound, rate, subtype="PCM_24")


def record() -> dict[str, str]:
    """The hashes of all songs, by name and take."""
    torch.set_num_threads(1)  # sums over several threads depend on their number
    services: dict[str, MusicService] = {}
    hashes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sources(folder)
        for title, model, task, fields in songs():
            if model not in services:
                services[model] = MusicService.load(model, device="cpu")
            files = {
                field: folder / fields[field]
                for field in ("source_audio", "reference_audio")
                if field in fields
            }
            tracks = services[model].run(TASKS[task].model_validate({**fields, **files}))
            for track in tracks:
                hashes[f"{title} {track.take}"] = track.recipe["sha256"]
            if not (folder / OWN).exists():
                tracks[0].save(folder / OWN)
            print(title, *(track.recipe["sha256"][:12] for track in tracks), flush=True)
    return hashes


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    hashes = record()
    if arguments.action == "record":
        arguments.file.write_text(json.dumps(hashes, indent=1) + "\n")
        return
    before = json.loads(arguments.file.read_text())
    different = [name for name in before if before[name] != hashes.get(name)]
    print(f"{len(before) - len(different)} of {len(before)} are equal.", *different, sep="\n  ")
    raise SystemExit(bool(different))


if __name__ == "__main__":
    main()
