"""The one seam between the doors and what makes music."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

from acestep.config import ServiceConfig
from acestep.engine.jobs import Action, Event, Failure, Job
from acestep.request import MusicRequest, Preset
from acestep.request.asked import Asked

LONG_SECONDS = 120  # from which a time is told in minutes
Status = Literal["empty", "loading", "ready", "failed"]


class Loaded(BaseModel):
    """What the service runs on.

    Attributes:
        planner: in words, which LM plans and on which engine; empty without one.
        adapters: what each LoRA is and does, a sentence for each.
        memory: the plan's line, as the networks were loaded by it.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    preset: Preset
    has_planner: bool
    planner: str
    device: str
    seconds: float  # it took to load
    adapters: list[str] = []
    memory: str = ""


class EngineState(BaseModel):
    """Where the engine is.

    Attributes:
        config: what is loaded, or will be once `waiting_for` has ended.
        loading: how far a load is.
        failure: why the last load failed, or how the engine's process ended.
        waiting_for: the id of the job that a switch waits for.
        version: rises with every change of what is loaded; pages refit their forms to it.
    """

    model_config = ConfigDict(frozen=True)

    status: Status
    config: ServiceConfig
    loaded: Loaded | None = None
    loading: Event | None = None
    failure: Failure | None = None
    waiting_for: str | None = None
    version: int = 0


class Estimate(BaseModel):
    """What a job will take.

    Attributes:
        seconds: of work; None where nothing like it has run here yet.
        music: seconds of sound that it makes, of all takes; None where that is open.
    """

    model_config = ConfigDict(frozen=True)

    seconds: float | None
    music: float | None = None

    @property
    def sentence(self) -> str:
        """The same in words; empty where nothing is known."""
        if self.seconds is None or self.music is None:
            return ""
        long = self.seconds >= LONG_SECONDS
        words = f"{self.seconds / 60:.0f} min" if long else f"{max(self.seconds, 1):.0f} s"
        return f"About {words} for {self.music:.0f} s of music."


class MemoryLine(BaseModel):
    """What a song will take of a device's memory, in bytes.

    Attributes:
        sentence: the whole plan in one line.
        used: the most that is taken at once.
        budget: what may be taken.
        stages: the most that each stage takes.
        traded: what was given up for it to fit, a sentence for each.
    """

    model_config = ConfigDict(frozen=True)

    sentence: str
    used: int
    budget: int
    fits: bool
    stages: dict[str, int] = {}
    traded: list[str] = []


class DeviceRow(BaseModel):
    """A device that can be chosen: its name as settings take it, and what it is in words."""

    model_config = ConfigDict(frozen=True)

    name: str
    about: str


class SettingNote(BaseModel):
    """What there is to say of a setting under a configuration.

    Attributes:
        acts: changing it would change something; else the sentence says why not.
    """

    model_config = ConfigDict(frozen=True)

    sentence: str
    acts: bool = False


Change = Job | EngineState


class Engine(Protocol):
    """Runs jobs one after the other under the configuration each was submitted under. May be
    called from any thread."""

    @property
    def state(self) -> EngineState: ...

    def configure(self, config: ServiceConfig) -> None:
        """Load this after what runs and waits; jobs submitted from now on run under it."""
        ...

    def unload(self) -> None:
        """Give the memory back.

        Raises:
            Unavailable: a job runs or waits; the sentence names it.
        """
        ...

    def submit(self, request: Asked, *, action: Action = "render", out: str | None = None) -> Job:
        """Queue a job.

        Raises:
            InvalidRequest: the loaded checkpoint cannot do it.
            Unavailable: too many are waiting.
        """
        ...

    def jobs(self) -> Sequence[Job]:
        """Every job that is known, the newest first."""
        ...

    def job(self, id: str) -> Job:
        """One job.

        Raises:
            Unavailable: there is none with this id.
        """
        ...

    def cancel(self, id: str) -> None:
        """End a job: at once when it waits, at its next step, tile or token when it runs."""
        ...

    def rerun(self, id: str, config: ServiceConfig | None = None) -> Job:
        """Queue a job that is over once more, under its own configuration or another.

        Raises:
            Unavailable: there is none with this id, it is not over, or too many are waiting.
        """
        ...

    def subscribe(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Be told of every change; the answer ends it. Listeners must be quick."""
        ...

    def estimate(self, request: Asked) -> Estimate: ...

    def memory(self, config: ServiceConfig, request: MusicRequest | None = None) -> MemoryLine:
        """What a song takes under a configuration, computed without loading it; None is the usual
        song of its checkpoint.

        Raises:
            ModelMissing, CheckpointError, Unavailable: it could not be loaded at all.
            AudioError: the song to be changed cannot be read.
        """
        ...

    def devices(self) -> Sequence[DeviceRow]:
        """What there is to run on, the best first."""
        ...

    def notes(self, config: ServiceConfig) -> Mapping[str, SettingNote]:
        """By field, what there is to say of settings under a configuration: those that would change
        nothing there, above all."""
        ...

    def close(self) -> None:
        """Cancel what runs, keep what waits for the next start, free everything."""
        ...
