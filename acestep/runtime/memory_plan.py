"""What a song needs of this computer's memory, told before anything is loaded.

A pure function of sizes (from headers), hardware, wishes and the song. Plans form a ladder, from
everything resident on the device down to layers that stream by, small VAE tiles and one take at a
time; `plan_memory` takes the highest rung that fits, and a run that fails all the same goes on with
`MemoryPlan.lighter()`. INT8 and NF4 are never chosen here, nor is the CPU: both change what the
user asked for.

Each stage's peak is: a fixed base, the weights that are on the device (`weight_memory`), and what
the stage computes with (`stage_memory`). Bytes throughout; GB are 10⁹ of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Self

from acestep.config import ServiceConfig
from acestep.models.constants import TILE_FRAMES
from acestep.progress import Stage
from acestep.runtime.demand import Demand
from acestep.runtime.hardware import DeviceFacts, Hardware
from acestep.runtime.precision import DtypeName, Precision, choose_precision
from acestep.runtime.sizes import Part, Sizes
from acestep.runtime.stage_memory import WAVEFORM_COPIES, StageMemory, in_heap
from acestep.runtime.weight_memory import STREAMED_LAYERS, WeightMemory

Placement = Literal["resident", "swapped", "streamed"]

GB = 10**9

# Latent frames that the VAE decodes at once, best first.
TILES = (TILE_FRAMES, TILE_FRAMES // 2, TILE_FRAMES // 4, TILE_FRAMES // 8)
SHORTER = (480.0, 360.0, 240.0, 180.0, 120.0, 90.0, 60.0, 30.0)  # seconds, to be offered

# What is there before any weight: CUDA's context and its libraries' work space on the device; in
# main memory Python with PyTorch and what a song imports.
CUDA_BASE = 500_000_000
HOST_BASE = 400_000_000
HOST_BASE_WITH_CUDA = 1_000_000_000
# Of free memory: what other programs may come to need, and the gaps between blocks.
USABLE = 0.95
# Of an Apple GPU's memory, which is everyone's: what macOS lets it have.
USABLE_SHARED = 0.7


@dataclass(frozen=True)
class Wishes:
    """What the user decided about memory; see `ServiceConfig`.

    Attributes:
        memory_limit: GB of the device's memory; None is what is free.
        float32: compute everything in the safest precision, for a second try.
    """

    offload_dit: bool = False
    int8: bool = False
    lm_nf4: bool = False
    memory_limit: float | None = None
    float32: bool = False

    @classmethod
    def of(cls, config: ServiceConfig) -> Self:
        return cls(config.offload_dit, config.int8, config.lm_nf4, config.memory_limit)


@dataclass(frozen=True)
class MemoryPlan:
    """Where every network is, how much a stage does at once, and what that takes.

    Attributes:
        placements: of every part. Resident: on the device from loading on. Swapped: there while its
            stage runs; on a GPU its master copy waits in main memory (the planner is read from its
            file again), where memory is shared it is read again. Streamed: two layers of the DiT
            are on the device, the others wait in main memory, or in the mapped file.
        dtype, vae_dtype, planner_dtype: what each computes in.
        dtype_reason: why it is float32 where bfloat16 was to be expected; may be empty.
        int8: whether big matrices are held in 8 bits; nf4: the planner's in 4.
        tile_frames: latent frames that the VAE decodes or encodes at once.
        takes_at_once: takes that the planner writes and the DiT renders together.
        kv_bytes: of the planner's keys and values.
        peaks: bytes on the device in each stage; of planning, on the planner's device.
        main_memory: bytes of main memory in all, masters included; 0 where it is the device's.
        budget: bytes of the device that may be used; planner_budget: of the planner's device.
        main_budget: of main memory.
        traded: what was given up on the way down the ladder, a sentence each, the last one newest.
    """

    placements: Mapping[Part, Placement]
    dtype: DtypeName
    vae_dtype: DtypeName
    planner_dtype: DtypeName
    dtype_reason: str
    int8: bool
    nf4: bool
    tile_frames: int
    takes_at_once: int
    kv_bytes: int
    peaks: Mapping[Stage, int]
    main_memory: int
    budget: int
    planner_budget: int
    main_budget: int
    traded: tuple[str, ...]
    _case: "_Case" = field(repr=False)
    _rung: "_Rung" = field(repr=False)

    @property
    def fits(self) -> bool:
        """Whether every stage stays within what may be used."""
        return not self._failing and self.main_memory <= self.main_budget

    @property
    def tightest(self) -> Stage:
        """The stage that takes the largest share of its device."""
        return max(self.peaks, key=lambda stage: self.peaks[stage] / self._budget_of(stage))

    @property
    def peak(self) -> int:
        """Bytes on the device in the tightest stage."""
        return self.peaks[self.tightest]

    @property
    def room(self) -> int:
        """Bytes that the tightest stage may use."""
        return self._budget_of(self.tightest)

    @property
    def fraction(self) -> float:
        """How full the device gets, for a bar; above 1 it does not fit."""
        return self.peak / self.room

    def lighter(self) -> "MemoryPlan | None":
        """The next rung down, with what it trades; None at the end."""
        below = self._rung.below(self._case)
        return None if below is None else self._case.plan(below)

    def sentence(self) -> str:
        """The plan in one line: what is where, and what it takes; or what does not fit, and what
        would help."""
        if not self.fits:
            return self._shortage()
        words = [f"{self._case.sizes.model} in {self._precision_words()}"]
        words += self._rung.words(self._case)
        return (
            f"{', '.join(words)}: peak {_gb(self.peak)} of {_gb(self.room)} GB "
            f"while {self.tightest} {self._song()}."
        )

    def weight_bytes(self, part: Part) -> int:
        """What a part's weights take once they are loaded."""
        return self._case.weights.planner() if part == "planner" else self._case.weights.of(part)

    @property
    def _failing(self) -> "list[Stage]":
        return [stage for stage, peak in self.peaks.items() if peak > self._budget_of(stage)]

    def _budget_of(self, stage: Stage) -> int:
        return self.planner_budget if stage == "planning" else self.budget

    def _song(self) -> str:
        demand = self._case.demand
        return f"{demand.seconds:g} s" + (f" ({demand.takes} takes)" if demand.takes > 1 else "")

    def _precision_words(self) -> str:
        reason = f" ({self.dtype_reason})" if self.dtype_reason else ""
        quantized = " and INT8" if self.int8 else ""
        return f"{self.dtype}{reason}{quantized}"

    def _shortage(self) -> str:
        """What does not fit, by how much, and which of the ways out do lead out."""
        case, failing = self._case, self._failing
        stage = self.tightest if failing else "rendering"
        model = case.sizes.model if stage != "planning" or not case.sizes.lm else case.sizes.lm
        if failing:
            need, room = self.peaks[stage], self._budget_of(stage)
            own = case.hardware.planner
            where = "" if own is None or stage != "planning" else f" on {own.name}"
            what = f"while {stage} {self._song()}"
        else:
            need, room, where = self.main_memory, self.main_budget, " of main memory"
            what = "to hold what is not on the GPU"
        return (
            f"Does not fit: {model} needs {_gb(need)} of {_gb(room)} GB{where} {what}: "
            f"choose {_either(case.ways_out(stage))}."
        )


