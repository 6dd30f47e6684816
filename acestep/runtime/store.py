"""Which network is on which device.

The pipeline owns no weights: it borrows a part for the length of a `with` block. Two policies, and
no cleverer ones:

keep   every part stays on the device once it is there: fastest, needs room for all of them.
swap   one part is on the device at a time, the others wait in main memory: the largest part decides
       how much device memory a song needs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from acestep.config import BackendName
from acestep.errors import CheckpointError, Unavailable
from acestep.models.acestep import AceStep
from acestep.models.config import AceStepConfig
from acestep.models.dit import DiT
from acestep.models.load import load_acestep, load_silence, load_vae
from acestep.models.text_encoder import TextEncoder
from acestep.models.vae import Vae
from acestep.planner.backends import load_backend
from acestep.planner.backends.decoder import fitting_dtype
from acestep.planner.backends.vllm import unavailable
from acestep.planner.planner import Planner
from acestep.progress import Reporter
from acestep.runtime.denoiser import Denoiser, EagerDenoiser
from acestep.types import Latents, States

Policy = Literal["keep", "swap"]


@dataclass(frozen=True)
class Folders:
    """The checkpoint folders one service runs on."""

    dit: Path
    vae: Path
    text_encoder: Path
    lm: Path | None = None  # without one there is no planner


@dataclass(frozen=True)
class StoreSettings:
    """Which networks a store holds, where and how.

    Attributes:
        planner_device: the planner may have a device of its own.
        planner_dtype: so it may have a dtype; None is the one its engine is fastest in: on a CPU,
            reading half as many bytes makes bf16 half again as fast as the fp32 of the others.
    """

    folders: Folders
    device: torch.device
    dtype: torch.dtype
    policy: Policy
    backend: BackendName = "auto"
    planner_device: torch.device | None = None
    planner_dtype: torch.dtype | None = None

    def in_float32(self) -> "StoreSettings":
        """The same in the safest dtype."""
        return replace(self, dtype=torch.float32, planner_dtype=torch.float32)


class ModelStore:
    """Loads the networks once and lends them, one `with` block at a time."""

    def __init__(self, settings: StoreSettings, report: Reporter) -> None:
        """Read every network into main memory (swap) or onto the device (keep).

        Under swap the planner is read anew for every plan, and let go before rendering: it is the
        one network that is used up before the others begin.

        Raises:
            CheckpointError: a folder is incomplete, damaged or of another shape.
            Unavailable: the planner's engine was asked for and cannot be had.
        """
        self.settings = settings
        folders, device, dtype = settings.folders, settings.device, settings.dtype
        self.folders, self.device, self.dtype = folders, device, dtype
        self.policy: Policy = settings.policy
        self._lent: tuple[nn.Module, ...] = ()
        home = device if self.policy == "keep" else torch.device("cpu")
        total = 3 if folders.lm is None else 4
        report("loading", 0, total)
        self._acestep = load_acestep(folders.dit, dtype=dtype, device=home)
        report("loading", 1, total)
        self._text_encoder = TextEncoder.load(folders.text_encoder, dtype=dtype, device=home)
        report("loading", 2, total)
        self._vae = load_vae(folders.vae, dtype=dtype, device=home)
        self.silence: Latents = load_silence(folders.dit)
        report("loading", 3, total)
        self.backend: BackendName = settings.backend
        self.planner_device = settings.planner_device or device
        self.planner_dtype = settings.planner_dtype or fitting_dtype(self.planner_device)
        self._planner = self._load_planner() if self.policy == "keep" else None
        report("loading", total, total)

    def close(self) -> None:
        """Let the networks go. The store cannot be used afterwards."""
        if self._planner is not None:
            self._planner.close()
        del self._acestep, self._text_encoder, self._vae, self._planner

    @property
    def planner_engine(self) -> str:
        """The engine in words, and why it is not vLLM; empty without a planner."""
        if self.folders.lm is None:
            return ""
        engine = self.backend if self._planner is None else self._planner.backend.name
        reason = None if engine == "vllm" else unavailable(self.planner_device)
        return f"{self.folders.lm.name} on {engine}." + (f" {reason}" if reason else "")

    @property
    def is_float32(self) -> bool:
        """Whether everything already runs in the safest dtype."""
        dtypes = {self.dtype, self.planner_dtype if self.has_planner else torch.float32}
        return dtypes == {torch.float32}

    @property
    def has_planner(self) -> bool:
        return self.folders.lm is not None

    @property
    def config(self) -> AceStepConfig:
        return self._acestep.config

    def null_condition(self, states: States) -> States:
        """The learned "no text at all"; a single row, so it needs no lending."""
        return self._acestep.null_condition(states)

    @contextmanager
    def planner(self) -> Iterator[Planner]:
        with self._on_device():
            planner = self._planner or self._load_planner()
            if planner is None:
                raise Unavailable("No 5Hz LM is loaded.")
            try:
                yield planner
            finally:
                if self._planner is None:
                    planner.close()

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
    def denoiser(self) -> Iterator[Denoiser]:
        """The DiT, ready for one run."""
        with self.dit() as dit:
            yield EagerDenoiser(dit, self.null_condition, self.device)

    @contextmanager
    def vae(self) -> Iterator[Vae]:
        with self._on_device(self._vae):
            yield self._vae

    def _load_planner(self) -> Planner | None:
        if self.folders.lm is None:
            return None
        backend = load_backend(
            self.folders.lm, self.backend, device=self.planner_device, dtype=self.planner_dtype
        )
        planner = Planner(backend)
        if planner.codebook_size != self.config.codebook_size:
            planner.close()
            raise CheckpointError(
                f"{self.folders.lm.name} was made for another music model: it writes "
                f"{planner.codebook_size:,} different codes, and {self.folders.dit.name} knows "
                f"{self.config.codebook_size:,}."
            )
        return planner

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
