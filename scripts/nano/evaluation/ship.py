"""Make the checkpoints that ship of the trained networks: small files, model cards, examples.

    uv run python -m scripts.nano.evaluation.ship --figures work/nano/figures.json

What is measured stands in the cards as `evaluate` wrote it, met or not.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import soundfile
import torch
from safetensors.torch import load_file, save_file

from acestep.media import audio
from scripts.nano.evaluation.figures import Figure
from scripts.nano.evaluation.studio import BASE, TURBO
from scripts.nano.paths import VAE_WEIGHTS, WORK
from scripts.nano.training.trainer import CHECKPOINT_FILE, CURVE_FILE

CARDS = Path(__file__).with_name("cards")
WEIGHTS_FILE, INDEX_FILE, SILENCE_FILE = (
    "model.safetensors",
    "model.safetensors.index.json",
    "silence_latent.pt",
)
MAX_BYTES, MAX_EXAMPLES = 40_000_000, 2_000_000
EXAMPLES = 5
VORBIS_LEVEL = 0.7  # about 96 kbit/s


@dataclass(frozen=True)
class Part:
    """One checkpoint: where its trainings left their curves, and which figures are its own."""

    trainings: tuple[str, ...]
    groups: tuple[str, ...]
    files: tuple[str, ...] = ("config.json", WEIGHTS_FILE)


PARTS: Mapping[str, Part] = {
    "acestep-nano-vae": Part(("vae-decoder", "vae"), ("vae",), ("config.json",)),
    "acestep-nano-text-encoder": Part(
        ("training/text_encoder",), (), ("config.json", WEIGHTS_FILE, "tokenizer.json")
    ),
    "acestep-5Hz-lm-nano": Part(
        ("training/planner",), ("think",), ("config.json", WEIGHTS_FILE, "tokenizer.json")
    ),
    TURBO: Part(("acestep",), ("think", "plain", "codes", "repaint", "cover", "speed")),
    BASE: Part(("acestep",), ("base", "guidance"), ("config.json",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Ship the nano models.")
    parser.add_argument("--source", type=Path, default=WORK)
    parser.add_argument("--target", type=Path, default=Path("checkpoints"))
    parser.add_argument("--figures", type=Path, help="what `evaluate --json` wrote")
    parser.add_argument("--songs", type=Path, help="the evaluation's songs, for the examples")
    arguments = parser.parse_args()
    figures = [] if arguments.figures is None else read_figures(arguments.figures)
    for name in PARTS:
        ship_checkpoint(name, arguments.source, arguments.target, figures)
    if arguments.songs is not None:
        write_examples(arguments.songs, arguments.target / TURBO / "examples")
    total = sum(p.stat().st_size for n in PARTS for p in (arguments.target / n).rglob("*"))
    print(f"{total / 1e6:.1f} MB in all")
    if total > MAX_BYTES:
        raise SystemExit(f"That is more than the {MAX_BYTES / 1e6:.0f} MB that may ship.")


def ship_checkpoint(name: str, source: Path, target: Path, figures: Sequence[Figure]) -> None:
    """Write one checkpoint folder."""
    part, folder = PARTS[name], target / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in part.files:
        shutil.copyfile(source / name / file, folder / file)
    if name == "acestep-nano-vae":
        round_weights(source / name / VAE_WEIGHTS, folder / VAE_WEIGHTS)
    if name in (TURBO, BASE):
        write_silence(source / name / SILENCE_FILE, folder / SILENCE_FILE)
    if name == BASE:
        (folder / WEIGHTS_FILE).unlink(missing_ok=True)
        refer(folder / INDEX_FILE, target / TURBO / WEIGHTS_FILE)
    if curve := next((c for t in part.trainings if (c := source / t / CURVE_FILE).exists()), None):
        shutil.copyfile(curve, folder / CURVE_FILE)
    rows = [figure for figure in figures if figure.group in part.groups]
    begun = [t for t in part.trainings if (source / t / CHECKPOINT_FILE).exists()]
    minutes = {t: spent(source / t) for t in begun}
    (folder / "README.md").write_text(card(name, folder, rows, minutes), encoding="utf-8")


def round_weights(source: Path, target: Path) -> None:
    """fp32 to fp16, which keeps three more bits of a weight than bf16.

    Raises:
        ValueError: a weight is too large for fp16.
    """
    rounded = {key: value.half() for key, value in load_file(source).items()}
    for key, value in rounded.items():
        if not value.isfinite().all():
            raise ValueError(f"{key} does not fit into fp16.")
    save_file(rounded, target, metadata={"format": "pt"})


def write_silence(source: Path, target: Path) -> None:
    """The silence latent in its published shape, packed: it repeats itself a thousand times.

    PyTorch reads a packed archive as it reads its own, which are not.
    """
    with ZipFile(source) as whole, ZipFile(target, "w", ZIP_DEFLATED, compresslevel=9) as packed:
        for entry in whole.infolist():
            fixed = ZipInfo(entry.filename)  # the same bytes whenever it is written
            packed.writestr(fixed, whole.read(entry), ZIP_DEFLATED, 9)


def refer(index: Path, weights: Path) -> None:
    """An index that takes every tensor from the model next door."""
    place = f"../{weights.parent.name}/{weights.name}"
    tensors = load_file(weights)
    size = sum(value.nbytes for value in tensors.values())
    table = {
        "metadata": {"total_size": size},
        "weight_map": dict.fromkeys(sorted(tensors), place),
    }
    index.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def spent(folder: Path) -> tuple[int, float]:
    """Steps and minutes of a training."""
    state = torch.load(folder / CHECKPOINT_FILE, map_location="cpu", weights_only=True, mmap=True)
    return state["progress"]["step"], state["progress"]["seconds"] / 60


def card(
    name: str,
    folder: Path,
    figures: Sequence[Figure],
    trainings: Mapping[str, tuple[int, float]],
) -> str:
    """The model card: a template's words, with the numbers of this training."""
    shipped = folder / (WEIGHTS_FILE if (folder / WEIGHTS_FILE).exists() else VAE_WEIGHTS)
    if name == BASE:
        shipped = folder.parent / TURBO / WEIGHTS_FILE
    count = sum(value.numel() for value in load_file(shipped).values())
    minutes = sum(m for _, m in trainings.values())
    steps = sum(s for s, _ in trainings.values())
    return Template((CARDS / f"{name}.md").read_text(encoding="utf-8")).substitute(
        parameters=f"{count / 1e6:.1f} million",
        training=f"{steps:,} steps in {minutes:.0f} minutes" if steps else "an unknown training",
        curve=f"![Loss over the steps]({CURVE_FILE})" if (folder / CURVE_FILE).exists() else "",
        figures=table(figures),
        data=(CARDS / "data.txt").read_text(encoding="utf-8").strip(),
    )