def plan_memory(
    sizes: Sizes, hardware: Hardware, wishes: Wishes, demand: Demand | None = None
) -> MemoryPlan:
    """The best plan that fits; if none does, the lightest, which says so.

    Everything resident, then the planner unloaded while rendering, then one network at a time, then
    a DiT that streams, then smaller VAE tiles, then one take at a time. Tiles become smaller
    earlier where they alone are what does not fit: that costs a little time, and swapping more.

    Args:
        demand: None is the usual song of two minutes, planned and guided as the models can.
    """
    if demand is None:
        demand = Demand(guided=not sizes.dit.is_turbo, thinks=sizes.planner is not None)
    case = _Case(sizes, hardware, wishes, demand)
    rung: _Rung | None = _Rung.top(case)
    plan = case.plan(rung)
    while rung is not None:
        plan = case.plan(rung)
        if plan.fits:
            return plan
        if set(plan._failing) <= {"decoding", "reading"}:
            for smaller in rung.smaller_tiles():
                if (tiled := case.plan(smaller)).fits:
                    return tiled
        rung = rung.below(case)
    return plan


@dataclass(frozen=True)
class _Rung:
    """One step of the ladder: everything about a plan that may be traded."""

    planner: Placement = "resident"
    others: Placement = "resident"
    dit: Placement = "resident"
    tile_frames: int = TILES[0]
    takes_at_once: int = 1
    traded: tuple[str, ...] = ()

    @classmethod
    def top(cls, case: "_Case") -> "_Rung":
        streams = case.wishes.offload_dit and not case.hardware.device.shares_memory
        return cls(dit="streamed" if streams else "resident", takes_at_once=case.demand.takes)

    def below(self, case: "_Case") -> "_Rung | None":
        """The next step down that changes anything."""
        if self.planner == "resident" and case.planner_takes_room:
            return self._trade(
                "The 5Hz LM is unloaded before rendering and read again for the next plan.",
                planner="swapped",
            )
        if self.others == "resident":
            return self._trade(
                f"One network at a time is {case.place}; changing them takes seconds.",
                others="swapped",
                dit="streamed" if self.dit == "streamed" else "swapped",
            )
        if self.dit != "streamed" and case.streaming_helps:
            return self._trade(
                f"The music model streams from {case.source}, layer by layer.", dit="streamed"
            )
        if smaller := self.smaller_tiles():
            return smaller[0]
        if self.takes_at_once > 1:
            return self._trade(
                "Takes are made one after the other instead of together.", takes_at_once=1
            )
        return None

    def smaller_tiles(self) -> "list[_Rung]":
        """The same with smaller tiles, the largest first."""
        return [
            self._trade(f"The VAE works in tiles of {tile} frames.", tile_frames=tile)
            for tile in TILES
            if tile < self.tile_frames
        ]

    def words(self, case: "_Case") -> list[str]:
        """How it sets itself apart, for people."""
        words = []
        if self.dit == "streamed":
            words.append(f"the music model streams from {case.source}")
        elif self.others == "swapped":
            words.append(f"one network at a time {case.place}")
        elif self.planner == "swapped":
            words.append("the 5Hz LM unloaded while rendering")
        else:
            words.append("all resident")
        if self.tile_frames < TILES[0]:
            words.append(f"VAE tiles of {self.tile_frames} frames")
        if self.takes_at_once < case.demand.takes:
            words.append("one take at a time")
        return words

    def _trade(self, sentence: str, **changes: object) -> "_Rung":
        return replace(self, traded=(*self.traded, sentence), **changes)


