"""The devices of this computer: which one runs the networks, in which precision, with how much
memory. Only `auto` chooses; a device that was asked for is that device or an error."""

import ctypes
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

import torch

from acestep.runtime.hardware import DeviceFacts, Hardware
from acestep.runtime.machine import (
    BF16_CAPABILITY,
    BF16_FLAGS,
    Memory,
    choose_device,
    cpu_name,
    main_memory,
)
from acestep.runtime.memory_plan import HOST_BASE

GIB = 1024**3
CUDA_CONTEXT = 300_000_000  # bytes that asking a GPU for its memory takes of it


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


def resolve_device(name: str, machine: Machine | None = None) -> torch.device:
    """The device that `auto`, `cuda`, `cuda:N`, `mps` or `cpu` means.

    Raises:
        Unavailable: that device was asked for and is not here; the sentence says why.
    """
    machine = machine or Machine.here()
    return torch.device(
        choose_device(
            name,
            gpus=len(machine.gpus),
            is_built_for_gpus=machine.has_cuda,
            has_mps=machine.has_mps,
        )
    )


def device_name(device: torch.device) -> str:
    """The device in words, for the page, the log and recipes."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        return f"{facts.name} ({facts.total_memory / GIB:.0f} GiB)"
    if device.type == "mps":
        return f"Apple GPU ({memory(device).total / GIB:.0f} GiB shared)"
    threads = torch.get_num_threads()
    return f"{cpu_name()} ({threads} thread{'s' * (threads > 1)})"


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
    return main_memory()


def hardware(
    device: torch.device,
    planner_device: torch.device | None = None,
    held: Mapping[str, int] = MappingProxyType({}),
) -> Hardware:
    """The devices that a service computes on, with what memory plans go by.

    What every plan begins with, Python and a CUDA context, is already there when this is asked, and
    counts as free.

    Args:
        planner_device: where the 5Hz LM has its own.
        held: bytes that this program's networks have on each device, which it can let go.
    """
    main = main_memory()

    def facts(device: torch.device) -> DeviceFacts:
        found = memory(device)
        base = CUDA_CONTEXT if device.type == "cuda" else HOST_BASE
        free = found.free + held.get(str(device), 0) + base
        return DeviceFacts(str(device), Memory(found.total, free), has_bf16(device))

    own = None if planner_device in (None, device) else facts(planner_device)
    free = main.free + held.get("cpu", 0) + HOST_BASE
    return Hardware(facts(device), Memory(main.total, free), own)


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16, rather than converting back and forth."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    flags = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(flags.get(flag) for flag in BF16_FLAGS)


def limit_memory(device: torch.device, gigabytes: float | None) -> None:
    """Have the driver refuse more than this much of a GPU's memory; None takes a limit back."""
    if device.type == "cuda":
        total = memory(device).total
        share = 1.0 if gigabytes is None else min(1.0, gigabytes * 1e9 / total)
        torch.cuda.set_per_process_memory_fraction(share, device)


def give_back(device: torch.device) -> None:
    """Return what was freed to the system: both PyTorch and the C library keep it otherwise."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # not every C library has it
            ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on whichever device.

    Besides its own class, PyTorch raises plain RuntimeErrors from cuBLAS and the CUDA driver, from
    MPS, and from the CPU allocator.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    signs = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)
