"""What this computer has, as its drivers say: memory, processor, graphics cards, PyTorch's build.

Imports no torch, so it can tell what torch itself cannot: that a card is there which the installed
PyTorch was not built for. What torch computes on is `acestep.runtime.devices`.
"""

import ctypes
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from acestep.errors import Unavailable

BF16_CAPABILITY = (8, 0)  # Ampere: the first with bfloat16 arithmetic
# Instructions that decide which arithmetic is fast on a CPU; /proc/cpuinfo's own names.
KNOWN_FLAGS = frozenset({"avx2", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"})
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
PROBE_SECONDS = 5.0  # a driver that hangs must not hang the page
NVIDIA_QUERY = (
    "nvidia-smi",
    "--query-gpu=name,memory.total,memory.free,compute_cap",
    "--format=csv,noheader,nounits",
)
ROCM_QUERY = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")
NVIDIA_VENDOR = "0x10de"
DISPLAY_CLASS = "0x03"  # of PCI devices
MIB = 1024**2


@dataclass(frozen=True)
class Memory:
    """Bytes of a device's memory, and how many are free now."""

    total: int
    free: int


@dataclass(frozen=True)
class GpuCard:
    """A graphics card as its driver sees it.

    Attributes:
        capability: NVIDIA's compute capability; None elsewhere.
    """

    name: str
    memory: Memory
    capability: tuple[int, int] | None = None
    maker: Literal["NVIDIA", "AMD"] = "NVIDIA"

    @property
    def has_bf16(self) -> bool:
        """ROCm's cards count as those that have it: PyTorch emulates it on none it supports."""
        return self.capability is None or self.capability >= BF16_CAPABILITY


@dataclass(frozen=True)
class TorchBuild:
    """What the installed PyTorch was compiled for.

    Attributes:
        version: such as 2.13.0+cu130, 2.13.0+cpu or 2.13.0.
        cuda, rocm: versions; None where it was built without.
    """

    version: str
    cuda: str | None = None
    rocm: str | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether it can compute on NVIDIA's or AMD's cards."""
        return self.cuda is not None or self.rocm is not None


@dataclass(frozen=True)
class Processor:
    """A CPU.

    Attributes:
        flags: which of `KNOWN_FLAGS` it has; None where the system does not tell.
    """

    name: str
    flags: frozenset[str] | None = None

    @property
    def has_bf16(self) -> bool:
        """Whether it multiplies in bfloat16, rather than converting back and forth."""
        return bool(self.flags and self.flags & BF16_FLAGS)


@dataclass(frozen=True)
class Computer:
    """The whole of it.

    Attributes:
        gpus: NVIDIA's and AMD's cards that a driver answers for, in the driver's order.
        gpu_problem: why a card that seems to be there is not among them; empty when none is missed.
        has_apple_gpu: Apple's chips, whose GPU shares main memory.
        torch: None when PyTorch is not installed.
    """

    memory: Memory
    processor: Processor
    gpus: tuple[GpuCard, ...] = ()
    gpu_problem: str = ""
    has_apple_gpu: bool = False
    torch: TorchBuild | None = None

    @classmethod
    def here(cls) -> Self:
        """Look; takes a tenth of a second where there is a driver to ask."""
        cards = find_cards()
        return cls(
            memory=main_memory(),
            processor=Processor(cpu_name(), cpu_flags()),
            gpus=cards.found,
            gpu_problem=cards.problem,
            has_apple_gpu=sys.platform == "darwin" and platform.machine() == "arm64",
            torch=torch_build(),
        )

    @property
    def usable_gpus(self) -> tuple[GpuCard, ...]:
        """The cards that the installed PyTorch was built for."""
        if self.torch is None:
            return ()
        built = {"NVIDIA": self.torch.cuda is not None, "AMD": self.torch.rocm is not None}
        return tuple(card for card in self.gpus if built[card.maker])


class Answer(NamedTuple):
    """What a command said, and whether it is there at all and was content."""

    was_there: bool
    is_good: bool
    text: str


class Cards(NamedTuple):
    """What the drivers answered."""

    found: tuple[GpuCard, ...]
    problem: str


def choose_device(
    name: str,
    *,
    gpus: int,
    is_built_for_gpus: bool,
    has_mps: bool,
) -> str:
    """The device that `auto`, `cuda`, `cuda:N`, `mps` or `cpu` means: cuda:N, mps or cpu.

    Args:
        gpus: how many CUDA devices PyTorch can use (ROCm's count as such).
        is_built_for_gpus: whether this PyTorch could use any.

    Raises:
        Unavailable: that device was asked for and is not here; the sentence says why.
    """
    if name == "auto":
        return "cuda:0" if gpus else "mps" if has_mps else "cpu"
    match = re.fullmatch(r"cuda(?::(\d+))?|mps|cpu", name)
    if match is None:
        raise Unavailable(f"'{name}' is not a device. Choose auto, cuda, cuda:N, mps or cpu.")
    if name == "mps" and not has_mps:
        raise Unavailable("mps needs a Mac with an Apple GPU, and PyTorch sees none here.")
    if name in ("mps", "cpu"):
        return name
    if not gpus:
        why = "PyTorch sees no GPU" if is_built_for_gpus else "this PyTorch was built without CUDA"
        raise Unavailable(f"{name} cannot be had: {why}.")
    index = int(match[1] or 0)
    if index >= gpus:
        raise Unavailable(f"{name} does not exist ({gpus} GPU{'s' * (gpus > 1)} found).")
    return f"cuda:{index}"


def find_cards(
    ask: Callable[[Sequence[str]], Answer] | None = None,
    hardware: Path | None = None,
) -> Cards:
    """The graphics cards that NVIDIA's and AMD's drivers answer for.

    Args:
        ask: runs a command; None runs it on this computer.
        hardware: where Linux lists what is plugged in; None is this computer's own list.
    """
    ask = ask or _ask
    nvidia, rocm = ask(NVIDIA_QUERY), ask(ROCM_QUERY)
    problems = [
        f"{query[0]} says: {_first_line(answer.text) or 'nothing'}"
        for query, answer in ((NVIDIA_QUERY, nvidia), (ROCM_QUERY, rocm))
        if answer.was_there and not answer.is_good
    ]
    # Only NVIDIA's: AMD's are in many processors, and meant for the screen.
    if not nvidia.was_there and has_display(NVIDIA_VENDOR, hardware):
        problems.append("an NVIDIA card is plugged in, but its driver is not installed")
    found = [
        *(_nvidia_cards(nvidia.text) if nvidia.is_good else ()),
        *(_rocm_cards(rocm.text) if rocm.is_good else ()),
    ]
    return Cards(tuple(found), "; ".join(problems))


def _ask(command: Sequence[str]) -> Answer:
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except FileNotFoundError:
        return Answer(False, False, "")
    except subprocess.TimeoutExpired:
        return Answer(True, False, f"no answer within {PROBE_SECONDS:.0f} s")
    except OSError as error:  # it may not be run
        return Answer(True, False, error.strerror or str(error))
    return Answer(True, done.returncode == 0, done.stdout or done.stderr)


def _nvidia_cards(table: str) -> list[GpuCard]:
    """Rows of name, total MiB, free MiB, capability. A field that the driver does not know is
    `[N/A]`: on cards that share main memory, the two numbers."""
    cards = []
    for row in table.splitlines():
        fields = [field.strip() for field in row.rsplit(",", 3)]
        if len(fields) != 4:
            continue
        name, total, free, capability = fields
        whole = main_memory() if not total.isdigit() or not free.isdigit() else None
        memory = whole or Memory(int(total) * MIB, int(free) * MIB)
        version = re.fullmatch(r"(\d+)\.(\d+)", capability)
        cards.append(GpuCard(name, memory, (int(version[1]), int(version[2])) if version else None))
    return cards


def _rocm_cards(report: str) -> list[GpuCard]:
    try:
        rows = json.loads(report)
    except ValueError:
        return []
    found = sorted(rows.items()) if isinstance(rows, dict) else []
    cards = []
    for name, values in found:
        if not name.startswith("card") or not isinstance(values, dict):
            continue
        row: dict[str, Any] = {key.lower(): value for key, value in values.items()}
        try:
            total = int(row["vram total memory (b)"])
            used = int(row["vram total used memory (b)"])
        except (LookupError, ValueError):
            continue
        title = row.get("card series") or row.get("card model") or name
        cards.append(GpuCard(str(title), Memory(total, total - used), maker="AMD"))
    return cards


def has_display(vendor: str, hardware: Path | None = None) -> bool:
    """Whether Linux lists a graphics card of this maker, with or without a driver."""
    for device in (hardware or Path("/sys/bus/pci/devices")).glob("*"):
        try:
            maker, kind = (device / "vendor").read_text(), (device / "class").read_text()
        except OSError:
            continue
        if maker.strip() == vendor and kind.startswith(DISPLAY_CLASS):
            return True
    return False


def torch_build(version_file: Path | None = None) -> TorchBuild | None:
    """What the installed PyTorch was built for, read from its own note; None without one.

    The distribution's metadata would not do: the wheel of PyPI calls itself 2.13.0 whatever it was
    compiled for.
    """
    if version_file is None:
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.origin is None:
            return None
        version_file = Path(spec.origin).parent / "version.py"
    try:
        text = version_file.read_text(encoding="utf-8")
    except OSError:
        return None

    def value(name: str) -> str | None:
        match = re.search(rf"^{name}\b[^=\n]*= *'([^']+)'", text, re.MULTILINE)
        return match[1] if match else None

    return TorchBuild(value("__version__") or "unknown", cuda=value("cuda"), rocm=value("hip"))


def main_memory() -> Memory:
    """The computer's own."""
    if sys.platform == "win32":
        return _windows_memory()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    table = Path("/proc/meminfo")
    if table.is_file():  # what could be had without swapping, not only what is unused
        match = re.search(r"^MemAvailable:\s+(\d+) kB", table.read_text(), re.MULTILINE)
        if match is not None:
            return _contained(Memory(total, int(match[1]) * 1024))
    return Memory(total, total)  # macOS gives memory back under pressure and tells no number


def _contained(machine: Memory, group: Path = Path("/sys/fs/cgroup")) -> Memory:
    """What a container may have of the machine's memory, where Linux limits it (cgroup v2)."""
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        statistics = (group / "memory.stat").read_text()
    except (OSError, ValueError):  # there is none, or it is "max"
        return machine
    cached = re.search(r"^inactive_file (\d+)$", statistics, re.MULTILINE)
    free = limit - used + (int(cached[1]) if cached else 0)  # cached files make room
    return Memory(min(machine.total, limit), max(0, min(machine.free, free)))


def cpu_name(table: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name as it calls itself."""
    match = None
    if table.is_file():
        match = re.search(r"^model name\s*:\s*(.+)$", table.read_text(), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or "CPU"


def cpu_flags(table: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """Which of `KNOWN_FLAGS` the CPU has; None where the system does not tell."""
    if not table.is_file():
        return None
    match = re.search(r"^flags\s*:\s*(.+)$", table.read_text(), re.MULTILINE)
    return None if match is None else KNOWN_FLAGS.intersection(match[1].split())


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


def _first_line(text: str) -> str:
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line), "")