@dataclass(frozen=True)
class _Case:
    """All that a plan follows from; the rungs of its ladder are priced here."""

    sizes: Sizes
    hardware: Hardware
    wishes: Wishes
    demand: Demand

    @cached_property
    def precision(self) -> Precision:
        if self.wishes.float32:
            return Precision("float32", "float32", "float32")
        device, planner = self.hardware.device, self.hardware.planner_device
        return choose_precision(
            device.kind,
            has_bf16=device.has_bf16,
            width=self.sizes.dit.hidden_size,
            planner_kind=planner.kind,
            planner_has_bf16=planner.has_bf16,
        )

    @cached_property
    def weights(self) -> WeightMemory:
        on_cpu = self.hardware.planner_device.kind == "cpu"
        return WeightMemory(
            self.sizes, self.precision, self.wishes.int8, self.wishes.lm_nf4, on_cpu
        )

    @cached_property
    def work(self) -> StageMemory:
        return StageMemory(self.sizes, self.demand, self.precision, self.hardware.device.kind)

    @property
    def place(self) -> str:
        """Where networks compute, in words."""
        return "in memory" if self.hardware.device.shares_memory else "on the GPU"

    @property
    def source(self) -> str:
        """Where a streamed DiT waits, in words."""
        return "its file" if self.hardware.device.shares_memory else "main memory"

    @property
    def planner_takes_room(self) -> bool:
        """Whether unloading the planner gives anybody room: it may be on a card of its own."""
        own = self.hardware.planner
        return "planner" in self.sizes.parts and (own is None or own.shares_memory)

    @property
    def planner_is_here(self) -> bool:
        """Whether the planner takes its memory from where the DiT does."""
        own = self.hardware.planner
        together = own is None or (own.shares_memory and self.hardware.device.shares_memory)
        return together and "planner" in self.sizes.parts

    @property
    def streaming_helps(self) -> bool:
        """From a file, layers stream as they are stored there: not in 8 bits."""
        few = self.sizes.dit.num_hidden_layers <= STREAMED_LAYERS
        return not few and not (self.wishes.int8 and self.hardware.device.shares_memory)

    def plan(self, rung: _Rung) -> MemoryPlan:
        placements = self._placements(rung)
        precision = self.precision
        device, own = self.hardware.device, self.hardware.planner
        return MemoryPlan(
            placements=placements,
            dtype=precision.dtype,
            vae_dtype=precision.vae,
            planner_dtype=precision.planner,
            dtype_reason=precision.reason,
            int8=self.wishes.int8,
            nf4=self.wishes.lm_nf4,
            tile_frames=rung.tile_frames,
            takes_at_once=rung.takes_at_once,
            kv_bytes=self.work.kv_bytes(rung.takes_at_once),
            peaks=self._peaks(rung, placements),
            main_memory=self._main_memory(rung, placements),
            budget=self._budget(device),
            planner_budget=self._budget(device) if own is None else self._budget(own),
            main_budget=int(USABLE * self.hardware.main.free),
            traded=rung.traded,
            _case=self,
            _rung=rung,
        )

    def ways_out(self, stage: Stage) -> list[str]:
        """Of what the user could choose, what would make it fit; if nothing alone does, as little
        as possible of it together."""
        wishes, demand, hardware = self.wishes, self.demand, self.hardware
        ways = []
        if not wishes.int8 and self._would_fit(wishes=replace(wishes, int8=True)):
            ways.append("INT8")
        if stage == "planning":
            if not wishes.lm_nf4 and self._would_fit(wishes=replace(wishes, lm_nf4=True)):
                ways.append("NF4 for the 5Hz LM")
            if self._would_fit(demand=replace(demand, thinks=False)):
                ways.append("a smaller 5Hz LM")
            cpu = replace(hardware, planner=DeviceFacts("cpu", hardware.main))
            if not hardware.planner_device.shares_memory and self._would_fit(hardware=cpu):
                ways.append("LM Device cpu")
        if demand.takes > 1 and self._would_fit(demand=replace(demand, takes=1)):
            ways.append("fewer takes")
        if (seconds := self._longest()) is not None:
            ways.append(f"a song of at most {seconds:g} s")
        if wishes.memory_limit and self._would_fit(wishes=replace(wishes, memory_limit=None)):
            ways.append("a higher Memory Limit")
        return ways or self._ways_together()

    def _longest(self) -> float | None:
        """The longest song, of a few lengths, that would fit; None where none does."""
        for seconds in SHORTER:
            shorter = replace(self.demand, seconds=seconds)
            if seconds < self.demand.seconds and self._would_fit(demand=shorter):
                return seconds
        return None

    def _ways_together(self) -> list[str]:
        named: list[str] = []
        case = self
        for name, wishes, demand in (
            ("INT8", {"int8": True}, {}),
            ("one take", {}, {"takes": 1}),
            (f"a song of {SHORTER[-1]:g} s", {}, {"seconds": SHORTER[-1]}),
            ("no Think", {}, {"thinks": False}),
        ):
            less = replace(
                case, wishes=replace(case.wishes, **wishes), demand=replace(case.demand, **demand)
            )
            if less != case:
                named.append(name)
                case = less
            if named and case._would_fit():
                return [" together with ".join(named)]
        return ["a smaller model"]

    def _would_fit(
        self,
        *,
        hardware: Hardware | None = None,
        wishes: Wishes | None = None,
        demand: Demand | None = None,
    ) -> bool:
        return plan_memory(
            self.sizes,
            hardware or self.hardware,
            wishes or self.wishes,
            demand or self.demand,
        ).fits

    def _placements(self, rung: _Rung) -> dict[Part, Placement]:
        placements: dict[Part, Placement] = {
            part: rung.others for part in ("conditioner", "text_encoder", "vae")
        }
        placements["dit"] = rung.dit
        if "planner" in self.sizes.parts:
            placements["planner"] = rung.planner
        return placements

    def _budget(self, device: DeviceFacts) -> int:
        """Bytes of a device that may be used; the limit is for the music model's alone."""
        usable = USABLE * device.memory.free
        if device.kind == "mps":
            usable = min(usable, USABLE_SHARED * device.memory.total)
        limit = self.wishes.memory_limit
        if limit is not None and device == self.hardware.device:
            usable = min(usable, limit * GB)
        return int(usable)

    def _peaks(self, rung: _Rung, placements: Mapping[Part, Placement]) -> dict[Stage, int]:
        device, demand = self.hardware.device, self.demand
        held = sum(
            self.weights.of(part)
            for part, placement in placements.items()
            if placement == "resident" and part != "planner"
        )
        slots, rest = self.weights.streamed()
        if placements["dit"] == "streamed" and not device.shares_memory:
            held += slots  # their memory is reserved once and kept
        planner = self.weights.planner() if "planner" in self.sizes.parts else 0
        if self.planner_is_here and placements["planner"] == "resident":
            held += planner

        def visiting(part: Part) -> int:
            if placements[part] == "resident":
                return 0
            if placements[part] == "swapped":
                return self.weights.of(part)
            return rest + (slots if device.shares_memory else 0)

        stages: dict[Stage, int] = {}
        here = _base(device) + held
        if demand.thinks and self.sizes.planner is not None:
            own = self.hardware.planner_device
            work = self.work.kv_bytes(rung.takes_at_once) + in_heap(
                own.kind, self.work.writing(rung.takes_at_once)
            )
            if not self.planner_is_here:
                stages["planning"] = _base(own) + planner + work
            else:
                comes = planner if placements["planner"] == "swapped" else 0
                stages["planning"] = here + comes + work
        reading: list[tuple[Part, int]] = [("vae", self.work.encoding(rung.tile_frames))]
        works: dict[Stage, list[tuple[Part, int]]] = {
            "reading": reading if demand.encodes_source else [],
            "conditioning": [
                ("text_encoder", self.work.encoding_text()),
                ("conditioner", self.work.conditioning()),
            ],
            "rendering": [("dit", self.work.rendering(rung.takes_at_once))],
            "decoding": [("vae", self.work.decoding(rung.tile_frames))],
        }
        for stage, parts in works.items():
            if parts:
                stages[stage] = here + max(
                    visiting(part) + in_heap(device.kind, work) for part, work in parts
                )
        return stages

    def _main_memory(self, rung: _Rung, placements: Mapping[Part, Placement]) -> int:
        """Masters of what is not resident, the songs' samples, and a planner that runs there."""
        device = self.hardware.device
        if device.shares_memory:
            return 0
        masters = sum(
            self.weights.of(part)
            for part, placement in placements.items()
            if placement != "resident" and part != "planner"
        )
        waveform = self.work.waveform()
        total = HOST_BASE_WITH_CUDA + masters
        samples = (self.demand.takes + WAVEFORM_COPIES) * waveform
        own = self.hardware.planner
        if own is None or not own.shares_memory or "planner" not in self.sizes.parts:
            return total + samples
        planner = self.weights.planner()
        work = (
            self.work.kv_bytes(rung.takes_at_once) + self.work.writing(rung.takes_at_once)
            if self.demand.thinks
            else 0
        )
        if placements["planner"] == "resident":
            return total + planner + max(work, samples)
        return total + max(planner + work if self.demand.thinks else 0, samples)


def _base(device: DeviceFacts) -> int:
    return HOST_BASE if device.shares_memory else CUDA_BASE


def _gb(count: int) -> str:
    return f"{count / GB:.1f}"


def _either(ways: list[str]) -> str:
    return ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} or {ways[-1]}"
