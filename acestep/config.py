"""How the service runs: what a request is to a song, this is to the service.

Panel, command line, `ACESTEP_*` variables, `config.toml` and the recipe's service part are
generated from these fields; no function lists them again.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from acestep.request.schema import Schema, extra, setting

DEFAULT_MODEL = "acestep-v15-nano-turbo"
AUTO = "auto"
NO_LM = "none"
BackendName = Literal["auto", "pt", "vllm"]


def _no_lm(value: object) -> object:
    """In Python, None says it as well."""
    return NO_LM if value is None else value


class ServiceConfig(Schema):
    """Which models run, on which engine and device."""

    model: str = setting(
        DEFAULT_MODEL, "models", "Main Model Path",
        "The music model (DiT): a name from `acestep models list`, or a folder.",
        metavar="NAME|PATH", widget="model",
    )  # fmt: skip
    lm: Annotated[str, BeforeValidator(_no_lm)] = setting(
        AUTO, "models", "5Hz LM Model Path",
        "Plans the song for Think: a name or a folder; auto is the one that fits the model, if it "
        "is on this computer; none does without.",
        metavar="NAME|PATH|none", widget="lm",
    )  # fmt: skip
    backend: BackendName = setting(
        "auto", "models", "5Hz LM Backend",
        "Engine of the 5Hz LM: pt runs everywhere, vllm is faster on NVIDIA; auto tries vllm first "
        "where it is installed.",
        recorded=True,
    )  # fmt: skip
    device: str = setting(
        AUTO, "models", "Device", "auto, cuda, cuda:N, mps or cpu.",
        metavar="DEVICE", widget="device", recorded=True,
    )  # fmt: skip
    lm_device: str = setting(
        AUTO, "models", "LM Device", "Device of the 5Hz LM; auto is that of the music model.",
        metavar="DEVICE", widget="device", recorded=True,
    )  # fmt: skip
    checkpoints: Path | None = setting(
        None, "models", "Models Folder",
        "Where model folders are; empty is the program's own `checkpoints`.",
        metavar="DIR", widget="folder", flags=("--models-dir",),
    )  # fmt: skip

    def recorded(self) -> dict[str, Any]:
        """What a recipe keeps: the settings that may change samples."""
        fields = type(self).model_fields
        names = {name for name, field in fields.items() if extra(field)["recorded"]}
        return self.model_dump(mode="json", include=names)
