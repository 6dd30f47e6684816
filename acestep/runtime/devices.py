"""The devices of this computer: which one runs the networks, in which precision, with how much
memory. Only `auto` chooses; a device that was asked for is that device or an error."""

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import torch
from safetensors import safe_open

from acestep.checkpoints.headers import weight_files
from acestep.errors import Unavailable

GIB = 1024**3
BF16_CAPABILITY = (8, 0)  # Ampere: the first with bfloat16 arithmetic
# Beside the weights: activations of a four-minute song, VAE tiles, cuBLAS' work space.
WORK_BYTES = 2 * GIB


@dataclass(frozen=True)
class Machine:
    """What PyTorch can compute on here.

    Attributes:
        gpus: compute capability of each CUDA device (ROCm's count as such).
        has_cuda: this PyTorch was built for CUDA or ROCm.
        has_mps: an Apple GPU is there and usable.
    """

    gpus: tuple[tuple[int, int], ...] = ()
    has_cuda: bool = False
    has_mps: bool = False

    @classmethod
    def here(cls) -> Self:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return cls(
            gpus=tuple(torch.cuda.get_device_capability(i) for i in range(count)),
            has_cuda=torch.backends.cuda.is_built(),
            has_mps=torch.backends.mps.is_available(),
        )


@dataclass(frozen=True)
class Memory:
    """Bytes of a device's memory, and how many are free now."""

    total: int
    free: int


class ModelFolders(Protocol):
    """The checkpoint folders one service runs on."""

    @property
    def dit(self) -> Path: ...
    @property
    def vae(self) -> Path: ...
    @property
    def text_encoder(self) -> Path: ...
    @property
    def lm(self) -> Path | None: ...


def resolve_device(name: str, machine: Machine | None = None) -> torch.device:
    """The device that `auto`, `cuda`, `cuda:N`, `mps` or `cpu` means.

    Raises:
        Unavailable: that device was asked for and is not here; the sentence says why.
    """
    machine = machine or Machine.here()
    if name == "auto":
        best = "cuda:0" if machine.gpus else "mps" if machine.has_mps else "cpu"
        return torch.device(best)
    match = re.fullmatch(r"cuda(?::(\d+))?|mps|cpu", name)
    if match is None:
        raise Unavailable(f"'{name}' is not a device. Choose auto, cuda, cuda:N, mps or cpu.")
    if name == "mps" and not machine.has_mps:
        raise Unavailable("mps needs a Mac with an Apple GPU, and PyTorch sees none here.")
    if name in ("mps", "cpu"):
        return torch.device(name)
    if not machine.gpus:
        why = "PyTorch sees no GPU" if machine.has_cuda else "this PyTorch was built without CUDA"
        raise Unavailable(f"{name} cannot be had: {why}.")
    index = int(match[1] or 0)
    if index >= len(machine.gpus):
        count = len(machine.gpus)
        raise Unavailable(f"{name} does not exist ({count} GPU{'s' * (count > 1)} found).")
    return torch.device("cuda", index)


def working_dtype(device: torch.device, machine: Machine | None = None) -> torch.dtype:
    """The precision the networks run in.

    bfloat16 where the GPU computes in it, which the models were trained in. float32 elsewhere:
    float16, the other short type of older GPUs, overflows in XL's residual stream; CPUs without
    AMX gain nothing from bfloat16 and lose exactness; on MPS several operations that the VAE and
    the samplers need are slower or inexact in bfloat16.
    """
    if device.type != "cuda":
        return torch.float32
    gpus = (machine or Machine.here()).gpus
    return torch.bfloat16 if gpus[device.index or 0] >= BF16_CAPABILITY else torch.float32


def describe(device: torch.device) -> str:
    """The device in words, for the page, the log and recipes."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        return f"{facts.name} ({facts.total_memory / GIB:.0f} GiB)"
    if device.type == "mps":
        return f"Apple GPU ({memory(device).total / GIB:.0f} GiB shared)"
    threads = torch.get_num_threads()
    return f"{_cpu_name()} ({threads} thread{'s' * (threads > 1)})"


def synchronize(device: torch.device) -> None:
    """Wait until a device has done everything it was told to; a CPU always has.

    GPUs are told faster than they compute, so a clock is read only after this.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def memory(device: torch.device) -> Memory:
    """Memory of a GPU, or of the computer: an Apple GPU shares it."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(total, free)
    return _main_memory()


def fitting_policy(
    device: torch.device,
    folders: ModelFolders,
    available: Memory | None = None,
    machine: Machine | None = None,
) -> Literal["keep", "swap"]:
    """Whether all networks fit on the device at once ("keep") or must take turns ("swap").

    CPU and Apple GPU have one memory for everything: swapping would free nothing.
    """
    if device.type != "cuda":
        return "keep"
    places = (folders.dit, folders.vae, folders.text_encoder, folders.lm)
    present = [place for place in places if place is not None]
    weights = weight_bytes(present, working_dtype(device, machine))
    free = (available or memory(device)).free
    return "keep" if weights + WORK_BYTES <= free else "swap"


def weight_bytes(folders: Iterable[Path], dtype: torch.dtype) -> int:
    """Bytes of the folders' weights once they are in `dtype`; reads headers only."""
    numbers = 0
    for folder in folders:
        for path in weight_files(folder):
            with safe_open(path, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 (not a dict)
                    count = 1
                    for axis in tensors.get_slice(key).get_shape():
                        count *= axis
                    numbers += count
    return numbers * dtype.itemsize


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on whichever device.

    Besides its own class, PyTorch raises plain RuntimeErrors from cuBLAS and the CUDA driver, from
    MPS, and from the CPU allocator.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    signs = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)


def _main_memory() -> Memory:
    if sys.platform == "win32":
        return _windows_memory()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    table = Path("/proc/meminfo")
    if table.is_file():  # what could be had without swapping, not only what is unused
        match = re.search(r"^MemAvailable:\s+(\d+) kB", table.read_text(), re.MULTILINE)
        if match is not None:
            return Memory(total, int(match[1]) * 1024)
    return Memory(total, total)  # macOS gives memory back under pressure and tells no number


def _windows_memory() -> Memory:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            ("free", ctypes.c_ulonglong),
            ("rest", ctypes.c_ulonglong * 5),
        )

    status = Status(length=ctypes.sizeof(Status))
    getattr(ctypes, "windll").kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # noqa: B009
    return Memory(status.total, status.free)


def _cpu_name() -> str:
    table = Path("/proc/cpuinfo")
    match = None
    if table.is_file():
        match = re.search(r"^model name\s*:\s*(.+)$", table.read_text(), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or "CPU"
