"""A checkpoint folder judged without reading its weights: what it says, what it lacks, whose
weights it holds."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acestep.checkpoints.files import CONFIG_FILE, FIRST_CODE, REQUIRED, STEMS, TOKENIZER_FILE, Kind
from acestep.checkpoints.headers import MAX_HEADER, stored_tensors, weight_files
from acestep.errors import CheckpointError

FINGERPRINT_BLOCKS = 64
FINGERPRINT_BLOCK_BYTES = 4096


def read_config(folder: Path) -> Mapping[str, Any]:
    """config.json, or nothing when there is none to be read."""
    try:
        values = json.loads((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def kind_of(folder: Path) -> Kind | None:
    """What kind of network a folder holds, told from its files; None when they do not tell."""
    config = read_config(folder)
    if "downsampling_ratios" in config:
        return "vae"
    if config.get("model_type") == "acestep" or "fsq_input_levels" in config:
        return "dit"
    if _is_qwen3(config) and (folder / TOKENIZER_FILE).is_file():
        return "lm" if _has_codes(folder / TOKENIZER_FILE) else "text_encoder"
    return None


def problems(folder: Path, kind: Kind | None) -> list[str]:
    """What keeps a folder from being loaded, as sentences, without reading the weights."""
    if not (folder / CONFIG_FILE).is_file():
        return [f"{CONFIG_FILE} is missing."]
    if not read_config(folder):
        return [f"{CONFIG_FILE} is not a JSON object."]
    if kind is None and _is_qwen3(read_config(folder)):
        return [f"{TOKENIZER_FILE} is missing."]  # it tells a 5Hz LM from a text encoder
    if kind is None:
        return [f"{CONFIG_FILE} is of no network this program knows."]
    found = []
    try:
        stored_tensors(folder, STEMS[kind])
    except CheckpointError as error:
        found.append(str(error).replace(str(folder / "_")[:-1], ""))  # the folder is known
    missing = [name for name in REQUIRED[kind] if not (folder / name).is_file()]
    return found + [f"{name} is missing." for name in missing]


def fingerprint(folder: Path) -> str:
    """A quick SHA-256 of a folder's weights, for recipes: two folders with the same fingerprint
    make the same music.

    Covers name, size and header of every safetensors file, and 64 blocks of 4 KiB spread evenly
    over it: milliseconds instead of the half minute a full hash of 20 GB takes. It tells models
    apart; it is no protection against a forger (`acestep models verify` is).
    """
    digest = hashlib.sha256()
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            digest.update(prefix + file.read(min(length, MAX_HEADER)))
            last = max(0, size - FINGERPRINT_BLOCK_BYTES)
            for block in range(FINGERPRINT_BLOCKS):
                file.seek(last * block // (FINGERPRINT_BLOCKS - 1))
                digest.update(file.read(FINGERPRINT_BLOCK_BYTES))
    return digest.hexdigest()


def _is_qwen3(config: Mapping[str, Any]) -> bool:
    return str(config.get("model_type", "")).startswith("qwen3")


def _has_codes(tokenizer: Path) -> bool:
    """Whether the file spells the first audio code. It is searched and not parsed: published ones
    are of 11 MB and more."""
    try:
        return FIRST_CODE.encode() in tokenizer.read_bytes()
    except OSError:
        return False
