"""Memory plans of a computer that has room for everything."""

from acestep.runtime.folders import Folders
from acestep.runtime.machine import Memory
from acestep.runtime.memory_plan import DeviceFacts, Hardware, MemoryPlan, Wishes, plan_memory
from acestep.runtime.sizes import Sizes

ROOM = Memory(total=10**12, free=10**12)
ROOMY = Hardware(DeviceFacts("cpu", ROOM), ROOM)


def roomy_plan(folders: Folders) -> MemoryPlan:
    """Everything resident on the CPU."""
    return plan_memory(Sizes.read(folders), ROOMY, Wishes())
