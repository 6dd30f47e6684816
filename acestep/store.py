"""Which network is on which device.

The pipeline owns no weights: it borrows a part for the length of a `with` block. Two policies, and
no cleverer ones:

keep   every part stays on the device once it is there: fastest, needs room for all of them.
swap   one part is on the device at a time, the others wait in main memory: the largest part decides
       how much device memory a song needs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from acestep.models.acestep import AceStep
from acestep.models.config import AceStepConfig
from acestep.models.dit import DiT
from acestep.models.load import load_acestep, load_silence, load_vae
from acestep.models.text_encoder import TextEncoder
from acestep.models.vae import Vae
from acestep.progress import Reporter
from acestep.types import Latents, States

Policy = Literal["keep", "swap"]


@dataclass(frozen=True)
class Folders:
    """The checkpoint folders one service runs on."""

    dit: Path
    vae: Path
    text_encoder: Path


class ModelStore:
    """Loads the networks once and lends them, one `with` block at a time."""

    def __init__(
        self,
        folders: Folders,
        *,
        device: torch.device,
        dtype: torch.dtype,
        policy: Policy,
        report: Reporter,
    ) -> None:
        """Read every network into main memory (swap) or onto the device (keep).

        Raises:
            CheckpointError: a folder is incomplete, damaged or of another shape.
        """
        self.folders = folders
        self.device = device
        self.dtype = dtype
        self.policy: Policy = policy
        self._lent: tuple[nn.Module, ...] = ()
        home = device if policy == "keep" else torch.device("cpu")
        report("loading", 0, 3)
        self._acestep = load_acestep(folders.dit, dtype=dtype, device=home)
        report("loading", 1, 3)
        self._text_encoder = TextEncoder.load(folders.text_encoder, dtype=dtype, device=home)
        report("loading", 2, 3)
        self._vae = load_vae(folders.vae, dtype=dtype, device=home)
        self.silence: Latents = load_silence(folders.dit)
        report("loading", 3, 3)

    def in_float32(self, report: Reporter) -> "ModelStore":
        """The same networks in the safest dtype; the old ones are let go first."""
        del self._acestep, self._text_encoder, self._vae
        return ModelStore(
            self.folders,
            device=self.device,
            dtype=torch.float32,
            policy=self.policy,
            report=report,
        )

    @property
    def config(self) -> AceStepConfig:
        return self._acestep.config

    def null_condition(self, states: States) -> States:
        """The learned "no text at all" in the place of every state; a single row, never moved."""
        return self._acestep.null_condition_emb.to(states).expand_as(states)

    @contextmanager
    def text_encoder(self) -> Iterator[TextEncoder]:
        with self._on_device(self._text_encoder.model):
            yield self._text_encoder

    @contextmanager
    def conditioner(self) -> Iterator[AceStep]:
        """The condition encoder, tokenizer and detokenizer; the decoder may be elsewhere."""
        acestep = self._acestep
        with self._on_device(acestep.encoder, acestep.tokenizer, acestep.detokenizer):
            yield acestep

    @contextmanager
    def dit(self) -> Iterator[DiT]:
        with self._on_device(self._acestep.decoder):
            yield self._acestep.decoder

    @contextmanager
    def vae(self) -> Iterator[Vae]:
        with self._on_device(self._vae):
            yield self._vae

    @contextmanager
    def _on_device(self, *modules: nn.Module) -> Iterator[None]:
        if self.policy == "swap":
            for module in self._lent:
                if module not in modules:
                    module.to("cpu")
        for module in modules:
            module.to(self.device)
        self._lent = modules
        yield
