"""The benchmark runs and prints what its name says; how fast anything is, no test can know."""

import re

import pytest

from scripts.bench import main


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
