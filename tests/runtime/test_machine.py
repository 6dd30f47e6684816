"""What a computer has, told from what its drivers and files say."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from acestep.runtime import machine
from acestep.runtime.machine import (
    Answer,
    Computer,
    GpuCard,
    Memory,
    Processor,
    TorchBuild,
    cpu_flags,
    find_cards,
    torch_build,
)

MIB = 1024**2
ABSENT = Answer(False, False, "")
SMI = """\
NVIDIA GeForce RTX 3060, 12288, 11264, 8.6
NVIDIA GeForce GTX 1660, SUPER, 6144, 5120, 7.5
"""
ROCM = """\
{"card0": {"Card Series": "Radeon RX 7900 XTX", "VRAM Total Memory (B)": "25753026560",
           "VRAM Total Used Memory (B)": "753026560"},
 "card1": {"Card Series": "of no memory"}, "system": {"Driver version": "6.8"}}
"""
BUILD = """\
from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'rocm', 'xpu']
__version__ = '{version}'
debug = False
cuda: Optional[str] = {cuda}
git_version = 'cf30153c4c131c8164ee7798e5022d810682e2cb'
hip: Optional[str] = {hip}
"""


def asked(nvidia: Answer = ABSENT, rocm: Answer = ABSENT, hardware: Path = Path("/no")):
    def ask(command: Sequence[str]) -> Answer:
        return nvidia if command[0] == "nvidia-smi" else rocm

    return find_cards(ask, hardware)


def test_cards_are_told_by_name_memory_and_capability() -> None:
    cards, problem = asked(nvidia=Answer(True, True, SMI))
    assert problem == ""
    assert cards == (
        GpuCard("NVIDIA GeForce RTX 3060", Memory(12288 * MIB, 11264 * MIB), (8, 6)),
        GpuCard("NVIDIA GeForce GTX 1660, SUPER", Memory(6144 * MIB, 5120 * MIB), (7, 5)),
    )
    assert [card.has_bf16 for card in cards] == [True, False]


def test_a_card_that_shares_main_memory_has_main_memory() -> None:
    (card,), _ = asked(nvidia=Answer(True, True, "NVIDIA GB10, [N/A], [N/A], 12.1\n"))
    assert card.memory.total == machine.main_memory().total and card.capability == (12, 1)


def test_amd_cards_are_told_too() -> None:
    cards, problem = asked(rocm=Answer(True, True, ROCM))
    assert cards == (GpuCard("Radeon RX 7900 XTX", Memory(25753026560, 25 * 10**9), maker="AMD"),)
    assert problem == "" and cards[0].has_bf16


@pytest.mark.parametrize("text", ["", "no devices", "{", "[1]", '{"card0": {}, "card1": 2}'])
def test_answers_that_make_no_sense_are_no_cards(text: str) -> None:
    good = Answer(True, True, text)
    assert asked(nvidia=good, rocm=good).found == ()


def test_a_driver_that_fails_is_quoted() -> None:
    failed = Answer(True, False, "\nFailed to initialize NVML: Insufficient Permissions\nmore")
    assert asked(nvidia=failed) == (
        (),
        "nvidia-smi says: Failed to initialize NVML: Insufficient Permissions",
    )


def test_a_card_without_a_driver_is_noticed(tmp_path: Path) -> None:
    for name, vendor, kind in (("a", "0x8086", "0x020000"), ("b", "0x10de", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(vendor + "\n")
        (tmp_path / name / "class").write_text(kind + "\n")
    assert "driver is not installed" in asked(hardware=tmp_path).problem
    (tmp_path / "b" / "class").write_text("0x040300\n")  # the sound chip of such a card
    assert asked(hardware=tmp_path).problem == ""


@pytest.mark.parametrize(
    ("version", "cuda", "hip", "build"),
    [
        ("2.13.0+cpu", "None", "None", TorchBuild("2.13.0+cpu")),
        ("2.13.0+cu130", "'13.0'", "None", TorchBuild("2.13.0+cu130", cuda="13.0")),
        ("2.13.0+rocm6.4", "None", "'6.4.1'", TorchBuild("2.13.0+rocm6.4", rocm="6.4.1")),
    ],
)
def test_pytorch_says_what_it_was_built_for(
    version: str, cuda: str, hip: str, build: TorchBuild, tmp_path: Path
) -> None:
    note = tmp_path / "version.py"
    note.write_text(BUILD.format(version=version, cuda=cuda, hip=hip))
    assert torch_build(note) == build
    assert build.has_gpu == ("+cpu" not in version)
    assert torch_build(tmp_path / "none.py") is None


def test_the_installed_pytorch_is_told_without_importing_it() -> None:
    code = (
        "import sys\nfrom acestep.runtime.machine import torch_build\n"
        "build = torch_build()\nassert 'torch' not in sys.modules\n"
        "import torch\nassert build.version == torch.__version__\n"
        "assert build.cuda == torch.version.cuda and build.rocm == torch.version.hip"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_only_flags_that_decide_something_are_told(tmp_path: Path) -> None:
    table = tmp_path / "cpuinfo"
    table.write_text("processor : 0\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile\n")
    flags = cpu_flags(table)
    assert flags == {"avx2", "avx512_bf16"}
    assert Processor("x", flags).has_bf16 and not Processor("x", frozenset({"avx2"})).has_bf16
    assert cpu_flags(tmp_path / "none") is None and not Processor("x").has_bf16


def test_cards_are_usable_only_by_a_pytorch_that_was_built_for_them() -> None:
    card = GpuCard("a card", Memory(1, 1), (9, 0))
    here = Computer(Memory(2, 1), Processor("x"), (card,), torch=TorchBuild("2.13.0+cpu"))
    assert here.usable_gpus == ()
    there = Computer(Memory(2, 1), Processor("x"), (card,), torch=TorchBuild("2", cuda="13.0"))
    assert there.usable_gpus == (card,)
    radeon = GpuCard("another", Memory(1, 1), maker="AMD")
    both = Computer(Memory(2, 1), Processor("x"), (radeon, card), torch=TorchBuild("2", rocm="6"))
    assert both.usable_gpus == (radeon,)
    assert Computer(Memory(2, 1), Processor("x"), (card,)).usable_gpus == ()


def test_this_computer_answers() -> None:
    found = Computer.here()
    assert 0 < found.memory.free <= found.memory.total
    assert found.processor.name and found.torch is not None


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    computer = Memory(total=64, free=40)
    assert machine._contained(computer, tmp_path) == computer, "no limit"
    (tmp_path / "memory.max").write_text("max\n")
    assert machine._contained(computer, tmp_path) == computer
    for name, text in (("max", "16\n"), ("current", "12\n"), ("stat", "anon 7\ninactive_file 5\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert machine._contained(computer, tmp_path) == Memory(total=16, free=9)
