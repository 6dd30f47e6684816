"""What a service would take of this computer's memory, from its settings and files alone."""

from acestep.checkpoints.locate import Checkpoints
from acestep.config import ServiceConfig
from acestep.request import MusicRequest
from acestep.runtime.demand import Demand
from acestep.runtime.folders import find_folders
from acestep.runtime.hardware import Hardware
from acestep.runtime.machine import Computer
from acestep.runtime.memory_plan import MemoryPlan, Wishes, plan_memory
from acestep.runtime.sizes import Sizes


def preview_plan(
    config: ServiceConfig,
    places: Checkpoints,
    computer: Computer,
    request: MusicRequest | None = None,
    seconds: float | None = None,
) -> MemoryPlan:
    """The plan of a song before anything is loaded.

    Args:
        places: where the models are.
        computer: as it is while nothing is loaded.
        request: None is the usual song of the checkpoint.
        seconds: of the song that the request starts from.

    Raises:
        ModelMissing, CheckpointError, Unavailable: it could not be loaded at all.
    """
    folders = find_folders(config, places)
    preset, has_planner = places.preset(folders.dit), folders.lm is not None
    demand = (
        Demand.usual(preset, has_planner=has_planner)
        if request is None
        else Demand.of(request, preset, has_planner=has_planner, seconds=seconds)
    )
    hardware = Hardware.of(config, computer)
    return plan_memory(Sizes.read(folders), hardware, Wishes.of(config), demand)
