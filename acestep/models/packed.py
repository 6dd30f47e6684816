"""INT8 layers as they were made, in a folder beside the checkpoint: the next start reads them.

Measured on one core: four layers of the 2B DiT take 1.0 s from the bfloat16 file, which has twice
the bytes and has to be rounded, and 0.2 s from here. Networks that round in no time are not saved.

A file is used only as long as the checkpoint's own files are those it was made from.
"""

import json
import logging
import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from acestep.models.quantize import Int8Linear, QuantizedLinear

PACKED_FOLDER = "int8"
WORTH_BYTES = 100_000_000  # a third of a second of rounding
SPARE_DISK_BYTES = 1_000_000_000  # left free beside what is saved

logger = logging.getLogger(__name__)


class PackedWeights:
    """The files of one checkpoint's INT8 layers, one for each part of the network.

    Args:
        layers: empty INT8 layers by their names in the network; other forms are never saved.
        sources: the checkpoint's files.
    """

    def __init__(
        self, folder: Path, layers: Mapping[str, QuantizedLinear], sources: Collection[Path]
    ) -> None:
        self._folder = folder / PACKED_FOLDER
        self._made_from = json.dumps([_identity(path) for path in sorted(sources)])
        groups: dict[str, dict[str, Int8Linear]] = defaultdict(dict)
        for name, layer in layers.items():
            if isinstance(layer, Int8Linear):
                groups[name.split(".")[0]][name] = layer
        self._groups = {
            part: group
            for part, group in groups.items()
            if sum(layer.weight.numel() for layer in group.values()) >= WORTH_BYTES
        }
        self._saved: set[str] = set()

    def read(self) -> set[str]:
        """Fill the layers that were saved; their names."""
        filled = set()
        for part, group in self._groups.items():
            if self._read(self._path(part), group):
                self._saved.add(part)
                filled |= group.keys()
        return filled

    def save(self) -> None:
        """Save what could not be read. Where it cannot be saved either, the log says so."""
        for part in self._groups.keys() - self._saved:
            path, tensors = self._path(part), dict(_tensors(self._groups[part]))
            size = sum(tensor.nbytes for tensor in tensors.values())
            errors = {
                name: (layer.squared_error, layer.squared_norm)
                for name, layer in self._groups[part].items()
            }
            metadata = {"made_from": self._made_from, "squared_errors": json.dumps(errors)}
            temporary = path.with_name(f".{secrets.token_hex(8)}.part")
            try:
                path.parent.mkdir(exist_ok=True)
                if shutil.disk_usage(path.parent).free < size + SPARE_DISK_BYTES:
                    raise OSError("there is too little space left")
                save_file(tensors, temporary, metadata)
                os.replace(temporary, path)
            except (OSError, SafetensorError) as error:
                with suppress(OSError):
                    temporary.unlink()
                logger.info("%s is not saved (%s): every start rounds it anew.", path, error)
            else:
                logger.info("Saved %s (%.0f MB), for faster starts.", path, size / 1e6)

    def _path(self, part: str) -> Path:
        return self._folder / f"{part}.safetensors"

    def _read(self, path: Path, group: Mapping[str, Int8Linear]) -> bool:
        """Whether the file is there, whole, and of this checkpoint."""
        if not path.is_file():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("made_from") != self._made_from:
                    return False
                read = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            errors = json.loads(metadata["squared_errors"])
            for key, empty in _tensors(group):
                if (read[key].shape, read[key].dtype) != (empty.shape, empty.dtype):
                    return False
            for name, layer in group.items():
                layer.squared_error, layer.squared_norm = map(float, errors[name])
                for kind in ("weight", "scale"):
                    constant = torch.nn.Parameter(read[f"{name}.{kind}"], requires_grad=False)
                    setattr(layer, kind, constant)
        except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
            logger.info("%s is not used: it is damaged (%s).", path, error)
            return False
        return True


def _tensors(group: Mapping[str, Int8Linear]) -> Iterator[tuple[str, Tensor]]:
    for name, layer in group.items():
        yield f"{name}.weight", layer.weight.data
        yield f"{name}.scale", layer.scale.data


def _identity(path: Path) -> tuple[str, int, int]:
    """What changes when a file is replaced or written to."""
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns
