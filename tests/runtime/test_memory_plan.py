"""Memory plans over a table of machines, models and songs, without a single file."""

import dataclasses
import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from published_sizes import Model, Planner, published

from acestep.config import ServiceConfig
from acestep.errors import Unavailable
from acestep.request import Preset, Text2Music, parse_request
from acestep.runtime.machine import Computer, GpuCard, Memory, Processor, TorchBuild
from acestep.runtime.memory_plan import (
    TILES,
    Demand,
    DeviceFacts,
    Hardware,
    MemoryPlan,
    Wishes,
    plan_memory,
)

GB, GIB = 10**9, 2**30
MODELS: tuple[Model, ...] = ("2B turbo", "2B base", "XL turbo", "nano")
PLANNERS: tuple[Planner | None, ...] = (None, "0.6B", "1.7B", "4B")
WISHES = (Wishes(), Wishes(int8=True), Wishes(offload_dit=True), Wishes(int8=True, lm_nf4=True))


def card(gib: float, *, bf16: bool = True, main: float = 32) -> Hardware:
    """A CUDA card of which the desktop has a little."""
    facts = DeviceFacts("cuda:0", Memory(int(gib * GIB), int(0.93 * gib * GIB)), bf16)
    return Hardware(facts, Memory(int(main * GIB), int(0.85 * main * GIB)))


def shared(name: str, gib: float, *, bf16: bool = False) -> Hardware:
    """A computer whose main memory is all there is."""
    free = 1.0 if name == "mps" else 0.8
    memory = Memory(int(gib * GIB), int(free * gib * GIB))
    return Hardware(DeviceFacts(name, memory, bf16), memory)


CARDS = [card(gib) for gib in (4, 6, 8, 12, 16, 24, 80)]
CPUS = [shared("cpu", gib) for gib in (8, 16, 24)]
MACS = [shared("mps", gib) for gib in (8, 16, 32)]
FAMILIES = (CARDS, [card(gib, bf16=False) for gib in (4, 8, 11, 24)], CPUS, MACS)
SONGS = [
    Demand(10, thinks=True),
    Demand(120, takes=2, guided=True),
    Demand(240, thinks=True, encodes_source=True),
    Demand(600, takes=8, guided=True, thinks=True),
]


def cases() -> Iterator[tuple[Model, Planner | None, Wishes]]:
    return itertools.product(MODELS, PLANNERS, WISHES)


def weight(plan: MemoryPlan) -> tuple[bool, int]:
    """How far down the ladder a plan is, as far as placements go."""
    order = ("resident", "swapped", "streamed")
    placed = sum(order.index(placement) for placement in plan.placements.values())
    return not plan.fits, placed


def test_a_plan_that_fits_is_never_over_budget_and_explains_itself_in_one_line() -> None:
    songs, seen = itertools.cycle(SONGS), set()
    for model, planner, wishes in cases():
        sizes = published(model, planner)
        for hardware in itertools.chain(*FAMILIES):
            plan = plan_memory(sizes, hardware, wishes, next(songs))
            within = all(peak <= plan.budget for peak in plan.peaks.values())
            assert plan.fits == (within and plan.main_memory <= plan.main_budget)
            assert plan.fits == (plan.fraction <= 1 and plan.main_memory <= plan.main_budget)
            sentence = plan.sentence()
            assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 240
            assert sentence.startswith("Does not fit: ") != plan.fits
            seen.add(plan.fits)
    assert seen == {True, False}


def test_more_memory_never_makes_a_plan_worse() -> None:
    songs = itertools.cycle(SONGS)
    for model, planner, wishes in cases():
        sizes, song = published(model, planner), next(songs)
        for family in FAMILIES:
            plans = [plan_memory(sizes, hardware, wishes, song) for hardware in family]
            weights = [weight(plan) for plan in plans]
            assert weights == sorted(weights, reverse=True), (model, planner, wishes, song)


def test_a_little_more_memory_never_makes_a_plan_worse() -> None:
    sizes, song = published("2B base", "0.6B"), Demand(240, 4, guided=True, thinks=True)
    plans = [plan_memory(sizes, card(gib / 8), Wishes(), song) for gib in range(16, 120)]
    weights = [weight(plan) for plan in plans]
    assert weights == sorted(weights, reverse=True)
    found = [weight for weight, _ in itertools.groupby(weights)]
    assert found == [(True, 6), (False, 6), (False, 5), (False, 1), (False, 0)]


@pytest.mark.parametrize("field", ["seconds", "takes"])
def test_a_larger_song_is_never_lighter(field: str) -> None:
    steps = {"seconds": (10, 60, 240, 600), "takes": (1, 2, 4, 8)}[field]
    for hardware, model in itertools.product((*CARDS[:5], *CPUS, *MACS), MODELS[:3]):
        sizes = published(model, "0.6B")
        top = [
            plan_memory(sizes, dataclasses.replace(hardware, main=Memory(99 * GB, 99 * GB)),
                        Wishes(), dataclasses.replace(Demand(thinks=True), **{field: step}))
            for step in steps
        ]  # fmt: skip
        weights = [weight(plan) for plan in top]
        assert weights == sorted(weights), (hardware, model)
        same = [plan for plan in top if plan.placements == top[0].placements]
        for small, large in itertools.pairwise(same):
            if (small.tile_frames, small.takes_at_once) == (large.tile_frames, large.takes_at_once):
                assert all(large.peaks[stage] >= peak for stage, peak in small.peaks.items())


