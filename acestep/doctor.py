"""What this computer has, what it lacks, and what to do about it: the data behind
`acestep doctor`. Looks only: loads no model, fetches nothing, writes nothing."""

import importlib.metadata
import importlib.util
import platform
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from acestep.checkpoints.locate import Checkpoints, Installed
from acestep.config import DEFAULT_MODEL, ServiceConfig
from acestep.errors import AceStepError, AudioError, Unavailable
from acestep.media import audio
from acestep.planner.backends.vllm import unavailable
from acestep.runtime import devices
from acestep.runtime.devices import GIB, Machine
from acestep.runtime.machine import Computer, Memory
from acestep.runtime.preview import preview_plan

Verdict = Literal["ok", "warn", "fail"]

PACKAGES = ("torch", "xgrammar", "huggingface-hub", "gradio", "soundfile")
REAL_MODEL = "acestep-v15-turbo"
# uv finds the build that fits the driver. Without --reinstall-package it would keep what is there,
# and without --no-sync the next `uv run` would bring the locked build back.
MEND_TORCH = "uv pip install --torch-backend=auto --reinstall-package torch torch"
LITTLE_MEMORY_BYTES = 2 * GIB  # even the built-in demo takes half of it
ENOUGH_DISK_BYTES = 20 * 1000**3  # the 2B set with the largest planner


@dataclass(frozen=True)
class Check:
    """One finding. `advice` is what to do, empty when there is nothing to do.

    Attributes:
        status: ok; warn where something works less well; fail where nothing will sound.
    """

    name: str
    status: Verdict
    detail: str
    advice: str = ""


def examine(
    places: Checkpoints,
    *,
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int = 7860,
    machine: Machine | None = None,
    computer: Computer | None = None,
) -> list[Check]:
    """Look at everything that a song needs.

    Args:
        device: what the user would ask for; the check says whether it can be had.
        machine: what PyTorch computes on; None looks.
        computer: what its drivers say of this computer; None asks them.
    """
    machine, computer = machine or Machine.here(), computer or Computer.here()
    installed = places.installed()
    return [
        python_check(),
        packages_check(),
        device_check(device, machine),
        cards_check(computer, machine),
        memory_check(computer.memory),
        disk_check(places.root),
        *model_checks(installed),
        *plan_checks(device, places, installed, computer),
        formats_check(),
        vllm_check(importlib.util.find_spec("vllm") is not None, machine),
        port_check(host, port),
    ]


def python_check() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")


def packages_check(packages: Sequence[str] = PACKAGES) -> Check:
    """Versions of the packages that decide how the program behaves."""
    versions, missing = [], []
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        return Check(
            "Packages", "fail", f"{', '.join(missing)} missing", "Install the program again."
        )
    return Check("Packages", "ok", ", ".join(versions))


def device_check(name: str, machine: Machine) -> Check:
    """Where the networks would run."""
    try:
        device = devices.resolve_device(name, machine)
    except Unavailable as error:
        return Check("Device", "fail", str(error), "Use --device auto.")
    detail = f"{device}: {devices.device_name(device)}"
    if device.type != "cpu":
        return Check("Device", "ok", detail)
    return Check(
        "Device", "warn", detail,
        "Real models take minutes per song without a GPU; the built-in demo takes seconds.",
    )  # fmt: skip


def cards_check(computer: Computer, machine: Machine) -> Check:
    """The graphics cards, and which layer fails where one cannot be used: its driver, a permission,
    or a PyTorch that was built for something else."""
    if not computer.gpus:
        if computer.gpu_problem:
            return Check("GPUs", "warn", computer.gpu_problem, _driver_advice(computer.gpu_problem))
        return Check("GPUs", "ok", "Apple's" if computer.has_apple_gpu else "none")
    usable, build = computer.usable_gpus, computer.torch
    if not usable:
        card, version = computer.gpus[0], torch.__version__ if build is None else build.version
        return Check(
            "GPUs", "warn",
            f"{card.name} is here and its driver works, but the installed PyTorch ({version}) was "
            f"not built for {card.maker}",
            f"Run {MEND_TORCH}=={version.partition('+')[0]}, "
            "and start with uv run --no-sync acestep.",
        )  # fmt: skip
    if not machine.gpus:
        needs = "" if build is None or build.cuda is None else f" for CUDA {build.cuda}"
        return Check(
            "GPUs", "warn", f"{usable[0].name} is here, but PyTorch sees no GPU",
            f"Update the driver: this PyTorch needs one{needs}. If it is new enough, "
            "CUDA_VISIBLE_DEVICES may hide the card.",
        )  # fmt: skip
    cards = "; ".join(
        f"cuda:{number} {card.name}, {card.memory.free / GIB:.1f} of "
        f"{card.memory.total / GIB:.1f} GiB free" + ("" if card.has_bf16 else ", no bfloat16")
        for number, card in enumerate(usable)
    )
    if any(card.has_bf16 for card in usable):
        return Check("GPUs", "ok", cards)
    return Check(
        "GPUs", "warn", cards,
        "Models run in float32 here, which takes twice the memory: --int8 and --offload-dit help.",
    )  # fmt: skip


