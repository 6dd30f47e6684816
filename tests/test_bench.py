"""The benchmark runs and prints what its name says; how fast anything is, no test can know."""

import re
from pathlib import Path

import pytest

from acestep.config import ServiceConfig
from scripts.bench import main
from scripts.bench_memory import measure, modes
from scripts.resident import STATUS

NANO = "acestep-v15-nano-turbo"


def test_the_planner_is_measured_beside_transformers(capsys: pytest.CaptureFixture[str]):
    main(["planner", "--size", "toy", "--steps", "4", "--rounds", "1"])
    printed = capsys.readouterr().out
    rows = re.findall(r"^(acestep|transformers.*?)((?: +\d+\.\d+){5})$", printed, re.MULTILINE)
    assert [name.strip() for name, _ in rows] == [
        "acestep",
        "transformers, batched by hand",
        "transformers generate",
    ]
    numbers = [[float(number) for number in columns.split()] for _, columns in rows]
    assert numbers[0][3:] == [1.0, 1.0]
    assert all(number > 0 for row in numbers for number in row[:3])
    for row in numbers:  # ratios are of the times beside them, which are rounded
        assert row[3] == pytest.approx(row[0] / numbers[0][0], rel=0.1, abs=0.1)


@pytest.mark.skipif(not STATUS.is_file(), reason="only Linux tells what is resident")
def test_memory_is_measured_in_every_way_to_keep_the_networks(
    capsys: pytest.CaptureFixture[str], tiny_models: Path
):
    config = ServiceConfig(model=NANO, device="cpu", lm="none", checkpoints=tiny_models)
    assert [mode.name for mode in modes(config)] == [
        "all resident",
        "one network at a time",
        "DiT streamed",
        "all resident, INT8",
        "one network at a time, INT8",
    ]
    row = measure(config, seconds=10)
    assert 0 < row["loaded"] < row["peak"] and row["load"] > 0 and row["song"] > 0
