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
from acestep.errors import AudioError, Unavailable
from acestep.media import audio
from acestep.planner.backends.vllm import unavailable
from acestep.runtime import devices
from acestep.runtime.devices import GIB, Machine, Memory

Verdict = Literal["ok", "warn", "fail"]

PACKAGES = ("torch", "transformers", "huggingface-hub", "gradio", "soundfile")
REAL_MODEL = "acestep-v15-turbo"
ENOUGH_DISK_BYTES = 20 * 1000**3  # the 2B set with the largest planner
ENOUGH_MEMORY_BYTES = 9 * GIB  # the 2B set in main memory


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
) -> list[Check]:
    """Look at everything that a song needs.

    Args:
        device: what the user would ask for; the check says whether it can be had.
        machine: what PyTorch computes on; None looks.
    """
    machine = machine or Machine.here()
    return [
        python_check(),
        packages_check(),
        device_check(device, machine),
        memory_check(devices.memory(torch.device("cpu"))),
        disk_check(places.root),
        *model_checks(places.installed()),
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
    """Where the networks would run, and in which precision."""
    try:
        device = devices.resolve_device(name, machine)
    except Unavailable as error:
        return Check("Device", "fail", str(error), "Use --device auto.")
    dtype = str(devices.working_dtype(device, machine)).removeprefix("torch.")
    detail = f"{device}: {devices.device_name(device)}, {dtype}"
    if device.type != "cpu":
        free = devices.memory(device).free / GIB
        return Check("Device", "ok", f"{detail}, {free:.1f} GiB free")
    return Check(
        "Device", "warn", detail,
        "Real models take minutes per song without a GPU; the built-in demo takes seconds.",
    )  # fmt: skip


def memory_check(memory: Memory) -> Check:
    detail = f"{memory.free / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.free < ENOUGH_MEMORY_BYTES:
        return Check(
            "Memory", "warn", detail,
            f"A real model needs about {ENOUGH_MEMORY_BYTES / GIB:.0f} GiB: close other programs, "
            "or use the built-in demo.",
        )  # fmt: skip
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