def _driver_advice(problem: str) -> str:
    if "not installed" in problem:
        return "Install the card's driver and restart the computer."
    if "permission" in problem.lower():
        return "Ask whoever runs this computer for access to its cards (groups video and render)."
    return "Install the card's driver anew and restart the computer."


def memory_check(memory: Memory) -> Check:
    """Main memory; the memory plan says what a model takes of it."""
    detail = f"{memory.free / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.free < LITTLE_MEMORY_BYTES:
        return Check("Memory", "warn", detail, "Close other programs.")
    return Check("Memory", "ok", detail)


def disk_check(folder: Path, free: int | None = None) -> Check:
    """Room for models where they are kept."""
    place = folder
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free if free is None else free
    detail = f"{free / 1e9:.0f} GB free in {_without_home(folder)}"
    if free < ENOUGH_DISK_BYTES:
        return Check(
            "Disk", "warn", detail, "A set of models takes up to 20 GB; choose another folder."
        )
    return Check("Disk", "ok", detail)


def model_checks(installed: Sequence[Installed]) -> list[Check]:
    """Music models and planners that can be used, and folders that cannot."""
    ready = [model for model in installed if model.state == "ready"]
    names = [model.name for model in ready if model.kind == "dit"]
    planners = [model.name for model in ready if model.kind == "lm"]
    get = f"For real songs: acestep models download {REAL_MODEL}"
    if not names:
        models = Check("Models", "fail", "no music model is here", get)
    elif all("-nano-" in name for name in names):
        models = Check("Models", "warn", f"only the built-in demo ({', '.join(names)})", get)
    else:
        models = Check("Models", "ok", ", ".join(names))
    broken = (
        Check(
            f"Model {model.name}", "warn", model.problems[0],
            f"Run acestep models download {model.name}",
        )
        for model in installed
        if model.state == "incomplete"
    )  # fmt: skip
    planner = Check("Planner", "ok", ", ".join(planners) or "none: Think is not available")
    return [models, planner, *broken]


def plan_checks(
    device: str, places: Checkpoints, installed: Sequence[Installed], computer: Computer
) -> list[Check]:
    """What the usual song takes of this computer's memory, with the best model that is here."""
    ready = [model for model in installed if (model.kind, model.state) == ("dit", "ready")]
    names = sorted(model.name for model in ready)
    if not names:
        return []
    real = [name for name in names if "-nano-" not in name]
    name = next((each for each in (REAL_MODEL, *real, DEFAULT_MODEL) if each in names), names[0])
    try:
        config = ServiceConfig(model=name, device=device, checkpoints=places.root)
        plan = preview_plan(config, places, computer)
    except AceStepError as error:
        return [Check("Memory plan", "warn", str(error), "Mend what is said above first.")]
    if plan.fits:
        return [Check("Memory plan", "ok", plan.sentence())]
    return [
        Check("Memory plan", "warn", plan.sentence(), "Or close other programs and look again.")
    ]


def formats_check() -> Check:
    """Every format that a song can be written in, tried."""
    silence = torch.zeros(2, audio.SAMPLE_RATE // 10)
    written, failed = [], []
    for name in get_args(audio.AudioFormat):
        try:
            audio.encode(silence, name)
            written.append(name)
        except (AudioError, OSError):  # OSError: libsndfile itself is not there
            failed.append(name)
    if failed:
        status = "warn" if "flac" in written else "fail"
        return Check(
            "Formats", status, f"{', '.join(failed)} cannot be written",
            "Install soundfile again: its own libsndfile writes them all.",
        )  # fmt: skip
    return Check("Formats", "ok", ", ".join(written))


def vllm_check(is_installed: bool, machine: Machine) -> Check:
    """vLLM is optional, and never tried out here: that takes a minute."""
    reason = unavailable(torch.device("cuda" if machine.gpus else "cpu"), is_installed)
    if reason is None:
        return Check("vLLM", "ok", "installed")
    if not is_installed:
        return Check("vLLM", "ok", f"{reason} The planner runs on the built-in backend.")
    return Check("vLLM", "warn", reason, "Use --backend pt.")


def port_check(host: str, port: int) -> Check:
    """Whether the page could open there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: a port whose last connection is just closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Check(
                "Port", "warn", f"{host}:{port} cannot be used ({error.strerror})",
                f"Use --port {port + 1}.",
            )  # fmt: skip
    return Check("Port", "ok", f"{host}:{port} is free")


def _without_home(path: Path) -> str:
    """For reports that people post: not under whose name they work."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