def table(figures: Sequence[Figure]) -> str:
    """Figures as Markdown, or that there are none yet."""
    if not figures:
        return "Not measured on its own."
    lines = ["| | Figure | Wanted | Rendered scores | Songs |", "|---|---|---|---|---|"]
    for figure in figures:
        wanted = "" if figure.bound is None else f"{figure.bound[0]} {figure.bound[1]:.2g}"
        if figure.is_met is False:
            wanted += " — **not reached**"
        ceiling = "" if figure.ceiling is None else f"{figure.ceiling:.2f}"
        lines.append(
            f"| {figure.group}: {figure.name} | {figure.value:.2f} | {wanted} | {ceiling} "
            f"| {figure.count} |"
        )
    return "\n".join(lines)


def read_figures(path: Path) -> list[Figure]:
    """What `evaluate` wrote."""
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["figures"]
    for row in rows:
        row.pop("is_met")
        row["bound"] = None if row["bound"] is None else tuple(row["bound"])
    return [Figure(**row) for row in rows]


def write_examples(songs: Path, folder: Path) -> None:
    """The evaluation's first songs, none chosen, each with its caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for path in sorted(songs.glob("think-*.flac"))[:EXAMPLES]:
        target = folder / f"{path.stem}.ogg"
        samples = audio.read(path)[0].T.numpy()
        with soundfile.SoundFile(
            target, "w", audio.SAMPLE_RATE, 2, "VORBIS", format="OGG",
            compression_level=VORBIS_LEVEL,
        ) as sound:  # fmt: skip
            for start in range(0, len(samples), audio.SAMPLE_RATE):
                sound.write(samples[start : start + audio.SAMPLE_RATE])
        request = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["request"]
        lyrics = " / ".join(request["lyrics"].splitlines())
        lines.append(f"- [{target.name}]({target.name}): {request['caption']}. {lyrics}")
    total = sum(path.stat().st_size for path in folder.glob("*.ogg"))
    if total > MAX_EXAMPLES:
        raise SystemExit(f"{total / 1e6:.1f} MB of examples are too many.")
    text = "The first songs of the evaluation, as they came, with what was asked for:\n\n"
    (folder / "README.md").write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