def test_the_ladder_goes_down_rung_by_rung_and_ends() -> None:
    plan = plan_memory(
        published("2B turbo", "0.6B"), card(80), Wishes(), Demand(60, 3, thinks=True)
    )
    assert set(plan.placements.values()) == {"resident"} and plan.traded == ()
    rungs = [plan]
    while (lighter := rungs[-1].lighter()) is not None:
        rungs.append(lighter)
    told = [tuple(dict.fromkeys(rung.placements.values())) for rung in rungs]
    assert len(rungs) == 8 and len(set(map(str, told))) == 4
    assert [rung.tile_frames for rung in rungs] == [512, 512, 512, 512, 256, 128, 64, 64]
    assert [rung.takes_at_once for rung in rungs] == [3] * 7 + [1]
    assert [len(rung.traded) for rung in rungs] == list(range(8))
    assert all(sentence.endswith(".") for sentence in rungs[-1].traded)
    for above, below in itertools.pairwise(rungs):
        assert below.traded[:-1] == above.traded
        assert below.peak <= above.peak and below.main_memory >= above.main_memory
    assert rungs[-1].placements["dit"] == "streamed"


def test_tiles_shrink_early_where_only_they_do_not_fit() -> None:
    sizes, song = published("2B turbo"), Demand(60)
    roomy = plan_memory(sizes, card(24), Wishes(), song)
    assert roomy.tightest == "decoding"
    budget = (roomy.peaks["rendering"] + roomy.peaks["decoding"]) / 2 / GB
    plan = plan_memory(sizes, card(24), Wishes(memory_limit=budget), song)
    assert plan.fits and set(plan.placements.values()) == {"resident"}
    assert plan.tile_frames in TILES[1:] and "VAE tiles of" in plan.sentence()


def test_a_four_gb_card_makes_a_four_minute_song() -> None:
    """Issue 11: 2B turbo with the 0.6B planner, 240 s, within 3.9 GB."""
    plan = plan_memory(published("2B turbo", "0.6B"), card(4), Wishes(), Demand(240, thinks=True))
    assert plan.fits and plan.peak < 3.9 * GB
    offloaded = plan_memory(
        published("2B turbo"), card(80), Wishes(offload_dit=True, memory_limit=3.5), Demand(240)
    )
    assert offloaded.placements["dit"] == "streamed"
    assert offloaded.peaks["rendering"] < 1.5 * GB


def test_wishes_are_kept_and_never_made_up() -> None:
    sizes = published("2B turbo", "4B")
    song = Demand(120, thinks=True)
    for hardware in (*CARDS, *CPUS, *MACS):
        for wishes in WISHES:
            plan = plan_memory(sizes, hardware, wishes, song)
            assert (plan.int8, plan.nf4) == (wishes.int8, wishes.lm_nf4)
            if wishes.offload_dit:  # where main memory is the device's, nothing is to be offloaded
                assert (plan.placements["dit"] == "streamed") or hardware.device.shares_memory


def test_int8_halves_what_it_acts_on() -> None:
    plain, int8 = (
        plan_memory(published("2B turbo"), card(80), Wishes(int8=on), Demand(10)).peaks["rendering"]
        for on in (False, True)
    )
    matrices = sum(published("2B turbo").parts[part].quantizable for part in
                   ("dit", "conditioner", "text_encoder"))  # fmt: skip
    assert plain - int8 == pytest.approx(matrices, rel=0.01)


@pytest.mark.parametrize(
    ("hardware", "model", "dtype", "reason"),
    [
        (card(24), "2B turbo", "bfloat16", ""),
        (card(11, bf16=False), "2B turbo", "float32", "this card has no bfloat16"),
        (shared("mps", 32), "2B turbo", "float32", ""),
        (shared("cpu", 24), "2B turbo", "float32", ""),
        (shared("cpu", 24, bf16=True), "2B turbo", "bfloat16", ""),
        (shared("cpu", 24, bf16=True), "nano", "float32", ""),
    ],
)
def test_the_precision_is_what_the_device_computes_in(
    hardware: Hardware, model: Model, dtype: str, reason: str
) -> None:
    plan = plan_memory(published(model), hardware, Wishes(), Demand(60))
    assert (plan.dtype, plan.dtype_reason) == (dtype, reason)
    assert dtype in plan.sentence() and reason in plan.sentence()


