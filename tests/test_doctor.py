"""What the doctor says about good, poor and broken computers."""

import dataclasses
import socket
from pathlib import Path

import pytest

from acestep import doctor
from acestep.checkpoints.locate import Checkpoints, FolderState, Installed
from acestep.runtime.devices import GIB, Machine
from acestep.runtime.machine import Computer, GpuCard, Memory, Processor, TorchBuild

NO_GPU = Machine()


def model(
    name: str, kind: str = "dit", state: FolderState = "ready", problem: str = ""
) -> Installed:
    assert kind in ("dit", "lm")
    problems = (problem,) if problem else ()
    return Installed(name, "dit" if kind == "dit" else "lm", state, None, 1, "", problems)


def test_an_examination_covers_the_whole_way_to_a_song(tmp_path: Path) -> None:
    places = Checkpoints(tmp_path, cache=tmp_path, shipped=tmp_path)
    checks = {check.name: check for check in doctor.examine(places, machine=NO_GPU)}
    assert list(checks) == [
        "Python", "Packages", "Device", "GPUs", "Memory", "Disk", "Models", "Planner", "Formats",
        "vLLM", "Port",
    ]  # fmt: skip
    assert all(check.detail for check in checks.values())
    assert checks["Models"].status == "fail"
    assert checks["Python"].status == checks["Packages"].status == "ok"


def test_every_warning_comes_with_advice(tmp_path: Path) -> None:
    places = Checkpoints(tmp_path, cache=tmp_path, shipped=tmp_path)
    for check in doctor.examine(places, machine=NO_GPU):
        assert check.status == "ok" or check.advice, check


def test_a_device_that_cannot_be_had_fails_with_its_reason() -> None:
    check = doctor.device_check("cuda:1", NO_GPU)
    assert check.status == "fail"
    assert check.detail == "cuda:1 cannot be had: this PyTorch was built without CUDA."


def test_a_cpu_works_and_is_called_slow() -> None:
    check = doctor.device_check("auto", NO_GPU)
    assert (check.status, check.detail.split(":")[0]) == ("warn", "cpu")
    assert check.detail.endswith((" thread)", " threads)"))


def computer(*cards: GpuCard, problem: str = "", build: TorchBuild | None = None) -> Computer:
    return Computer(
        Memory(32 * GIB, 24 * GIB),
        Processor("a processor"),
        cards,
        gpu_problem=problem,
        torch=build or TorchBuild("2.13.0+cu130", cuda="13.0"),
    )


CARD = GpuCard("NVIDIA GeForce RTX 3060", Memory(12 * GIB, 11 * GIB), (8, 6))
OLD_CARD = GpuCard("NVIDIA GeForce GTX 1660", Memory(6 * GIB, 5 * GIB), (7, 5))
RADEON = GpuCard("Radeon RX 7900 XTX", Memory(24 * GIB, 23 * GIB), maker="AMD")
SEEN = Machine(gpus=((8, 6),), has_cuda=True)
UNSEEN = Machine(has_cuda=True)


@pytest.mark.parametrize(
    ("found", "machine", "status", "detail", "advice"),
    [
        (computer(), NO_GPU, "ok", "none", ""),
        (computer(CARD), SEEN, "ok", "cuda:0 NVIDIA GeForce RTX 3060, 11.0 of 12.0 GiB free", ""),
        (
            computer(CARD, build=TorchBuild("2.13.0+cpu")),
            NO_GPU,
            "warn",
            "the installed PyTorch (2.13.0+cpu) was not built for NVIDIA",
            "uv pip install --torch-backend=auto --reinstall-package torch torch==2.13.0,",
        ),
        (computer(RADEON), UNSEEN, "warn", "was not built for AMD", "--torch-backend=auto"),
        (computer(CARD), UNSEEN, "warn", "PyTorch sees no GPU", "needs one for CUDA 13.0"),
        (computer(OLD_CARD), SEEN, "warn", "5.0 of 6.0 GiB free, no bfloat16", "--int8"),
        (
            computer(problem="an NVIDIA card is plugged in, but its driver is not installed"),
            NO_GPU,
            "warn",
            "driver is not installed",
            "Install the card's driver",
        ),
        (
            computer(problem="nvidia-smi says: Insufficient Permissions"),
            NO_GPU,
            "warn",
            "Insufficient Permissions",
            "groups video and render",
        ),
        (
            computer(problem="nvidia-smi says: Driver/library version mismatch"),
            NO_GPU,
            "warn",
            "version mismatch",
            "driver anew",
        ),
    ],
)
def test_the_layer_that_keeps_a_card_from_being_used_is_named(
    found: Computer, machine: Machine, status: str, detail: str, advice: str
) -> None:
    check = doctor.cards_check(found, machine)
    assert check.status == status and detail in check.detail and advice in check.advice
    assert bool(check.advice) == (status == "warn")


