"""From a checkpoint folder to a network: safetensors headers, then a meta module, then its tensors.

A file is judged by its header before any weight is read: a damaged, foreign or wrongly shaped
checkpoint is refused with one sentence that names the file. Pickle is never opened, but for the
one small tensor that is published no other way, and then only through `weights_only=True`.
"""

import json
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from acestep.errors import CheckpointError
from acestep.models.acestep import AceStep
from acestep.models.config import AceStepConfig, Qwen3Config, VaeConfig
from acestep.models.qwen3 import Qwen3
from acestep.models.vae import Vae
from acestep.types import Latents

M = TypeVar("M", bound=nn.Module)

FLOATS = {"F32": 4, "F16": 2, "BF16": 2}  # bytes per number
MAX_HEADER = 100_000_000  # bytes; the safetensors format's own limit
SILENCE_FILE = "silence_latent.pt"
SILENCE_FRAMES = 15_000  # ten minutes
MAX_SILENCE_FILE = 64_000_000  # bytes; the published file is 3.84 MB
ARCHIVE = b"PK\x03\x04"  # what `torch.save` writes: a zip file
FOREIGN = {  # what other files begin with
    ARCHIVE: "a pickle archive, which could run code and is never opened",
    b"\x80": "a pickle file, which could run code and is never opened",
    b"<": "a web page, so the download went wrong",
    b"version https://git-lfs": "a Git LFS pointer, not the file it points to",
    b"GGUF": "a GGUF file",
}


class Stored(NamedTuple):
    """Where one tensor lies and what its header says about it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def load_acestep(
    folder: Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> AceStep:
    """The networks of a DiT folder, 2B or XL."""
    config = AceStepConfig.read(folder)
    return load_module(lambda: AceStep(config), folder, dtype=dtype, device=device)


def load_vae(
    folder: Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Vae:
    """The autoencoder of a `vae` folder, weight norm folded; None is fp32.

    It is folded in fp32 and rounded afterwards, once.
    """
    config = VaeConfig.read(folder)
    vae = load_module(
        lambda: Vae(config),
        folder,
        dtype=torch.float32,
        device=device,
        stem="diffusion_pytorch_model",
    )
    return vae.fold().to(dtype)


def load_qwen3(
    folder: Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Qwen3:
    """A text encoder or a planner."""
    config = Qwen3Config.read(folder)

    def rename(key: str) -> str | None:
        """Some files prefix every key, and repeat the embedding as the head."""
        if key == "lm_head.weight" and config.tie_word_embeddings:
            return None
        return key.removeprefix("model.")

    return load_module(lambda: Qwen3(config), folder, dtype=dtype, device=device, rename=rename)


def load_silence(folder: Path) -> Latents:
    """What the VAE makes of silence, [1, 15000, channel] in fp32; it is neither zero nor constant.

    Raises:
        CheckpointError: the file is missing, damaged or of another shape.
    """
    path = folder / SILENCE_FILE
    shape = (1, AceStepConfig.read(folder).audio_acoustic_hidden_dim, SILENCE_FRAMES)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the folder is not a complete model.")
    if path.stat().st_size > MAX_SILENCE_FILE:
        raise CheckpointError(f"{path} is far larger than a silence latent; it is not opened.")
    try:
        with path.open("rb") as file:
            if file.read(4) != ARCHIVE:
                raise CheckpointError(f"{path} is damaged: it is not a PyTorch archive.")
        silence = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError, OSError, EOFError, RuntimeError, ValueError, LookupError,
        AttributeError, TypeError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path} is damaged or holds more than one tensor.") from error
    if not isinstance(silence, torch.Tensor) or not silence.is_floating_point():
        raise CheckpointError(f"{path} does not hold one tensor of numbers.")
    if tuple(silence.shape) != shape:
        raise CheckpointError(f"{path} holds {list(silence.shape)}, but {list(shape)} is needed.")
    return silence.float().transpose(1, 2).contiguous()


def load_module(
    build: Callable[[], M],
    folder: Path,
    *,
    dtype: torch.dtype | None,
    device: torch.device | str = "cpu",
    stem: str = "model",
    rename: Callable[[str], str | None] = lambda key: key,
) -> M:
    """Build a network without memory, then give it the folder's tensors one by one.

    The network must make its non-persistent buffers itself when it runs: they have no tensor here.

    Args:
        dtype: what the weights are cast to; None keeps them as stored.
        stem: name of the weight file, or of its index, before `.safetensors`.
        rename: from a stored key to the network's own; None leaves the tensor out.

    Raises:
        CheckpointError: no weights, damaged weights, or weights of another network.
    """
    with torch.device("meta"):
        module = build()
    stored = {}
    for key, tensor in _stored_tensors(folder, stem).items():
        if (name := rename(key)) is not None:
            stored[name] = (key, tensor)
    _compare(folder, {name: tensor for name, (_, tensor) in stored.items()}, module.state_dict())
    weights = {}
    for file in sorted({tensor.file for _, tensor in stored.values()}):
        names = {key: name for name, (key, tensor) in stored.items() if tensor.file == file}
        weights |= _read(file, names, dtype, device)
    module.load_state_dict(weights, strict=True, assign=True)
    return module.requires_grad_(False).eval()


def _read(
    file: Path, names: Mapping[str, str], dtype: torch.dtype | None, device: torch.device | str
) -> dict[str, torch.Tensor]:
    """The named tensors of one file; only one is ever held in a second dtype."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return {
                name: tensors.get_tensor(key).to(device=device, dtype=dtype)
                for key, name in names.items()
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}).") from error


