"""The checkpoint folders that one service runs on, found from its settings. Reads no weights."""

from dataclasses import dataclass
from pathlib import Path

from acestep.checkpoints.locate import Checkpoints
from acestep.config import AUTO, NO_LM, ServiceConfig


@dataclass(frozen=True)
class Folders:
    """Where each network of one service lies."""

    dit: Path
    vae: Path
    text_encoder: Path
    lm: Path | None = None  # without one there is no planner


def find_folders(config: ServiceConfig, places: Checkpoints | None = None) -> Folders:
    """The complete folders that a service with these settings reads.

    Args:
        places: where to look; None is where the settings say.

    Raises:
        ModelMissing: a network is not on this computer, or nobody knows that name.
        CheckpointError: one is there, but incomplete or of another kind.
    """
    places = places or Checkpoints(config.checkpoints)
    dit = places.resolve(config.model, "dit")
    companions = places.companions(dit)
    return Folders(
        dit=dit,
        vae=companions.vae,
        text_encoder=companions.text_encoder,
        lm=_planner_folder(config, places, dit),
    )


def _planner_folder(config: ServiceConfig, places: Checkpoints, dit: Path) -> Path | None:
    """The 5Hz LM that plans for a music model; None where there is none, or none is wanted."""
    if config.lm == NO_LM:
        return None
    return places.planner(dit) if config.lm == AUTO else places.resolve(config.lm, "lm")
