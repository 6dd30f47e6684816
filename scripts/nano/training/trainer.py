"""One training loop for all nano models: time budget, learning rate, checkpoints, curve.

A trainer script gives a network and a function from a step's number to its losses. Whatever is
random in a step is drawn from that number, so a run that was cut off and resumed computes what an
uninterrupted one computes, and no random state needs to be stored. The data is endless: every step
is new music, and a held-out loss says how well it is learnt.
"""

import math
import os
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from acestep.planner.backends.decoder import fitting_dtype
from scripts.nano.training.muon import Muon

CHECKPOINT_FILE = "training.pt"
CURVE_FILE = "curve.png"

LossOf = Callable[[int], Mapping[str, Tensor]]
Validate = Callable[[nn.Module], float]
Export = Callable[[nn.Module], None]


@dataclass(frozen=True)
class Training:
    """The `[training]` table of a trainer's TOML.

    Attributes:
        minutes: wall-clock budget, all runs of a resumed training together.
        steps: ends the training too; whichever is reached first. 0 leaves it to the minutes.
        learning_rate: the highest; reached after `warmup_steps`, then falls as a cosine of the
            budget spent, down to `final_rate` of it.
        optimizer: "adamw", or "muon" for the matrices inside layers.
        ema: decay of the averaged copy that is validated and exported; 0 keeps none.
        clip: the gradient's largest norm.
    """

    minutes: float
    learning_rate: float
    optimizer: Literal["adamw", "muon"] = "adamw"
    steps: int = 0
    warmup_steps: int = 100
    final_rate: float = 0.02
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.0
    log_seconds: float = 30.0
    save_seconds: float = 120.0
    validate_seconds: float = 300.0

    def spent(self, step: int, seconds: float) -> float:
        """The share of the budget that is gone: 1 ends the training."""
        by_time = seconds / (60 * self.minutes)
        return max(by_time, step / self.steps) if self.steps else by_time

    def rate(self, step: int, seconds: float) -> float:
        """The learning rate of a step (from 0)."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.spent(step, seconds))))
        fall = self.final_rate + (1 - self.final_rate) * cosine
        return self.learning_rate * fall * min(1.0, (step + 1) / max(1, self.warmup_steps))


@dataclass
class Progress:
    """How far a training is, and what it has lost on the way: what the curve shows."""

    step: int = 0
    seconds: float = 0.0
    trained: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)


def read_config(path: Path) -> dict[str, Any]:
    """A trainer's TOML; its `[training]` table becomes a `Training`."""
    config = tomllib.loads(path.read_text(encoding="utf-8"))
    table = config["training"]
    if "betas" in table:
        table["betas"] = tuple(table["betas"])
    return {**config, "training": Training(**table)}


