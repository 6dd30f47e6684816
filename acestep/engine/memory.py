"""What the doors may ask of this computer: its devices, what a song would take of their memory, and
which settings would change nothing there. Loads no weights and imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from acestep.checkpoints.headers import weight_files
from acestep.config import AUTO, NO_LM, ServiceConfig, split_strength
from acestep.engine.engine import DeviceRow, MemoryLine, SettingNote
from acestep.engine.models import Checkpoints, chosen_loras, lora_folder, loras, size_text
from acestep.engine.songs import length
from acestep.errors import AceStepError, CheckpointError
from acestep.request import MusicRequest
from acestep.runtime.folders import find_folders
from acestep.runtime.machine import Computer
from acestep.runtime.memory_plan import MemoryPlan
from acestep.runtime.preview import preview_plan

SMALL_BYTES = 200_000_000  # of a model, below which storing it smaller saves nothing one would miss
NOTHING_TO_OFFLOAD: Mapping[str, str] = MappingProxyType(
    {
        "cpu": "Nothing to offload: everything already runs on the CPU.",
        "mps": "Nothing to offload: an Apple GPU computes in main memory.",
    }
)
NO_PLANNER = "No 5Hz LM is chosen that this could act on."


def memory_line(
    config: ServiceConfig, request: MusicRequest | None, computer: Computer
) -> MemoryLine:
    """What a song takes under a configuration; None is the usual song of its checkpoint.

    Args:
        computer: as it is while nothing is loaded.

    Raises:
        ModelMissing, CheckpointError, Unavailable: it, or an adapter, could not be loaded at all.
        AudioError: the song to be changed cannot be read.
    """
    places = Checkpoints(config.checkpoints)
    if unfit := [row.problem for row in chosen_loras(config, places) if row.problem]:
        raise CheckpointError(unfit[0])
    source = None if request is None else request.source_file
    seconds = None if source is None else length(source)
    return _told(preview_plan(config, places, computer, request, seconds))


def _told(plan: MemoryPlan) -> MemoryLine:
    """A plan as the doors show it; what does not fit is what its bar is about."""
    used, budget = plan.peak, plan.room
    if used <= budget and plan.main_memory > plan.main_budget:
        used, budget = plan.main_memory, plan.main_budget
    return MemoryLine(
        sentence=plan.sentence(),
        used=used,
        budget=budget,
        fits=plan.fits,
        stages={str(stage): peak for stage, peak in plan.peaks.items()},
        traded=list(plan.traded),
    )


def device_rows(computer: Computer) -> Sequence[DeviceRow]:
    """What there is to run on, the best first."""
    rows = [
        DeviceRow(name=f"cuda:{index}", about=f"{card.name}, {size_text(card.memory.free)} free")
        for index, card in enumerate(computer.usable_gpus)
    ]
    if computer.has_apple_gpu:
        rows.append(DeviceRow(name="mps", about="Apple GPU"))
    return [*rows, DeviceRow(name="cpu", about=computer.processor.name)]


def unused_cards(computer: Computer) -> str:
    """Why a card that is there cannot be chosen, in a sentence; empty when all can."""
    if computer.gpu_problem:
        problem = computer.gpu_problem
        return f"{problem[0].upper()}{problem[1:]}: `acestep doctor` says more."
    if computer.gpus and not computer.usable_gpus:
        name = computer.gpus[0].name
        return (
            f"{name} is here, but this PyTorch was not built for it: `acestep doctor` says what "
            "helps."
        )
    return ""


def setting_notes(
    config: ServiceConfig, devices: Sequence[DeviceRow], missed: str = ""
) -> dict[str, SettingNote]:
    """By field, what there is to say of settings under a configuration.

    Args:
        devices: what there is to run on, the best first.
        missed: about devices that should be among them.
    """
    notes: dict[str, SettingNote] = {}
    best = f"auto is {devices[0].name}: {devices[0].about}." if config.device == AUTO else ""
    if said := " ".join(filter(None, [best, missed])):
        notes["device"] = SettingNote(sentence=said, acts=True)
    device = devices[0].name if config.device == AUTO else config.device
    if device in NOTHING_TO_OFFLOAD:
        notes["offload_dit"] = SettingNote(sentence=NOTHING_TO_OFFLOAD[device])
    return {**notes, **_of_models(config), **_of_loras(config)}


def _of_models(config: ServiceConfig) -> dict[str, SettingNote]:
    """What the size of the models makes needless; nothing about models that are not here."""
    try:
        folders = find_folders(config)
    except AceStepError:
        return {} if config.lm != NO_LM else _of_planner()
    notes: dict[str, SettingNote] = {}
    if (size := _size(folders.dit)) < SMALL_BYTES:
        words = f"{folders.dit.name} is only {size_text(size)}: this saves next to nothing."
        notes["int8"] = SettingNote(sentence=words, acts=True)
    if folders.lm is None:
        return {**notes, **_of_planner()}
    if (size := _size(folders.lm)) < SMALL_BYTES:
        words = f"{folders.lm.name} is only {size_text(size)}: nothing is gained by 4 bits."
        notes["lm_nf4"] = SettingNote(sentence=words)
    return notes


def _of_planner() -> dict[str, SettingNote]:
    """What acts on the 5Hz LM, where there is none."""
    return {name: SettingNote(sentence=NO_PLANNER) for name in ("backend", "lm_device", "lm_nf4")}


def _of_loras(config: ServiceConfig) -> dict[str, SettingNote]:
    """What the chosen adapters are, and what is wrong with those that could be chosen."""
    places = Checkpoints(config.checkpoints)
    said = [row.problem or f"{row.name}: {row.about}." for row in chosen_loras(config, places)]
    there = loras(places, config.model)
    said += [row.problem for row in there if row.problem and row.problem not in said]
    if not there and not said:
        said.append(f"None is in {lora_folder(places)} yet: put one there, or type where it is.")
    notes = {"lora": SettingNote(sentence=" ".join(said), acts=True)} if said else {}
    if not config.lora:
        notes["lora_strength"] = SettingNote(sentence="Nothing to weigh: no LoRA is chosen.")
    elif all(split_strength(lora)[1] is not None for lora in config.lora):
        notes["lora_strength"] = SettingNote(sentence="Every LoRA here has a strength of its own.")
    return notes


def _size(folder: Path) -> int:
    """Bytes of a model's weights, as they are stored."""
    return sum(path.stat().st_size for path in weight_files(folder))