def test_every_card_is_listed_by_its_number() -> None:
    check = doctor.cards_check(computer(CARD, OLD_CARD), SEEN)
    assert check.status == "ok"
    assert "cuda:0 NVIDIA GeForce RTX 3060" in check.detail
    assert "cuda:1 NVIDIA GeForce GTX 1660, 5.0 of 6.0 GiB free, no bfloat16" in check.detail


def test_the_memory_plan_of_the_best_model_here_is_told(tiny_models: Path) -> None:
    places = Checkpoints(tiny_models, cache=tiny_models, shipped=tiny_models)
    installed = places.installed()
    (check,) = doctor.plan_checks("cpu", places, installed, computer())
    assert check.status == "ok" and check.detail.startswith("acestep-v15-nano-turbo in float32")
    small = dataclasses.replace(computer(), memory=Memory(2 * GIB, GIB // 4))
    (check,) = doctor.plan_checks("auto", places, installed, small)
    assert check.status == "warn" and check.detail.startswith("Does not fit: ") and check.advice
    (check,) = doctor.plan_checks("cuda", places, installed, computer())
    assert (check.status, check.detail) == ("warn", "cuda cannot be had: PyTorch sees no GPU.")
    assert doctor.plan_checks("cpu", places, [], computer()) == []


def test_little_free_memory_is_said() -> None:
    assert doctor.memory_check(Memory(32 * GIB, 20 * GIB)).status == "ok"
    poor = doctor.memory_check(Memory(8 * GIB, GIB))
    assert (poor.status, poor.detail) == ("warn", "1.0 of 8.0 GiB free")


def test_the_disk_is_that_of_the_models_folder_even_before_it_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    assert doctor.disk_check(folder, free=500 * 10**9).status == "ok"
    check = doctor.disk_check(folder, free=3 * 10**9)
    assert (check.status, check.detail) == ("warn", f"3 GB free in {folder}")
    assert doctor.disk_check(folder).detail.endswith(str(folder))


def test_a_report_does_not_tell_the_users_name() -> None:
    check = doctor.disk_check(Path.home() / "models", free=1)
    assert check.detail == f"0 GB free in {Path('~/models')}"


@pytest.mark.parametrize(
    ("installed", "status", "detail"),
    [
        ([], "fail", "no music model is here"),
        ([model("acestep-5Hz-lm-4B", "lm")], "fail", "no music model is here"),
        ([model("acestep-v15-turbo", state="missing")], "fail", "no music model is here"),
        (
            [model("acestep-v15-nano-turbo")],
            "warn",
            "only the built-in demo (acestep-v15-nano-turbo)",
        ),
        (
            [model("acestep-v15-nano-turbo"), model("mine")],
            "ok",
            "acestep-v15-nano-turbo, mine",
        ),
    ],
)
def test_models_are_enough_when_a_real_one_is_there(
    installed: list[Installed], status: str, detail: str
) -> None:
    check = doctor.model_checks(installed)[0]
    assert (check.status, check.detail) == (status, detail)


def test_a_broken_model_is_named_with_its_problem_and_cure() -> None:
    checks = doctor.model_checks([model("acestep-v15-base", "dit", "incomplete", "It is torn.")])
    broken = checks[-1]
    assert (broken.name, broken.status, broken.detail) == (
        "Model acestep-v15-base",
        "warn",
        "It is torn.",
    )
    assert broken.advice == "Run acestep models download acestep-v15-base"


def test_every_format_can_be_written_here() -> None:
    check = doctor.formats_check()
    assert check.status == "ok"
    assert {"flac", "wav", "mp3", "ogg", "opus"} <= set(check.detail.split(", "))


def test_a_missing_package_fails() -> None:
    check = doctor.packages_check(["torch", "no-such-package"])
    assert (check.status, check.detail) == ("fail", "no-such-package missing")


def test_vllm_is_optional_and_what_it_lacks_is_named() -> None:
    gpu = Machine(gpus=((9, 0),), has_cuda=True)
    found = {
        (is_installed, bool(machine.gpus)): doctor.vllm_check(is_installed, machine)
        for is_installed in (False, True)
        for machine in (NO_GPU, gpu)
    }
    assert {case: check.status for case, check in found.items()} == {
        (False, False): "ok", (False, True): "ok", (True, False): "warn", (True, True): "ok",
    }  # fmt: skip
    assert "uv sync --extra vllm" in found[False, True].detail
    assert "NVIDIA GPU" in found[False, False].detail and "NVIDIA GPU" in found[True, False].detail


def test_a_taken_port_is_seen() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        check = doctor.port_check("127.0.0.1", port)
        assert check.status == "warn" and check.advice == f"Use --port {port + 1}."
    assert doctor.port_check("127.0.0.1", port).status == "ok"