def _stored_tensors(folder: Path, stem: str) -> dict[str, Stored]:
    """What the folder's headers promise: one file, or the shards its index names."""
    single = folder / f"{stem}.safetensors"
    index = folder / f"{stem}.safetensors.index.json"
    if single.exists():
        return _header(single)
    if index.exists():
        return _sharded(index)
    if other := _pickled(folder):
        raise CheckpointError(
            f"{folder} has no {single.name}, only {other.name}, a pickle file, which could run "
            "code and is never opened."
        )
    raise CheckpointError(f"{single} is missing: the folder is not a complete model.")


def _pickled(folder: Path) -> Path | None:
    kinds = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
    found = (path for path in folder.glob("*") if path.suffix in kinds)
    return next((path for path in sorted(found) if path.name != SILENCE_FILE), None)


def _sharded(index: Path) -> dict[str, Stored]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(places.values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not an index of safetensors files.") from error
    stored = {}
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{index} points outside its folder ({shard!r}).")
        if not (index.parent / shard).is_file():
            raise CheckpointError(
                f"{index.parent / shard} is missing: it is one of {len(shards)} files that "
                "hold the weights."
            )
        stored |= _header(index.parent / shard)
    for key, shard in places.items():
        if key not in stored or stored[key].file.name != shard:
            raise CheckpointError(
                f"{index.parent / shard} does not hold '{key}', as {index.name} says."
            )
    return stored


def _header(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, which begins with the length of a JSON table of them."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(32)
            length = int.from_bytes(start[:8], "little")
            # A pickle's first bytes can be the length of a good table, but no table follows them.
            is_table = start[8:9] == b"{" and length <= MAX_HEADER
            file.seek(8)
            table = file.read(length) if is_table else b""
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error
    if not is_table:
        raise CheckpointError(f"{path} is {_kind(start)}; a safetensors file is needed.")
    if len(table) < length:
        raise _cut_off(path, size, 8 + length)
    return _tensors(path, table, size)


def _kind(start: bytes) -> str:
    """What a file that is not safetensors seems to be."""
    if len(start) <= 8:
        return "empty"
    return next((kind for mark, kind in FOREIGN.items() if start.startswith(mark)), "damaged")


def _tensors(path: Path, table: bytes, size: int) -> dict[str, Stored]:
    try:
        entries = json.loads(table)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its header cannot be read.") from error
    entries.pop("__metadata__", None)
    stored = {}
    needed = 8 + len(table)
    for key, entry in entries.items():
        try:
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            expected = math.prod(shape) * FLOATS.get(dtype, 0)
            sound = 0 <= begin <= end and all(type(n) is int and n >= 0 for n in shape)
        except (LookupError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: its header misdescribes '{key}'.") from error
        if dtype not in FLOATS:
            raise CheckpointError(
                f"{path}: '{key}' is stored as {dtype}; only {', '.join(FLOATS)} are read."
            )
        if not sound or end - begin != expected:
            raise CheckpointError(f"{path} is damaged: its header misdescribes '{key}'.")
        stored[key] = Stored(path, dtype, shape)
        needed = max(needed, 8 + len(table) + end)
    if needed > size:
        raise _cut_off(path, size, needed)
    return stored


def _cut_off(path: Path, size: int, needed: int) -> CheckpointError:
    return CheckpointError(
        f"{path} is cut off: {size:,} bytes of {needed:,} are there. Download it again."
    )


def _compare(
    folder: Path, stored: Mapping[str, Stored], expected: Mapping[str, torch.Tensor]
) -> None:
    """Refuse weights of another network, naming the first difference."""
    if missing := [key for key in expected if key not in stored]:
        raise CheckpointError(
            f"{folder}: the weights lack '{missing[0]}'{_and_more(missing)}; "
            "this is another network, or not all of it."
        )
    if unknown := [key for key in stored if key not in expected]:
        raise CheckpointError(
            f"{stored[unknown[0]].file} holds '{unknown[0]}'{_and_more(unknown)}, "
            "which this network does not have."
        )
    for key, tensor in expected.items():
        if stored[key].shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{stored[key].file}: '{key}' is {list(stored[key].shape)}, "
                f"but config.json makes it {list(tensor.shape)}."
            )


def _and_more(keys: list[str]) -> str:
    return f" and {len(keys) - 1} more" if len(keys) > 1 else ""
