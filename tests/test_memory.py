"""Songs under every plan of memory are the same songs, and running out of it ends in one."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from acestep.errors import OutOfMemory
from acestep.library.track import Track
from acestep.models.condition import ConditionEncoder
from acestep.models.dit import DiT
from acestep.models.text_encoder import TextEncoder
from acestep.models.vae import Decoder, Encoder
from acestep.planner.backends.pt import PtBackend
from acestep.request import MusicRequest, Repaint, Text2Music
from acestep.runtime.memory_plan import MemoryPlan, Part, Placement
from acestep.service import MusicService

TURBO = "acestep-v15-nano-turbo"
SONG = Text2Music(caption="lo-fi", duration=10, seed=3, steps=1, takes=2, think=False)
STAGES: dict[str, tuple[Any, str]] = {
    "planning": (PtBackend, "generate"),
    "conditioning": (TextEncoder, "encode_caption"),
    "rendering": (DiT, "forward"),
    "decoding": (Decoder, "forward"),
}


@pytest.fixture(scope="module")
def service(tiny_models: Path) -> MusicService:
    return MusicService.load(TURBO, device="cpu", checkpoints=tiny_models)


@pytest.fixture(scope="module")
def song(service: MusicService) -> list[Track]:
    """What comes of it when there is room for everything."""
    return service.run(SONG)


def same(tracks: list[Track], others: list[Track]) -> bool:
    pairs = zip(tracks, others, strict=True)
    return all(torch.equal(one.waveform, other.waveform) for one, other in pairs)


def placed(service: MusicService, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Have the service run under a plan with these changes."""
    plan = replace(service.plan_memory(SONG), **changes)
    monkeypatch.setattr(service, "plan_memory", lambda *request: plan)


def everywhere(placement: Placement, **others: Placement) -> dict[Part, Placement]:
    parts: tuple[Part, ...] = ("dit", "conditioner", "text_encoder", "vae", "planner")
    return {part: others.get(part, placement) for part in parts}


@pytest.mark.parametrize(
    "placements",
    [
        everywhere("swapped"),
        everywhere("swapped", dit="streamed"),
        everywhere("resident", dit="streamed", planner="swapped"),
    ],
)
def test_wherever_the_networks_wait_the_song_is_the_same(
    service: MusicService,
    song: list[Track],
    placements: dict[Part, Placement],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = service.run(SONG.model_copy(update={"think": True}))
    with monkeypatch.context() as patched:
        placed(service, patched, placements=placements)
        assert same(service.run(SONG), song)
        assert same(service.run(SONG.model_copy(update={"think": True})), planned)
        assert same(service.run(SONG), song), "and so is the next one"
    assert same(service.run(SONG), song), "and the one under the old plan"


def alike(plan: MemoryPlan, other: MemoryPlan) -> bool:
    """Whether they differ in nothing but how much is free."""
    pairs = ((p.placements, p.tile_frames, p.takes_at_once, p.traded) for p in (plan, other))
    return next(pairs) == next(pairs)


def failing(times: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """A step that runs out of memory so many times."""
    left = [times]

    def step(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(*args, **kwargs)

    return step


def rungs(plan: MemoryPlan) -> int:
    count = 0
    while (lighter := plan.lighter()) is not None:
        plan, count = lighter, count + 1
    return count


@pytest.mark.parametrize("stage", STAGES)
def test_running_out_of_memory_ends_in_a_finished_song_that_names_the_trade(
    service: MusicService, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever stage it is, and however far down the ladder it goes."""
    owner, name = STAGES[stage]
    request = SONG.model_copy(update={"think": stage == "planning"})
    real, usual, song = getattr(owner, name), service.plan_memory(request), service.run(request)
    deepest = rungs(usual)
    for times in range(1, deepest + 1) if stage == "rendering" else (1, deepest):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, failing(times, real))
            tracks = service.run(request)
        pairs = zip(tracks, song, strict=True)
        assert all(torch.allclose(a.waveform, b.waveform, atol=1e-3) for a, b in pairs)
        for track in tracks:
            traded = [note for note in track.warnings if note.startswith("Memory ran out")]
            assert len(traded) == times and len(set(traded)) == times
    assert not alike(service._networks().plan, usual)
    assert same(service.run(request), song), "the next song runs as if nothing had been"
    assert alike(service._networks().plan, usual)


def test_what_fits_under_no_plan_is_an_error_and_the_next_song_runs(
    service: MusicService, song: list[Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = rungs(service.plan_memory(SONG)) + 1
    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "forward", failing(times, Decoder.forward))
        with pytest.raises(OutOfMemory, match=r"Ask for .* shorter"):
            service.run(SONG)
    assert same(service.run(SONG), song)


def test_reading_a_source_steps_down_too(
    service: MusicService, song: list[Track], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "song.wav"  # without the latents that lie beside a song of ours
    soundfile.write(file, song[0].waveform.T.numpy(), 48_000)
    edit: MusicRequest = Repaint(
        source_audio=file, repainting_start=2, repainting_end=4, steps=2, seed=1
    )
    before = service.run(edit)
    monkeypatch.setattr(Encoder, "forward", failing(2, Encoder.forward))
    after = service.run(edit)
    assert len([n for n in after[0].warnings if n.startswith("Memory ran out")]) == 2
    assert torch.allclose(before[0].waveform, after[0].waveform, atol=1e-3)


def test_an_error_that_is_none_of_memory_is_not_tried_again(
    service: MusicService, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Decoder, "forward", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        service.run(SONG)
    assert len(calls) == 1


def test_a_song_that_does_not_fit_is_refused_before_it_is_begun(tiny_models: Path) -> None:
    """With the plan's own sentence; a limit stands for a small card."""
    small = MusicService.load(
        TURBO, device="cpu", lm=None, checkpoints=tiny_models, memory_limit=0.5
    )
    long = SONG.model_copy(update={"duration": 600.0, "takes": 8})
    with pytest.raises(OutOfMemory, match=r"Does not fit: .* choose a higher Memory Limit"):
        small.run(long)
    assert len(small.run(SONG)) == 2


def test_a_network_that_takes_its_turn_leaves_nothing_behind(
    service: MusicService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU it is read again for its next turn: nobody may still hold it when others begin."""
    used: list[weakref.ref[TextEncoder]] = []
    encode_caption, encode = TextEncoder.encode_caption, ConditionEncoder.forward
    alive: list[bool] = []

    def noted(encoder: TextEncoder, *arguments: Any) -> Any:
        used.append(weakref.ref(encoder))
        return encode_caption(encoder, *arguments)

    def asked(encoder: ConditionEncoder, *arguments: Any) -> Any:
        alive.append(used[-1]() is not None)
        return encode(encoder, *arguments)

    monkeypatch.setattr(TextEncoder, "encode_caption", noted)
    monkeypatch.setattr(ConditionEncoder, "forward", asked)
    placed(service, monkeypatch, placements=everywhere("swapped"))
    service.run(SONG)
    assert alive == [False]
