"""What loading takes and a song needs of memory, one row per way to keep the networks.

    uv run python scripts/bench.py memory                         # random weights, published sizes
    uv run python scripts/bench.py memory --model acestep-v15-turbo --device cuda --seconds 240

Every row is a process of its own. Weights that nobody has are random ones in the published layout:
memory and loading do not depend on what a network has learnt.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from acestep.checkpoints.locate import Checkpoints
from acestep.config import NO_LM, ServiceConfig
from acestep.models.acestep import AceStep
from acestep.models.config import AceStepConfig, Qwen3Config, VaeConfig
from acestep.models.qwen3 import Qwen3
from acestep.models.vae import Vae
from acestep.request import Text2Music
from acestep.runtime import devices
from acestep.runtime.demand import Demand
from acestep.runtime.folders import find_folders
from acestep.runtime.memory_plan import GB, MemoryPlan, Wishes, plan_memory
from acestep.runtime.sizes import Sizes
from acestep.seeds import generator
from acestep.service import MusicService
from scripts import make_tiny, published
from scripts.resident import peak_resident, resident_bytes

MODEL = "acestep-v15-turbo"
SEED = 3
BLOCK = 2**22  # random numbers that large tensors repeat
ROOM = 1.02  # what a limit leaves beside the plan that it is to bring about

ACESTEP: Mapping[str, Any] = {
    **make_tiny.ACESTEP, **published.DIT_2B, "model_version": "turbo",
}  # fmt: skip
VAE: Mapping[str, Any] = {**make_tiny.VAE, **published.OOBLECK}
QWEN3: Mapping[str, Any] = {**make_tiny.QWEN3, **published.QWEN3["0.6B"]}


@dataclass(frozen=True)
class Mode:
    """One way to keep the networks: settings of the service, and what the plan must then say."""

    name: str
    settings: Mapping[str, Any]


def bench_memory(
    model: str | None, *, device: str, seconds: float, layers: int, has_planner: bool, threads: int
) -> None:
    """Print a row per mode: seconds to load, memory after it and at the song's peak, the plan's.

    Args:
        model: a checkpoint; None writes a random one of 2B width with so many layers.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = None
        if model is None:
            root, model = Path(folder), MODEL
            write_published(root, layers, has_planner=has_planner)
        config = ServiceConfig(
            model=model, device=device, checkpoints=root, lm="auto" if has_planner else NO_LM
        )
        header = ("mode", "load s", "loaded GB", "peak GB", "planned GB", "song s")
        print(f"{header[0]:34}" + "".join(f"{column:>11}" for column in header[1:]))
        for mode in modes(config):
            settings = config.model_dump(mode="json", exclude_defaults=True) | dict(mode.settings)
            case = json.dumps({"config": settings, "seconds": seconds, "threads": threads})
            done = subprocess.run(
                [sys.executable, "-m", "scripts.bench_memory", case], capture_output=True, text=True
            )
            if done.returncode:
                print(f"{mode.name:34}  {done.stderr.strip().splitlines()[-1]}")
                continue
            row = json.loads(done.stdout)
            figures = (row[name] for name in ("load", "loaded", "peak", "planned", "song"))
            print(f"{mode.name:34}" + "".join(f"{figure:11.2f}" for figure in figures), flush=True)


def modes(config: ServiceConfig) -> Iterator[Mode]:
    """Each rung of the ladder, with and without INT8, brought about by a limit of memory."""
    folders = find_folders(config)
    preset = Checkpoints(config.checkpoints).preset(folders.dit)
    demand = Demand.usual(preset, has_planner=folders.lm is not None)
    hardware = devices.hardware(devices.resolve_device(config.device))
    for int8 in (False, True):
        plan = plan_memory(Sizes.read(folders), hardware, Wishes(int8=int8), demand)
        told: set[str] = set()
        rung: MemoryPlan | None = plan
        while rung is not None:
            name = _name(rung)
            if name not in told and rung.tile_frames == plan.tile_frames:
                limit = {} if rung is plan else {"memory_limit": round(ROOM * rung.peak / GB, 2)}
                words = f"{name}, INT8" if int8 else name
                yield Mode(words, {"int8": int8, **limit})
            told.add(name)
            rung = rung.lighter()


