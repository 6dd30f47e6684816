"""Which network is on which device.

The pipeline owns no weights: it borrows a part for the length of a `with` block. Where a part is in
the meantime, the memory plan says (`acestep.runtime.placement`).
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from acestep.config import BackendName
from acestep.errors import CheckpointError, OutOfMemory, Unavailable
from acestep.models.acestep import AceStep
from acestep.models.config import AceStepConfig
from acestep.models.dit import DiT
from acestep.models.load import load_acestep, load_silence, load_vae
from acestep.models.quantize import WeightForm, relative_error
from acestep.models.text_encoder import TextEncoder
from acestep.models.vae import Vae
from acestep.planner.backends import load_backend
from acestep.planner.backends.decoder import fitting_dtype
from acestep.planner.backends.vllm import unavailable
from acestep.planner.planner import Planner
from acestep.progress import Reporter
from acestep.runtime import devices
from acestep.runtime.adapter_effect import AdapterEffect, adapter_effect
from acestep.runtime.adapter_files import Adapter
from acestep.runtime.adapters import LoadedAdapter, Weighted, attached, load_adapter
from acestep.runtime.denoiser import Denoiser, EagerDenoiser
from acestep.runtime.folders import Folders
from acestep.runtime.memory_plan import MemoryPlan, Part, Placement
from acestep.runtime.placement import PlacedNetwork
from acestep.types import Latents, States

# The two parts that a music model's file is read in; what guidance leaves out goes with the DiT.
DIT = ("decoder", "null_condition_emb")
CONDITIONER = ("encoder", "tokenizer", "detokenizer")

logger = logging.getLogger(__name__)

N = TypeVar("N")
T = TypeVar("T")


@dataclass(frozen=True)
class StoreSettings:
    """Which networks a store holds, where and how.

    Attributes:
        plan: where each part is between its stages, and how much a stage does at once.
        vae_dtype: the VAE may have a dtype of its own; None is that of the others.
        int8: the big matrices of DiT and encoders are held in 8 bits.
        lm_weights: how the planner's matrices are held.
        planner_device: the planner may have a device of its own.
        planner_dtype: so it may have a dtype; None is the one its engine is fastest in: on a CPU,
            reading half as many bytes makes bf16 half again as fast as the fp32 of the others.
    """

    folders: Folders
    device: torch.device
    dtype: torch.dtype
    plan: MemoryPlan
    vae_dtype: torch.dtype | None = None
    int8: bool = False
    lm_weights: WeightForm = "plain"
    backend: BackendName = "auto"
    planner_device: torch.device | None = None
    planner_dtype: torch.dtype | None = None

    def in_float32(self, plan: MemoryPlan) -> "StoreSettings":
        """The same in the safest dtype."""
        return replace(
            self,
            plan=plan,
            dtype=torch.float32,
            vae_dtype=torch.float32,
            planner_dtype=torch.float32,
        )


class ModelStore:
    """Loads the networks once and lends them, one `with` block at a time.

    Attributes:
        plan: what the store goes by now; it may have become lighter than the settings' own.
        silence: the checkpoint's silence track, (1, 15000, channel).
        adapter_effects: what each adapter does that acts on the DiT.
    """

    def __init__(self, settings: StoreSettings, report: Reporter) -> None:
        """Read every network that has a place to wait at, in main memory or on the device.

        A planner that is swapped is read anew for every plan, and let go before rendering: it is
        the one network that is used up before the others begin.

        Raises:
            CheckpointError: a folder is incomplete, damaged or of another shape.
            Unavailable: the planner's engine was asked for and cannot be had.
        """
        self.settings = settings
        folders, device, dtype = settings.folders, settings.device, settings.dtype
        self.folders, self.device, self.dtype = folders, device, dtype
        self.plan = settings.plan
        self._adapters: Weighted = ()
        self.adapter_effects: Sequence[AdapterEffect] = ()
        self.config = AceStepConfig.read(folders.dit)
        int8 = settings.int8
        self._dit = PlacedNetwork(
            lambda device, dtype: load_acestep(folders.dit, dtype, device, parts=DIT, int8=int8),
            lambda acestep: acestep.decoder,
            self._place("dit"),
            device,
            dtype,
            maps_file=not int8,
        )
        self._conditioner = PlacedNetwork(
            lambda device, dtype: load_acestep(
                folders.dit, dtype, device, parts=CONDITIONER, int8=int8
            ),
            _networks_of,
            self._place("conditioner"),
            device,
            dtype,
        )
        self._text_encoder = PlacedNetwork(
            lambda device, dtype: TextEncoder.load(
                folders.text_encoder, dtype=dtype, device=device, int8=int8
            ),
            lambda encoder: encoder.model,
            self._place("text_encoder"),
            device,
            dtype,
        )
        self._vae = PlacedNetwork(
            lambda device, dtype: load_vae(folders.vae, dtype=dtype, device=device),
            lambda vae: vae,
            self._place("vae"),
            device,
            settings.vae_dtype or dtype,
        )
        self._parts: dict[Part, PlacedNetwork[Any]] = {
            "dit": self._dit,
            "conditioner": self._conditioner,
            "text_encoder": self._text_encoder,
            "vae": self._vae,
        }
        total = len(self._parts) + (folders.lm is not None)
        for done, part in enumerate(self._parts.values()):
            report("loading", done, total)
            part.prepare()
        self.silence: Latents = load_silence(folders.dit)
        self.backend: BackendName = settings.backend
        self.planner_device = settings.planner_device or device
        self.planner_dtype = settings.planner_dtype or fitting_dtype(self.planner_device)
        report("loading", len(self._parts), total)
        self._planner = self._load_planner() if self.keeps_planner else None
        report("loading", total, total)

    def close(self) -> None:
        """Let the networks go. The store cannot be used afterwards."""
        self._drop_planner()
        for part in self._parts.values():
            part.drop()
        devices.give_back(self.device)

    def follow(self, plan: MemoryPlan) -> None:
        """Keep the networks where another plan has them, from now on."""
        before, self.plan = self.plan.placements, plan
        for name, part in self._parts.items():
            part.place(self._place(name))
        if not self.keeps_planner:
            self._drop_planner()
        if plan.placements != before:
            devices.give_back(self.device)

    def adapt(self, adapters: Sequence[tuple[Adapter, float]]) -> None:
        """Let these adapters act on the DiT from now on, each with its strength, and no others.

        Raises:
            CheckpointError: one does not fit; those from before go on to act.
        """
        wanted = [(adapter.fingerprint, strength) for adapter, strength in adapters]
        if wanted == [
            (loaded.adapter.fingerprint, strength) for loaded, strength in self._adapters
        ]:
            return
        have = {loaded.adapter.fingerprint: loaded for loaded, _ in self._adapters}
        loaded: list[tuple[LoadedAdapter, float]] = []
        effects: list[AdapterEffect] = []
        if adapters:
            with self.dit() as dit:
                for adapter, strength in adapters:
                    one = have.get(adapter.fingerprint) or load_adapter(adapter, dit)
                    loaded.append((one, strength))
                    effects.append(adapter_effect(dit, one, strength, self.device))
        self._adapters, self.adapter_effects = loaded, effects

    @property
    def held_bytes(self) -> dict[str, int]:
        """What of each device's memory would be free without the networks and what they left."""
        planner = 0 if self._planner is None else self.plan.weight_bytes("planner")
        held = defaultdict(int, {str(self.planner_device): planner})
        for part in self._parts.values():
            for device, count in part.held_bytes.items():
                held[device] += count
        for device in {self.device, self.planner_device}:
            if device.type == "cuda":  # PyTorch counts for itself, but knows nothing of vLLM
                is_outside = self._planner is not None and self._planner.backend.name == "vllm"
                outside = planner if is_outside and device == self.planner_device else 0
                held[str(device)] = torch.cuda.memory_reserved(device) + outside
        return dict(held)

    def attempt(self, work: Callable[[], T]) -> T:
        """What the work returns; where memory runs out on the way, it is done again under lighter
        plans, as long as there is one.

        Raises:
            RuntimeError, MemoryError: it does not fit under the lightest either.
        """
        while True:
            try:
                return work()
            except (MemoryError, RuntimeError) as error:
                lighter = _lighter(self.plan) if devices.is_out_of_memory(error) else None
                if lighter is None:
                    raise
            # Only here has Python forgotten the error, and with it what the work had made.
            self.follow(lighter)
            devices.give_back(self.device)

    @property
    def quantization_error(self) -> float:
        """How far the DiT's quantized weights are from its file's: relative L2; 0 where none are,
        or while they are not loaded."""
        return 0.0 if self._dit.network is None else relative_error(self._dit.network)

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

    def null_condition(self, states: States) -> States:
        """The learned "no text at all", in place of every state."""
        return self._lend("dit", self._dit).null_condition(states)

    @contextmanager
    def planner(self) -> Iterator[Planner]:
        self._send_back_others()
        planner = self._planner or self._load_planner()
        if planner is None:
            raise Unavailable("No 5Hz LM is loaded.")
        if self.keeps_planner:
            self._planner = planner
        planner.takes_at_once = self.plan.takes_at_once
        try:
            yield planner
        finally:
            if self._planner is not planner:
                planner.close()

    @contextmanager
    def text_encoder(self) -> Iterator[TextEncoder]:
        yield self._lend("text_encoder", self._text_encoder)

    @contextmanager
    def conditioner(self) -> Iterator[AceStep]:
        """The condition encoder, tokenizer and detokenizer; its decoder has no weights."""
        yield self._lend("conditioner", self._conditioner)

    @contextmanager
    def dit(self) -> Iterator[DiT]:
        """The DiT as it was loaded, without adapters."""
        yield self._lend("dit", self._dit).decoder

    @contextmanager
    def denoiser(self) -> Iterator[Denoiser]:
        """The DiT with its adapters, ready for one run."""
        with self.dit() as dit, attached(dit, self._adapters, self.device):
            yield EagerDenoiser(dit, self.null_condition, self.device, self.plan.takes_at_once)

    @contextmanager
    def vae(self) -> Iterator[Vae]:
        yield self._lend("vae", self._vae)

    @property
    def keeps_planner(self) -> bool:
        """Whether the planner stays between its plans."""
        return self.has_planner and self._place("planner") == "resident"

    def _place(self, part: Part) -> Placement:
        return self.plan.placements.get(part, "resident")

    def _lend(self, name: Part, part: PlacedNetwork[N]) -> N:
        self._send_back_others(name)
        return part.bring()

    def _send_back_others(self, but: Part | None = None) -> None:
        """A part that is not resident stays until another one is needed: a stage may ask twice."""
        for name, part in self._parts.items():
            if name != but:
                part.send_back()

    def _load_planner(self) -> Planner | None:
        if self.folders.lm is None:
            return None
        backend = load_backend(
            self.folders.lm,
            self.backend,
            device=self.planner_device,
            dtype=self.planner_dtype,
            weights=self.settings.lm_weights,
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

    def _drop_planner(self) -> None:
        if self._planner is not None:
            self._planner.close()
            self._planner = None


def open_store(settings: StoreSettings, report: Reporter) -> ModelStore:
    """A store under the settings' plan or, where memory runs out while loading, a lighter one.

    Raises:
        OutOfMemory: the networks do not fit, however they take turns.
        CheckpointError, Unavailable: as `ModelStore`.
    """
    while True:
        try:
            return ModelStore(settings, report)
        except (MemoryError, RuntimeError) as error:
            if not devices.is_out_of_memory(error):
                raise
            plan = _lighter(settings.plan)
            if plan is None:
                name = devices.device_name(settings.device)
                raise OutOfMemory(
                    f"Out of memory on {name} while loading {settings.folders.dit.name}. Ask for "
                    "INT8 or a smaller model, or free the memory that other programs have."
                ) from error
        settings = replace(settings, plan=plan)
        devices.give_back(settings.device)


def _lighter(plan: MemoryPlan) -> MemoryPlan | None:
    """The plan to go on with when memory has run out under this one."""
    lighter = plan.lighter()
    if lighter is not None:
        logger.warning("Out of memory. %s", lighter.traded[-1])
    return lighter


def _networks_of(acestep: AceStep) -> nn.Module:
    """What the conditioner computes with; the decoder beside it is on the meta device."""
    return nn.ModuleList([acestep.encoder, acestep.tokenizer, acestep.detokenizer])
