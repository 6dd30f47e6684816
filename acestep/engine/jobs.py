"""Jobs: what was asked, under which configuration, how far it is and what came of it. JSON all
through, so that they cross processes and survive restarts."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from acestep import errors
from acestep.errors import AceStepError, InvalidRequest
from acestep.progress import Stage

Action = Literal["render", "plan", "understand"]
State = Literal["waiting", "running", "done", "failed", "cancelled", "lost"]
NAME_LENGTH = 40  # characters of a caption in a job's name
ENDED: frozenset[State] = frozenset({"done", "failed", "cancelled", "lost"})


class Failure(BaseModel):
    """Why something did not end well: the error's class, the request field at fault if any, one
    sentence, and the exit code of the command line."""

    model_config = ConfigDict(frozen=True)

    type: str
    field: str | None = None
    message: str
    exit_code: int = 1

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """What an error says. One that nobody raised on purpose is a bug and says so."""
        if isinstance(error, Bug):
            return error.failure
        name = type(error).__name__
        if not isinstance(error, AceStepError):
            return cls(type=name, message=f"This is a bug: {name}: {error}.")
        field = error.field or None if isinstance(error, InvalidRequest) else None
        return cls(type=name, field=field, message=str(error), exit_code=error.exit_code)

    def to_error(self) -> AceStepError:
        """The error again, to be raised on this side of a process or a job."""
        kind = getattr(errors, self.type, None)
        if kind is InvalidRequest:
            return InvalidRequest(self.field or "", self.message)
        if isinstance(kind, type) and issubclass(kind, AceStepError):
            return kind(self.message)
        return Bug(self)


class Bug(AceStepError):
    """A bug that was told as a failure, by a job or from another process."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Event(BaseModel):
    """A job was at `done` of `total` units of a stage, `at` seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    at: float
    stage: Stage
    done: int
    total: int


class Take(BaseModel):
    """One finished take on disk; `path` is empty where nothing was to be saved. `duration` is
    seconds of music, `seconds` of work by stage; `report` is `EditReport.to_dict()`, `said` the
    same in sentences."""

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
        out: where songs go: a folder that numbers them, or one file name; empty saves nothing.
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

    @property
    def name(self) -> str:
        """What to call it in a sentence: its task, and the caption's or recording's first words."""
        task = self.action if self.action != "render" else str(self.request.get("task", "song"))
        words = str(self.request.get("caption") or self.request.get("source_audio") or "")
        if not self.request.get("caption"):
            words = words.replace("\\", "/").rpartition("/")[2]
        short = words if len(words) <= NAME_LENGTH else words[: NAME_LENGTH - 1] + "…"
        return f"{task} “{short}”" if short else task
