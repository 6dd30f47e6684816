"""What a GPU's own counters say of a plan: the 2B with random weights, at full size."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from acestep.request import Text2Music
from acestep.service import MusicService
from scripts.bench_memory import MODEL, write_published

pytestmark = pytest.mark.gpu

GB = 1e9
SONG = Text2Music(caption="lo-fi", duration=240, seed=3)
LAYERS = 24


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    write_published(root, LAYERS, has_planner=True)
    return root


def measured(work: Callable[[], Any]) -> tuple[float, float]:
    """Peak of allocated GB, and seconds."""
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / GB, time.perf_counter() - began


def test_a_song_of_four_minutes_with_think_fits_a_card_of_4_gb(models: Path) -> None:
    service = MusicService.load(MODEL, checkpoints=models, device="cuda", memory_limit=4.0)
    peak, _ = measured(lambda: service.run(SONG))
    assert peak <= 3.9
    assert peak <= 1.15 * service.plan_memory(SONG).peak / GB


def test_streaming_the_dit_costs_less_than_a_third_more_time(models: Path) -> None:
    request = SONG.model_copy(update={"think": False})
    seconds = {}
    for offload in (False, True):
        service = MusicService.load(
            MODEL, checkpoints=models, device="cuda", lm=None, offload_dit=offload
        )
        service.run(request)  # warm
        seconds[offload] = service.run(request)[0].seconds["rendering"]
        if offload:
            with service._networks().dit() as dit:
                there = {id(t): t for t in (*dit.parameters(), *dit.buffers()) if t.is_cuda}
                held = sum(tensor.nbytes for tensor in there.values())
                slots = sum(t.nbytes for slot in dit.layers._slots for t in slot)  # pyright: ignore
            assert (held + slots) / GB <= 1.5
    assert seconds[True] <= 1.3 * seconds[False]


@pytest.mark.parametrize("settings", [{"int8": True}, {"int8": True, "offload_dit": True}])
def test_every_way_to_save_memory_ends_in_a_song(models: Path, settings: dict[str, Any]) -> None:
    service = MusicService.load(MODEL, checkpoints=models, device="cuda", **settings)
    short = SONG.model_copy(update={"duration": 20.0})
    assert service.run(short)[0].health.problem() is None


def test_the_planner_may_compute_elsewhere(models: Path) -> None:
    service = MusicService.load(MODEL, checkpoints=models, device="cuda", lm_device="cpu")
    short = SONG.model_copy(update={"duration": 10.0, "think": True})
    assert service.run(short)[0].health.problem() is None