def train(
    model: nn.Module,
    loss_of: LossOf,
    training: Training,
    folder: Path,
    *,
    validate: Validate | None = None,
    export: Export | None = None,
) -> Progress:
    """Train until the budget is spent; resumes from `folder` when it holds a checkpoint.

    Args:
        model: on its device; holds the last weights afterwards, or their average with `ema`.
        loss_of: step number → the parts of the loss, weighted: their sum is what falls.
        folder: for the checkpoint and the curve.
        validate: held-out loss of a network (with `ema`, of the average).
        export: writes a network in its official layout; called with every validation, so that
            there is something to use before the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = make_optimizer(model, training)
    average = deepcopy(model).requires_grad_(False) if training.ema else None
    progress = _resume(folder / CHECKPOINT_FILE, model, optimizer, average)
    best = model if average is None else average
    device = next(model.parameters()).device

    def judge() -> None:
        if validate is not None:
            with torch.no_grad():
                progress.held_out.append((progress.step, validate(best)))
            print(f"step {progress.step}: held-out loss {progress.held_out[-1][1]:.4f}", flush=True)
        if export is not None:
            export(best)
        if progress.trained:
            draw_curve(folder / CURVE_FILE, progress)

    begun = time.monotonic() - progress.seconds
    logged = saved = judged = progress.seconds
    sums: dict[str, float] = {}
    first = since = progress.step
    while training.spent(progress.step, progress.seconds) < 1:
        rate = training.rate(progress.step, progress.seconds)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with fast(device):
            losses = loss_of(progress.step)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.clip, error_if_nonfinite=True)
        optimizer.step()
        if average is not None:
            _follow(average, model, min(training.ema, (1 + progress.step) / (10 + progress.step)))
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        progress.step += 1
        progress.seconds = time.monotonic() - begun
        if progress.seconds - logged >= training.log_seconds:
            logged = progress.seconds
            _log(progress, sums, since, rate, training)
            sums, since = {}, progress.step
        if progress.seconds - judged >= training.validate_seconds:
            judge()
            judged = progress.seconds = time.monotonic() - begun
        if progress.seconds - saved >= training.save_seconds:
            saved = progress.seconds
            _save(folder / CHECKPOINT_FILE, model, optimizer, average, progress)
    if progress.step > first:
        if sums:
            _log(progress, sums, since, training.rate(progress.step, progress.seconds), training)
        judge()
        _save(folder / CHECKPOINT_FILE, model, optimizer, average, progress)
    if average is not None:
        model.load_state_dict(average.state_dict())
    return progress


@contextmanager
def fast(device: torch.device) -> Iterator[None]:
    """Multiplies in bfloat16 where that is fast: a quarter less time for a CPU's step.

    The CPU's fused attention is left out: its backward is slower than plain products in bfloat16.
    """
    is_fast = fitting_dtype(device) == torch.bfloat16
    is_plain = is_fast and device.type == "cpu"
    attention = sdpa_kernel(SDPBackend.MATH) if is_plain else nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=is_fast), attention:
        yield


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """AdamW; matrices decay, gains and biases do not."""
    if training.optimizer == "muon":
        return Muon(
            model,
            training.learning_rate,
            weight_decay=training.weight_decay,
            betas=training.betas,
        )
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=training.betas, fused=True)


def write_weights(path: Path, model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
    """A network as safetensors, replaced in one go so that a reader never finds half a file."""
    tensors = {
        name: value.detach().to("cpu", dtype).contiguous()
        for name, value in sorted(model.state_dict().items())
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"format": "pt"})
    os.replace(part, path)


def draw_curve(path: Path, progress: Progress) -> None:
    """The parts of the training loss and the held-out loss over the steps, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    steps = [step for step, _ in progress.trained]
    for name in progress.trained[-1][1]:
        axes.plot(steps, [parts.get(name, math.nan) for _, parts in progress.trained], label=name)
    if progress.held_out:
        axes.plot(*zip(*progress.held_out, strict=True), "o-", color="black", label="held out")
    axes.set(xlabel="step", ylabel="loss", title=f"{progress.seconds / 60:.0f} minutes")
    axes.grid(alpha=0.3)
    axes.legend()
    part = path.with_suffix(".part")
    figure.savefig(part, format="png", dpi=100)
    os.replace(part, path)


def _log(
    progress: Progress, sums: dict[str, float], since: int, rate: float, training: Training
) -> None:
    """One line on stdout and one point on the curve: means since the last line."""
    count = progress.step - since
    means = {name: total / count for name, total in sums.items()}
    progress.trained.append((progress.step, means))
    share = training.spent(progress.step, progress.seconds)
    parts = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
    print(
        f"step {progress.step}  {progress.seconds / 60:.1f} min ({share:.1%})  {parts}  "
        f"rate {rate:.2e}",
        flush=True,
    )


def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights, quick at first and slow later."""
    with torch.no_grad():
        for kept, new in zip(average.parameters(), model.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    progress: Progress,
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": None if average is None else average.state_dict(),
        "progress": asdict(progress),
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def _resume(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> Progress:
    if not path.exists():
        return Progress()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if average is not None:
        average.load_state_dict(state["average"] or state["model"])
    progress = Progress(**state["progress"])
    print(f"Resumed at step {progress.step}, {progress.seconds / 60:.1f} minutes.", flush=True)
    return progress
