"""What a repaint asks of the run that makes it."""

from pathlib import Path

import pytest
import torch

from acestep.checkpoints.catalogue import Catalogue
from acestep.request import Repaint
from acestep.tasks.repaint import RepaintTask
from acestep.tasks.timeline import Timeline

SECOND = 48_000


@pytest.mark.parametrize(("preset", "injects_last"), [("turbo", False), ("base", True)])
def test_the_last_step_of_a_turbo_run_alone_is_left_as_it_was_made(
    preset: str, injects_last: bool
) -> None:
    request = Repaint(source_audio=Path("song.flac"), repainting_start=4, repainting_end=8)
    resolved = request.resolve(Catalogue.read().presets[preset])
    timeline = Timeline.around(12 * SECOND, request.regions_of(12.0))
    source = torch.zeros(1, len(timeline.inpaint_mask), 64)
    constraint = RepaintTask().constraint(resolved, timeline, source)
    assert constraint.injects_last is injects_last