def test_what_does_not_fit_names_itself_and_only_ways_that_lead_out() -> None:
    sizes, song = published("2B turbo", "4B"), Demand(240, thinks=True)
    plan = plan_memory(sizes, card(6), Wishes(), song)
    assert plan.sentence() == (
        f"Does not fit: 4B 5Hz LM needs {plan.peaks['planning'] / GB:.1f} of 5.7 GB while planning "
        "240 s: choose NF4 for the 5Hz LM, a smaller 5Hz LM or LM Device cpu."
    )
    assert not plan_memory(sizes, card(6), Wishes(int8=True), song).fits
    assert plan_memory(sizes, card(6), Wishes(lm_nf4=True), song).fits
    poor = plan_memory(sizes, card(6, main=16), Wishes(), song)
    assert "LM Device cpu" not in poor.sentence()  # 17 GB in float32
    long = plan_memory(published("XL turbo"), card(4), Wishes(memory_limit=1.5), Demand(600, 8))
    assert not long.fits and "Memory Limit" in long.sentence()


def test_main_memory_can_be_what_is_missing() -> None:
    plan = plan_memory(published("XL turbo"), card(8, main=8), Wishes(), Demand(120))
    assert not plan.fits and "GB of main memory to hold what is not on the GPU" in plan.sentence()


def test_a_planner_on_a_device_of_its_own_is_judged_there() -> None:
    sizes, song = published("2B turbo", "4B"), Demand(240, thinks=True)
    small, large = card(6).device, card(24).device
    own = Hardware(small, Memory(32 * GIB, 28 * GIB), dataclasses.replace(large, name="cuda:1"))
    plan = plan_memory(sizes, own, Wishes(), song)
    assert plan.fits and plan.placements["planner"] == "resident"
    assert plan.peaks["planning"] > plan.budget and plan.planner_budget > plan.budget
    on_cpu = Hardware(small, own.main, DeviceFacts("cpu", own.main))
    swapped = plan_memory(sizes, on_cpu, Wishes(), song)
    assert swapped.fits and swapped.planner_dtype == "float32" and swapped.dtype == "bfloat16"
    assert swapped.main_memory > swapped.peaks["planning"] - GB


def test_a_plan_survives_the_way_to_another_process() -> None:
    plan = plan_memory(published("2B turbo", "0.6B"), card(8), Wishes(), Demand(thinks=True))
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan and again.lighter() == plan.lighter()


def test_the_usual_song_follows_from_the_model() -> None:
    turbo, base = (plan_memory(published(m, "0.6B"), card(24), Wishes()) for m in MODELS[:2])
    assert base.peaks["rendering"] > turbo.peaks["rendering"] and "planning" in turbo.peaks
    assert "planning" not in plan_memory(published("2B turbo"), card(24), Wishes()).peaks


PRESET = Preset(
    name="turbo", steps=8, max_steps=20, shift=3, guidance_scale=1, is_turbo=True, duration=120,
    rewrite_caption=False, dcw="off",
)  # fmt: skip


def test_a_request_says_what_it_demands(tmp_path: Path) -> None:
    asked = Text2Music(caption="x", takes=3, duration=90)
    assert Demand.of(asked, PRESET, has_planner=False) == Demand(
        90, 3, text_tokens=327, prompt_tokens=583
    )
    assert Demand.of(asked, PRESET, has_planner=True).thinks
    open_song = Text2Music(caption="x", lyrics="la " * 1365, lm_cfg_scale=1)
    demand = Demand.of(
        open_song, PRESET.model_copy(update={"guidance_scale": 7.0}), has_planner=True
    )
    assert (demand.seconds, demand.guided, demand.branches) == (120, True, 1)
    assert 2000 < demand.text_tokens < 2400
    source = tmp_path / "song.wav"
    source.touch()
    cover = parse_request({"task": "cover", "caption": "x", "source_audio": str(source)})
    demand = Demand.of(cover, PRESET, has_planner=True, seconds=33)
    assert (demand.seconds, demand.thinks, demand.encodes_source) == (33, False, True)


def test_devices_are_chosen_as_torch_would() -> None:
    gpus = (GpuCard("one", Memory(8, 7), (7, 5)), GpuCard("two", Memory(24, 23), (8, 6)))
    cpu = Processor("x", frozenset({"amx_bf16"}))
    built = Computer(Memory(32, 30), cpu, gpus, torch=TorchBuild("2.13.0", cuda="13.0"))
    assert Hardware.of(ServiceConfig(), built) == Hardware(
        DeviceFacts("cuda:0", Memory(8, 7), False), Memory(32, 30)
    )
    split = Hardware.of(ServiceConfig(device="cuda:1", lm_device="cpu"), built)
    assert split.device == DeviceFacts("cuda:1", Memory(24, 23), True)
    assert split.planner == DeviceFacts("cpu", Memory(32, 30), True)
    assert Hardware.of(ServiceConfig(lm_device="cuda"), built).planner is None
    blind = dataclasses.replace(built, torch=TorchBuild("2.13.0+cpu"))
    assert Hardware.of(ServiceConfig(), blind).device.name == "cpu"
    with pytest.raises(Unavailable, match="built without CUDA"):
        Hardware.of(ServiceConfig(device="cuda:1"), blind)
    mac = Computer(Memory(16, 16), Processor("M2"), has_apple_gpu=True, torch=TorchBuild("2"))
    assert Hardware.of(ServiceConfig(), mac).device == DeviceFacts("mps", Memory(16, 16))
