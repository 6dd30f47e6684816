"""The devices that one service runs on, as far as memory depends on them."""

from dataclasses import dataclass
from typing import Self

from acestep.config import AUTO, ServiceConfig
from acestep.runtime.machine import Computer, Memory, choose_device
from acestep.runtime.precision import DeviceKind


@dataclass(frozen=True)
class DeviceFacts:
    """A device that networks may be on.

    Attributes:
        name: cuda:N, mps or cpu.
        memory: what it has in all, and free for this program: free memory plus what the program
            itself holds there and will let go.
        has_bf16: whether it multiplies in bfloat16.
    """

    name: str
    memory: Memory
    has_bf16: bool = False

    @property
    def kind(self) -> DeviceKind:
        if self.name == "mps" or self.name == "cpu":
            return self.name
        return "cuda"

    @property
    def shares_memory(self) -> bool:
        """Whether main memory is its memory, so that nothing can wait there."""
        return self.kind != "cuda"


@dataclass(frozen=True)
class Hardware:
    """Where the networks run.

    Attributes:
        main: the computer's main memory.
        planner: the 5Hz LM's device where it has its own; None is the same.
    """

    device: DeviceFacts
    main: Memory
    planner: DeviceFacts | None = None

    @classmethod
    def of(cls, config: ServiceConfig, computer: Computer) -> Self:
        """The devices that a service with these settings uses, as far as drivers tell.

        Raises:
            Unavailable: a device was asked for and is not here.
        """
        device = _device(config.device, computer)
        planner = None if config.lm_device == AUTO else _device(config.lm_device, computer)
        return cls(device, computer.memory, None if planner == device else planner)

    @property
    def planner_device(self) -> DeviceFacts:
        return self.planner or self.device


def _device(name: str, computer: Computer) -> DeviceFacts:
    gpus = computer.usable_gpus
    chosen = choose_device(
        name,
        gpus=len(gpus),
        is_built_for_gpus=computer.torch is not None and computer.torch.has_gpu,
        has_mps=computer.has_apple_gpu,
    )
    if chosen.startswith("cuda"):
        card = gpus[int(chosen.removeprefix("cuda:"))]
        return DeviceFacts(chosen, card.memory, card.has_bf16)
    return DeviceFacts(chosen, computer.memory, chosen == "cpu" and computer.processor.has_bf16)