def write_published(root: Path, layers: int, *, has_planner: bool) -> None:
    """A set of networks with random weights in bfloat16: the 2B turbo's, or as many layers of it.

    The VAE, the text encoder and the 0.6B planner are whole.
    """
    dit = {**ACESTEP, "num_hidden_layers": layers}
    tokenizer = make_tiny.train_tokenizer()
    _write(root / MODEL, dit, lambda: AceStep(AceStepConfig.from_dict(dit)))
    silence = 0.3 * torch.randn(1, 64, make_tiny.SILENCE_FRAMES, generator=generator(SEED, "x"))
    torch.save(silence, root / MODEL / "silence_latent.pt")
    _write(root / "vae", VAE, lambda: Vae(VaeConfig.from_dict(VAE)), "diffusion_pytorch_model")
    text = {**QWEN3, "vocab_size": published.TEXT_TOKENS}
    encoder = root / "Qwen3-Embedding-0.6B"
    _write(encoder, text, lambda: Qwen3(Qwen3Config.from_dict(text)))
    make_tiny.with_end(tokenizer).save(str(encoder / "tokenizer.json"))
    if has_planner:
        lm, folder = {**QWEN3, "vocab_size": published.PLANNER_TOKENS}, root / "acestep-5Hz-lm-0.6B"
        _write(folder, lm, lambda: Qwen3(Qwen3Config.from_dict(lm)))
        codes = math.prod(ACESTEP["fsq_input_levels"])
        make_tiny.with_codes(tokenizer, codes).save(str(folder / "tokenizer.json"))


def _write(folder: Path, config: Mapping[str, Any], build: Any, stem: str = "model") -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    with torch.device("meta"):
        network: nn.Module = build()
    block = torch.randn(BLOCK, generator=generator(SEED, "block")).to(torch.bfloat16)
    weights = {name: _random(name, like, block) for name, like in network.state_dict().items()}
    save_file(weights, folder / f"{stem}.safetensors", metadata={"format": "pt"})


def _random(name: str, like: Tensor, block: Tensor) -> Tensor:
    """Scaled so that activations stay near one, as in `make_tiny`."""
    count = like.numel()
    noise = block.repeat(-(-count // BLOCK))[:count].reshape(like.shape)
    if name.endswith(("alpha", "beta")):
        return 0.1 * noise
    if name.endswith("weight_g"):
        return torch.ones_like(noise)
    if like.ndim == 1:
        return 1 + 0.1 * noise if name.endswith("weight") else 0.02 * noise
    return noise / math.sqrt(math.prod(like.shape[1:]))


def measure(config: ServiceConfig, seconds: float) -> dict[str, float]:
    """One process's row: seconds, and GB on the device."""
    device = devices.resolve_device(config.device)
    is_gpu = device.type == "cuda"
    services: list[MusicService] = []

    def load() -> None:
        services.append(MusicService.load(config))

    def held() -> int:
        return torch.cuda.memory_allocated(device) if is_gpu else resident_bytes()

    began = time.perf_counter()
    peak = peak_resident(load)
    devices.synchronize(device)
    loading, loaded = time.perf_counter() - began, held()
    (service,) = services
    song = Text2Music(caption="lo-fi", duration=seconds, seed=SEED)
    planned = service.plan_memory(song)
    began = time.perf_counter()
    peak = max(peak, peak_resident(lambda: service.run(song)))
    devices.synchronize(device)
    rendering = time.perf_counter() - began
    if is_gpu:
        peak = torch.cuda.max_memory_allocated(device)
    return {
        "load": loading,
        "loaded": loaded / GB,
        "peak": peak / GB,
        "planned": planned.peak / GB,
        "song": rendering,
    }


def _name(plan: MemoryPlan) -> str:
    """How a plan keeps the networks, in few words."""
    places = plan.placements
    if places["dit"] == "streamed":
        return "DiT streamed"
    if places["dit"] == "swapped":
        return "one network at a time"
    if places.get("planner") == "swapped":
        return "planner unloaded"
    return "all resident"


if __name__ == "__main__":
    case = json.loads(sys.argv[1])
    torch.set_num_threads(case["threads"])
    print(json.dumps(measure(ServiceConfig.model_validate(case["config"]), case["seconds"])))
