"""The one seam between the doors and what makes music."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

from acestep.config import ServiceConfig
from acestep.engine.jobs import Action, Event, Failure, Job
from acestep.request import Preset
from acestep.request.asked import Asked

Status = Literal["empty", "loading", "ready", "failed"]


class Loaded(BaseModel):
    """What the service runs on. `planner` says in words which LM plans and on which engine; it is
    empty without one."""

    model_config = ConfigDict(frozen=True)

    model: str
    preset: Preset
    has_planner: bool
    planner: str
    device: str
    seconds: float  # it took to load


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
    """What a job will take. None where nothing like it has run here yet."""

    model_config = ConfigDict(frozen=True)

    seconds: float | None


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

    def rerun(self, id: str) -> Job:
        """Queue a job that is over once more, under its own configuration.

        Raises:
            Unavailable: there is none with this id, it is not over, or too many are waiting.
        """
        ...

    def subscribe(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Be told of every change; the answer ends it. Listeners must be quick."""
        ...

    def estimate(self, request: Asked) -> Estimate: ...

    def close(self) -> None:
        """Cancel what runs, keep what waits for the next start, free everything."""
        ...
