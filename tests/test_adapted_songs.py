"""Songs with adapters, in 8 bits and streamed: each in every task, and all of it together."""

import gc
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from acestep.config import ServiceConfig
from acestep.errors import CheckpointError, ModelMissing
from acestep.library.track import Track
from acestep.models.config import AceStepConfig
from acestep.request import Cover, MusicRequest, Repaint, Text2Music
from acestep.service import MusicService

TURBO = "acestep-v15-nano-turbo"
SONG = Text2Music(caption="lo-fi", duration=10, seed=3, steps=1, think=False)
INT8_BOUND = 3e-2  # relative L2 of latents
RANK = 4

Load = Callable[..., MusicService]


@pytest.fixture
def load(tiny_models: Path) -> Load:
    def load(**settings: Any) -> MusicService:
        return MusicService.load(TURBO, lm=None, device="cpu", checkpoints=tiny_models, **settings)

    return load


@pytest.fixture(scope="module")
def plain(tiny_models: Path) -> MusicService:
    return MusicService.load(TURBO, lm=None, device="cpu", checkpoints=tiny_models)


@pytest.fixture(scope="module")
def lora(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A strong one, on every attention of the tiny DiT."""
    config = AceStepConfig.read(tiny_models / TURBO)
    width, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for layer in range(config.num_hidden_layers):
        for attention in ("self_attn", "cross_attn"):
            key = f"base_model.model.layers.{layer}.{attention}.q_proj"
            for name, shape in (("lora_A", (RANK, width)), ("lora_B", (heads, RANK))):
                tensors[f"{key}.{name}.weight"] = torch.randn(shape, generator=generator)
    save_file(tensors, path := tmp_path_factory.mktemp("loras") / "strong.safetensors")
    return path


def latents(track: Track) -> torch.Tensor:
    assert track.latents is not None
    return track.latents


def difference(one: Track, other: Track) -> float:
    """Relative L2 of latents."""
    return ((latents(one) - latents(other)).norm() / latents(other).norm()).item()


def adapted(service: MusicService, *lora: str) -> None:
    service.adapt(service.config.model_copy(update={"lora": lora}))


def test_an_adapter_comes_goes_and_is_weighed_without_loading_again(
    load: Load, plain: MusicService, lora: Path
) -> None:
    service = load()
    networks, bare = service._networks(), plain.run(SONG)[0]
    adapted(service, str(lora))
    (said,) = service.adapters_said
    assert re.search(
        r"strong\.safetensors: LoRA rank 4, \d+ of \d+ layers, changes the weigh", said
    )
    full = service.run(SONG)[0]
    adapted(service, f"{lora}:0.5")
    half = service.run(SONG)[0]
    assert difference(full, bare) > difference(half, bare) > 0.01
    adapted(service, f"{lora}:0")
    assert torch.equal(service.run(SONG)[0].waveform, bare.waveform)
    adapted(service)
    assert torch.equal(service.run(SONG)[0].waveform, bare.waveform)
    assert service._networks() is networks and service.adapters_said == []


def test_it_acts_in_every_task(load: Load, plain: MusicService, lora: Path, tmp_path: Path) -> None:
    plain.run(SONG)[0].save(song := tmp_path / "song.wav")
    service = load(lora=(str(lora),))
    edits: list[MusicRequest] = [
        Repaint(source_audio=song, repainting_start=2, repainting_end=5, steps=1, seed=1),
        Cover(source_audio=song, caption="jazz", steps=1, seed=1),
    ]
    for request in [SONG, *edits]:
        with_it, without = service.run(request)[0], plain.run(request)[0]
        assert not torch.equal(with_it.waveform, without.waveform), request.name


def test_the_recipe_tells_which_adapters_acted(load: Load, lora: Path) -> None:
    service = load(lora=(f"{lora}:0.5",))
    recipe = service.run(SONG)[0].recipe
    (told,) = recipe["adapters"]
    assert told["name"] == "strong.safetensors" and told["strength"] == 0.5
    assert len(told["sha256"]) == 64 and told["path"] == str(lora)
    assert recipe["service"]["lora"] == [f"{lora}:0.5"]


def test_eight_bits_stay_within_the_bound(load: Load, plain: MusicService) -> None:
    service = load(int8=True)
    assert re.search(r"and INT8, .* INT8 moves the DiT's weights by \d\.\d%\.", service.memory_said)
    track = service.run(SONG)[0]
    assert 0 < difference(track, plain.run(SONG)[0]) <= INT8_BOUND
    assert track.recipe["service"]["int8"] is True


@pytest.mark.parametrize("int8", [False, True])
def test_an_adapter_on_streamed_layers_acts_as_on_resident_ones(
    load: Load, lora: Path, int8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = load(int8=int8, lora=(str(lora),))
    resident = service.run(SONG)[0]
    plan = service.plan_memory(SONG)
    streamed = replace(plan, placements={**plan.placements, "dit": "streamed"})
    monkeypatch.setattr(service, "plan_memory", lambda *request: streamed)
    assert torch.equal(service.run(SONG)[0].waveform, resident.waveform)


def test_what_cannot_be_had_leaves_what_was_there(
    load: Load, plain: MusicService, lora: Path, tmp_path: Path
) -> None:
    service = load(lora=(str(lora),))
    before = service.run(SONG)[0]
    with pytest.raises(ModelMissing, match="'nowhere' is not on this computer"):
        adapted(service, "nowhere")
    (tmp_path / "other.safetensors").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(CheckpointError, match="GGUF"):
        adapted(service, str(tmp_path / "other.safetensors"))
    assert torch.equal(service.run(SONG)[0].waveform, before.waveform)
    assert service.config == ServiceConfig(**{**dict(service.config), "lora": (str(lora),)})


def test_twenty_songs_in_a_row_keep_memory_flat(plain: MusicService) -> None:
    def resident() -> int:
        gc.collect()
        status = Path("/proc/self/status").read_text()
        match = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
        assert match is not None
        return int(match[1])

    if not Path("/proc/self/status").is_file():
        pytest.skip("only Linux tells what is resident")
    held = []
    for number in range(1, 21):
        plain.run(SONG.model_copy(update={"seed": number}))
        if number % 4 == 0:
            held.append(resident())
    assert max(held) <= 1.05 * min(held), held
