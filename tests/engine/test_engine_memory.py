"""What an engine tells of its computer before anything is loaded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeService, until
from model_folders import write_lora

from acestep.config import ServiceConfig
from acestep.engine import memory
from acestep.engine.engine import DeviceRow
from acestep.engine.local import LocalEngine
from acestep.engine.runner import InProcessRunner
from acestep.engine.table import JobTable
from acestep.errors import CheckpointError, ModelMissing, Unavailable
from acestep.request import Text2Music
from acestep.runtime.machine import Computer, GpuCard, Memory, Processor, TorchBuild

GB = 10**9
CUDA, CPU_ONLY = TorchBuild("2.13.0+cu130", cuda="13.0"), TorchBuild("2.13.0+cpu")
CARDS = (
    GpuCard("GeForce RTX 3060", Memory(8 * GB, 7 * GB), (8, 6)),
    GpuCard("GeForce GTX 1080", Memory(8 * GB, 8 * GB), (6, 1)),
)


def computer(**facts: Any) -> Computer:
    return Computer(Memory(16 * GB, 12 * GB), Processor("a CPU"), **facts)


def test_the_best_device_comes_first_and_a_card_says_what_is_free() -> None:
    rows = memory.device_rows(computer(gpus=CARDS, torch=CUDA))
    assert [row.name for row in rows] == ["cuda:0", "cuda:1", "cpu"]
    assert rows[0].about == "GeForce RTX 3060, 7.0 GB free" and rows[2].about == "a CPU"
    apple = memory.device_rows(computer(has_apple_gpu=True))
    assert [row.name for row in apple] == ["mps", "cpu"]


def test_a_card_that_cannot_be_chosen_is_explained() -> None:
    unbuilt = computer(gpus=CARDS, torch=CPU_ONLY)
    assert [row.name for row in memory.device_rows(unbuilt)] == ["cpu"]
    assert "GeForce RTX 3060 is here, but this PyTorch was not built" in memory.unused_cards(
        unbuilt
    )
    broken = computer(gpu_problem="nvidia-smi says: no driver", torch=CUDA)
    assert memory.unused_cards(broken).startswith("Nvidia-smi says: no driver")
    assert memory.unused_cards(computer(gpus=CARDS, torch=CUDA)) == ""


@pytest.mark.parametrize(
    ("devices", "config", "sentence"),
    [
        (["cpu"], {}, "everything already runs on the CPU"),
        (["cuda:0", "cpu"], {"device": "cpu"}, "everything already runs on the CPU"),
        (["mps", "cpu"], {}, "an Apple GPU computes in main memory"),
        (["cuda:0", "cpu"], {}, None),
        (["cpu"], {"device": "cuda"}, None),
    ],
)
def test_offload_acts_only_beside_a_gpu_with_a_memory_of_its_own(
    devices: list[str], config: dict[str, Any], sentence: str | None
) -> None:
    rows = [DeviceRow(name=name, about="x") for name in devices]
    note = memory.setting_notes(ServiceConfig(**config), rows).get("offload_dit")
    assert (note is None) if sentence is None else (note is not None and sentence in note.sentence)
    assert note is None or not note.acts


def test_a_lora_says_what_it_is_and_which_names_its_own_strength(tmp_path: Path) -> None:
    warm = str(write_lora(tmp_path / "loras" / "warm.safetensors"))

    def said(*loras: str) -> dict[str, Any]:
        config = ServiceConfig(checkpoints=tmp_path, lora=loras)
        return dict(memory.setting_notes(config, [DeviceRow(name="cpu", about="x")]))

    assert said("warm", f"{warm}:0.5")["lora"].sentence == (
        f"warm: LoRA, rank 2. {warm}: LoRA, rank 2."
    )
    assert "lora_strength" not in said("warm", f"{warm}:0.5")
    assert said("warm:1")["lora_strength"].sentence == "Every LoRA here has a strength of its own."
    assert "'cold' is not on this computer" in said("cold")["lora"].sentence


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEngine]:
    """A real engine on a computer with two cards, of which one service takes what it likes."""
    free = iter([7 * GB, 1 * GB, 6 * GB])

    def here() -> Computer:
        card = GpuCard("a GPU", Memory(8 * GB, next(free)), (8, 6))
        return computer(gpus=(card,), torch=CUDA)

    monkeypatch.setattr(Computer, "here", here)
    monkeypatch.setattr("acestep.engine.local.LOOK_SECONDS", 0.0)
    runner = InProcessRunner(FakeService().load)
    engine = LocalEngine(runner, JobTable.in_memory(), tmp_path)
    yield engine
    engine.close()


def test_what_is_loaded_here_counts_as_free(engine: LocalEngine) -> None:
    engine.configure(ServiceConfig())
    until(lambda: engine.state.status == "ready")
    assert engine.devices()[0].about == "a GPU, 7.0 GB free"
    before = engine.memory(ServiceConfig()).budget
    assert before == engine.memory(ServiceConfig()).budget > 6 * GB
    engine.unload()
    assert engine.devices()[0].about == "a GPU, 1.0 GB free"  # another program took it


def test_the_plan_is_computed_from_the_files_alone(engine: LocalEngine) -> None:
    usual = engine.memory(ServiceConfig())
    assert usual.fits and usual.used == max(usual.stages.values()) <= usual.budget
    assert usual.stages.keys() >= {"planning", "conditioning", "rendering", "decoding"}


def test_a_longer_song_takes_more_and_a_limit_is_kept(engine: LocalEngine) -> None:
    short, long = (
        engine.memory(ServiceConfig(device="cpu"), Text2Music(caption="x", duration=seconds))
        for seconds in (10, 600)
    )
    assert short.used < long.used
    limited = ServiceConfig(device="cpu", memory_limit=0.5)
    refused = engine.memory(limited, Text2Music(caption="x", duration=600, takes=8))
    assert not refused.fits and refused.budget == 500_000_000 < refused.used
    assert refused.sentence.startswith("Does not fit: acestep-v15-nano-turbo needs")


def test_what_cannot_be_loaded_has_no_plan(engine: LocalEngine) -> None:
    with pytest.raises(ModelMissing):
        engine.memory(ServiceConfig(model="acestep-v15-base"))
    with pytest.raises(Unavailable, match="cuda:5 does not exist"):
        engine.memory(ServiceConfig(device="cuda:5"))
    with pytest.raises(CheckpointError, match="'nowhere' is not on this computer"):
        engine.memory(ServiceConfig(lora=("nowhere:0.5",)))
