"""The plan's peaks against measured ones: published widths, two layers deep, on this CPU."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from measure_memory import (
    DECODED,
    LAYERS,
    PROMPT,
    RENDERED,
    TAKES,
    TEXT,
    WRITTEN,
)
from published_sizes import PUBLISHED_2B, published, qwen3

from acestep.models.config import AceStepConfig
from acestep.progress import Stage
from acestep.runtime.machine import Memory
from acestep.runtime.memory_plan import Demand, DeviceFacts, Hardware, Wishes, plan_memory
from acestep.runtime.sizes import PartSize, Sizes
from scripts.resident import STATUS

ROOM = Memory(10**12, 10**12)
CPU = Hardware(DeviceFacts("cpu", ROOM), ROOM)
SCRIPT = Path(__file__).parent / "measure_memory.py"


def shallow() -> Sizes:
    """The published 2B and 0.6B with two layers each."""
    whole = published("2B turbo", "0.6B")
    layers = PartSize(*(LAYERS * each for each in dataclasses.astuple(whole.dit_layer)))
    rest = whole.parts["dit"].numbers - whole.dit_layers.numbers
    planner = qwen3("0.6B", num_hidden_layers=LAYERS)
    layer = 2 * 1024 * (2048 + 1024) + 3 * 1024 * 3072
    return dataclasses.replace(
        whole,
        dit=AceStepConfig.from_dict(PUBLISHED_2B | {"num_hidden_layers": LAYERS}),
        dit_layers=layers,
        planner=planner,
        parts={
            **whole.parts,
            "dit": PartSize(layers.numbers + rest),
            "planner": PartSize(217_204 * 1024 + LAYERS * layer),
        },
    )


def planned(stage: Stage, demand: Demand) -> int:
    """The plan's peak with one network at a time."""
    plan = plan_memory(shallow(), CPU, Wishes(), demand)
    while plan is not None and set(plan.placements.values()) != {"swapped"}:
        plan = plan.lighter()
    assert plan is not None
    return plan.peaks[stage]


@pytest.mark.skipif(not STATUS.is_file(), reason="only Linux tells what is resident")
def test_planned_peaks_are_within_15_percent_of_measured_ones() -> None:
    tests = SCRIPT.parent.parent
    path = os.pathsep.join(map(str, (tests, tests.parent)))
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        capture_output=True,
        text=True,
        # Work space differs by the kernels that a CPU has: 7 % between SSE4.1 and AVX2.
        env={**os.environ, "PYTHONPATH": path, "ONEDNN_MAX_CPU_ISA": "AVX2"},
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    written = Demand(WRITTEN, TAKES, thinks=True, prompt_tokens=PROMPT)
    expected = {
        "plan": planned("planning", written),
        "render": planned("rendering", Demand(RENDERED, text_tokens=TEXT)),
        "decode": planned("decoding", Demand(DECODED)),
    }
    ratios = {name: expected[name] / measured[name] for name in expected}
    assert all(ratio == pytest.approx(1, abs=0.15) for ratio in ratios.values()), ratios
