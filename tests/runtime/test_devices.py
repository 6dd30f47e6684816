"""Which device a name means, and why another one cannot be had; what memory there is."""

import pytest
import torch

from acestep.errors import Unavailable
from acestep.runtime import devices
from acestep.runtime.devices import Machine

BARE = Machine()
IDLE_CUDA = Machine(has_cuda=True)
ONE_GPU = Machine(gpus=((9, 0),), has_cuda=True)
TWO_GPUS = Machine(gpus=((9, 0), (7, 5)), has_cuda=True)
MAC = Machine(has_mps=True)


@pytest.mark.parametrize(
    ("machine", "device"), [(BARE, "cpu"), (IDLE_CUDA, "cpu"), (MAC, "mps"), (TWO_GPUS, "cuda:0")]
)
def test_auto_takes_the_fastest_device(machine: Machine, device: str) -> None:
    assert devices.resolve_device("auto", machine) == torch.device(device)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1"])
def test_a_device_that_is_there_is_the_one_asked_for(name: str) -> None:
    device = devices.resolve_device(name, TWO_GPUS)
    assert str(device) == {"cuda": "cuda:0"}.get(name, name)


@pytest.mark.parametrize(
    ("name", "machine", "sentence"),
    [
        ("cuda:1", ONE_GPU, "cuda:1 does not exist (1 GPU found)."),
        ("cuda:7", TWO_GPUS, "cuda:7 does not exist (2 GPUs found)."),
        ("cuda", BARE, "cuda cannot be had: this PyTorch was built without CUDA."),
        ("cuda:0", IDLE_CUDA, "cuda:0 cannot be had: PyTorch sees no GPU."),
        ("mps", ONE_GPU, "mps needs a Mac with an Apple GPU, and PyTorch sees none here."),
        ("gpu", ONE_GPU, "'gpu' is not a device. Choose auto, cuda, cuda:N, mps or cpu."),
        ("cuda:-1", ONE_GPU, "'cuda:-1' is not a device. Choose auto, cuda, cuda:N, mps or cpu."),
    ],
)
def test_a_device_that_cannot_be_had_says_why(name: str, machine: Machine, sentence: str) -> None:
    with pytest.raises(Unavailable) as caught:
        devices.resolve_device(name, machine)
    assert str(caught.value) == sentence


def test_the_machine_under_the_test_has_a_cpu_with_memory() -> None:
    cpu = devices.resolve_device("cpu")
    found = devices.memory(cpu)
    assert 0 < found.free <= found.total
    assert devices.device_name(cpu).endswith((" thread)", " threads)"))


def test_what_our_own_networks_hold_counts_as_free() -> None:
    """They can be let go, so the next plan may use their memory."""
    cpu = torch.device("cpu")
    before, after = devices.hardware(cpu), devices.hardware(cpu, held={"cpu": 10**12})
    assert before.device.name == "cpu" and before.planner is None
    assert after.device.memory.free - before.device.memory.free > 9 * 10**11
    assert devices.hardware(cpu, cpu).planner is None, "a device of its own is another one"


def test_freed_memory_goes_back_to_the_system() -> None:
    devices.limit_memory(torch.device("cpu"), 4.0)  # a CPU has no driver to ask
    devices.give_back(torch.device("cpu"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
    ],
)
def test_memory_that_ran_out_is_recognised_on_every_device(error: BaseException) -> None:
    assert devices.is_out_of_memory(error)


def test_the_cpu_allocator_of_this_pytorch_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert devices.is_out_of_memory(caught.value)


def test_other_errors_are_not_mistaken_for_memory() -> None:
    assert not devices.is_out_of_memory(RuntimeError("shape mismatch"))
    assert not devices.is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    ("device", "waits"),
    [("cpu", []), ("cuda:1", [("cuda", torch.device("cuda:1"))]), ("mps", [("mps",)])],
)
def test_only_what_computes_behind_the_program_is_waited_for(
    device: str, waits: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No machine has both kinds of GPU, so PyTorch's own calls are recorded."""
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *which: asked.append(("cuda", *which)))
    monkeypatch.setattr(torch.mps, "synchronize", lambda *which: asked.append(("mps", *which)))
    devices.synchronize(torch.device(device))
    assert asked == waits


@pytest.mark.gpu
def test_a_real_gpu_has_nothing_left_to_do_after_waiting_for_it() -> None:
    device = devices.resolve_device("cuda")
    matrix = torch.randn(8192, 8192, device=device)
    with torch.cuda.device(device):
        done = torch.cuda.Event()
        for _ in range(20):
            matrix = matrix @ matrix
        done.record()
        assert not done.query(), "20 products of 1.1 TFLOP take longer than to ask for them"
        devices.synchronize(device)
        assert done.query()


@pytest.mark.gpu
def test_a_real_gpu_is_named_with_its_memory() -> None:
    device = devices.resolve_device("auto")
    assert device.type == "cuda"
    assert devices.device_name(device).endswith(" GiB)")
    assert 0 < devices.memory(device).free <= devices.memory(device).total
    assert devices.has_bf16(device) == (torch.cuda.get_device_capability(device) >= (8, 0))
