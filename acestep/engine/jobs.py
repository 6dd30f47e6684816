"""Jobs: what was asked, under which configuration, how far it is and what came of it. JSON all
through, so that they cross processes and survive restarts."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from acestep.progress import Stage

Action = Literal["render", "plan", "understand"]
State = Literal["waiting", "running", "done", "failed", "cancelled", "lost"]
ENDED: frozenset[State] = frozenset({"done", "failed", "cancelled", "lost"})


class Failure(BaseModel):
    """Why something did not end well: the error's class, the request field at fault if any, one
    sentence, and the exit code of the command line."""

    model_config = ConfigDict(frozen=True)

    type: str
    field: str | None = None
    message: str
    exit_code: int = 1


class Event(BaseModel):
    """A job was at `done` of `total` units of a stage, `at` seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    at: float
    stage: Stage
    done: int
    total: int


class Take(BaseModel):
    """One finished take on disk. `duration` is seconds of music, `seconds` of work by stage;
    `report` is `EditReport.to_dict()`, `said` the same in sentences."""

    model_config = ConfigDict(frozen=True)

    path: str
    take: int
    seed: int
    duration: float
    seconds: dict[str, float]
    warnings: list[str] = []
    report: dict[str, Any] | None = None
    said: list[str] = []
    sha256: str = ""
    recipe: dict[str, Any] = {}


class Outcome(BaseModel):
    """What came of a job: takes of a render, a plan of a plan or an understanding."""

    model_config = ConfigDict(frozen=True)

    takes: list[Take] = []
    plan: dict[str, Any] | None = None
    model: str = ""
    device: str = ""
    seconds: dict[str, float] = {}  # loading, and the whole as "total"


class Job(BaseModel):
    """One thing to do.

    Attributes:
        request: `MusicRequest` as JSON data; of an understanding, a `Recording`.
        config: the `ServiceConfig` it was submitted under, as JSON data.
        out: where songs go: a folder that numbers them, or one file name.
        events: the last of each stage, in the order the stages began.
        created, started, ended: seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    action: Action = "render"
    request: dict[str, Any]
    config: dict[str, Any]
    out: str
    state: State = "waiting"
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    events: list[Event] = []
    outcome: Outcome | None = None
    failure: Failure | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ENDED
