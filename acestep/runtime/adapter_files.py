"""An adapter (LoRA, DoRA, LoKr) as its files describe it, and whether it fits a DiT.

Only headers and settings are read: no weight, no pickle, no torch. Nothing in a file is left out in
silence: what cannot be applied refuses the file with one sentence. docs/adapters.md has the formats
and formulas.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from acestep.checkpoints.files import PICKLE_SUFFIXES
from acestep.checkpoints.headers import Header, Stored, pickled, read_header, read_number
from acestep.errors import CheckpointError
from acestep.models.config import AceStepConfig
from acestep.runtime.adapter_keys import (
    AdapterKey,
    Part,
    Shape,
    Style,
    base_width,
    linear_shapes,
    parse_key,
)
from acestep.runtime.adapter_settings import AdapterSettings

# What an adapter's folder may call its weights: PEFT, LyCORIS as upstream saves it, diffusers.
WEIGHTS = ("adapter_model.safetensors", "lokr_weights.safetensors",
           "pytorch_lora_weights.safetensors")  # fmt: skip


@dataclass(frozen=True)
class LayerChange:
    """What a file holds for one linear layer.

    Attributes:
        keys: the stored key of each part.
        stored: where it lies; alpha is left out, its number is in `factor`.
        shape: [out, in] of the weight that is changed.
        rank: None for a LoKr of two whole matrices.
        factor: what the product of the parts is multiplied by: α/r, α/√r, or 1.
    """

    keys: Mapping[Part, str]
    stored: Mapping[Part, Stored]
    shape: Shape
    rank: int | None
    factor: float

    @property
    def is_lokr(self) -> bool:
        return "down" not in self.stored

    @property
    def is_dora(self) -> bool:
        return "magnitude" in self.stored or "dora_scale" in self.stored


@dataclass(frozen=True)
class Adapter:
    """A file that changes a DiT's linear layers without touching its weights.

    Attributes:
        name: of the file, or of the folder around it.
        path: what was asked for: the file or the folder.
        file: the safetensors file itself.
        style: whose spelling its keys have.
        rank: the highest; None for a LoKr of whole matrices.
        alpha: as written; None where no file says it, and the factor is then 1.
        width: of the DiT it was made for; None where its layers do not tell.
        trigger_words: what to put into the caption, by its maker; empty when unsaid.
        layers: by the DiT's own layer names.
    """

    name: str
    path: Path
    file: Path
    style: Style
    rank: int | None
    alpha: float | None
    width: int | None
    trigger_words: str
    layers: Mapping[str, LayerChange]

    @property
    def kind(self) -> str:
        """LoRA, DoRA or LoKr, as its keys say."""
        changes = self.layers.values()
        kinds = {"LoKr" if change.is_lokr else "LoRA" for change in changes}
        kinds |= {"DoRA"} if any(change.is_dora for change in changes) else set()
        return " + ".join(sorted(kinds - ({"LoRA"} if kinds == {"LoRA", "DoRA"} else set())))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of the factors they are used with, wherever they lie."""
        digest = hashlib.sha256()
        with self.file.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        for name, change in sorted(self.layers.items()):
            digest.update(f"{name} {change.factor!r}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class AdapterFit:
    """Whether an adapter fits a DiT, and why not."""

    matched: int
    total: int
    reason: str = ""  # one sentence; empty: it fits

    @property
    def fits(self) -> bool:
        return not self.reason


def read_adapter(path: Path) -> Adapter:
    """What a PEFT folder, a LyCORIS folder or one safetensors file holds.

    Raises:
        CheckpointError: a pickle, damaged, no adapter, of another kind of model, or with anything
            in it that could not be applied; the sentence names the file and the key.
    """
    file = _weights_file(path)
    header = read_header(file)
    # A file with a trainer's name belongs to its folder; another one stands alone.
    named = file.parent if file.name in WEIGHTS else file
    settings = AdapterSettings.read(file, header.metadata, has_folder=named != file)
    keys = _understood(file, header)
    parts: defaultdict[str, dict[Part, str]] = defaultdict(dict)
    for stored, key in keys.items():
        if key.part in parts[key.layer]:
            raise CheckpointError(
                f"{file.name} changes '{key.layer}' twice: by '{parts[key.layer][key.part]}' and "
                f"by '{stored}'."
            )
        parts[key.layer][key.part] = stored
    layers = {
        layer: _layer_change(layer, found, header.tensors, settings)
        for layer, found in parts.items()
    }
    ranks = [change.rank for change in layers.values() if change.rank]
    return Adapter(
        name=named.resolve().name,
        path=path,
        file=file,
        style=next(iter(keys.values())).style,
        rank=max(ranks, default=None),
        alpha=_written_alpha(parts, header.tensors, settings),
        width=base_width({layer: change.shape for layer, change in layers.items()}),
        trigger_words=settings.trigger_words,
        layers=layers,
    )


def judge_adapter(adapter: Adapter, config: AceStepConfig) -> AdapterFit:
    """Whether every layer of the adapter is there in a DiT of these sizes, in the same shape."""
    shapes = linear_shapes(config)
    total = len(adapter.layers)
    strange = {
        layer: change.shape
        for layer, change in adapter.layers.items()
        if shapes.get(layer) != change.shape
    }
    matched = total - len(strange)
    if not strange:
        return AdapterFit(matched, total)
    layer, shape = next(iter(strange.items()))
    if adapter.width not in (None, config.hidden_size):
        why = (
            f"it was made for a width of {adapter.width}, and this model's is {config.hidden_size}"
        )
    elif layer not in shapes:
        why = (
            f"it changes '{layer}', which is beyond this model's {config.num_hidden_layers} layers"
        )
    else:
        why = f"'{layer}' is {list(shape)} in it and {list(shapes[layer])} in this model"
    count = f"{matched} of {total} layers match"
    return AdapterFit(matched, total, f"{adapter.name} does not fit this model: {count}; {why}.")


def refuse_misfit(adapter: Adapter, config: AceStepConfig) -> None:
    """
    Raises:
        CheckpointError: the adapter was made for another DiT; the sentence says which.
    """
    if not (fit := judge_adapter(adapter, config)).fits:
        raise CheckpointError(fit.reason)


def _layer_change(
    layer: str, keys: Mapping[Part, str], tensors: Mapping[str, Stored], settings: AdapterSettings
) -> LayerChange:
    """
    Raises:
        CheckpointError: parts are missing, do not multiply, or have an absurd rank.
    """
    source = settings.source
    stored: dict[Part, Stored] = {part: tensors[key] for part, key in keys.items()}
    written = _alpha(source, keys, stored)
    if "down" in stored or "up" in stored:
        shape, rank = _lora_shape(source, layer, stored)
        settings.check_rank(layer, rank)
        factor = settings.factor(layer, rank, written)
    else:
        shape, rank = _lokr_shape(source, layer, stored)
        if settings.is_peft_lokr:
            factor = settings.factor(layer, settings.rank_of(layer) or 1, written)
        else:  # LyCORIS: two whole matrices have no rank, and no alpha either
            factor = 1.0 if rank is None else settings.factor(layer, rank, written)
    _check_magnitude(source, layer, stored, shape, settings)
    stored.pop("alpha", None)
    return LayerChange(dict(keys), stored, shape, rank, factor)


def _lora_shape(source: str, layer: str, stored: Mapping[Part, Stored]) -> tuple[Shape, int]:
    if missing := {"down", "up"} - set(stored):
        raise CheckpointError(f"{source}: '{layer}' lacks the matrix '{min(missing)}' of its LoRA.")
    if strange := set(stored) - {"down", "up", "alpha", "magnitude", "dora_scale"}:
        raise CheckpointError(f"{source}: '{layer}' is a LoRA and has '{min(strange)}' as well.")
    down, up = stored["down"].shape, stored["up"].shape
    if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
        raise _do_not_multiply(source, layer, up, down)
    _check_rank(source, layer, down[0], (up[0], down[1]), min(up[0], down[1]))
    return (up[0], down[1]), down[0]


def _lokr_shape(source: str, layer: str, stored: Mapping[Part, Stored]) -> tuple[Shape, int | None]:
    """w1 ⊗ w2, either of which may be a product of two."""
    shapes, ranks = [], []
    whole: Part
    for whole, left, right in (
        ("lokr_w1", "lokr_w1_a", "lokr_w1_b"),
        ("lokr_w2", "lokr_w2_a", "lokr_w2_b"),
    ):  # fmt: skip
        held = {whole, left, right} & set(stored)
        if held == {whole} and len(stored[whole].shape) == 2:
            shapes.append(stored[whole].shape)
        elif held == {left, right}:
            a, b = stored[left].shape, stored[right].shape
            if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
                raise _do_not_multiply(source, layer, a, b)
            # LyCORIS only sees to it that the rank is below the longer side.
            _check_rank(source, layer, a[1], (a[0], b[1]), max(a[0], b[1]))
            shapes.append((a[0], b[1]))
            ranks.append(a[1])
        else:
            raise CheckpointError(f"{source}: '{layer}' lacks the matrix '{whole}' of its LoKr.")
    if strange := set(stored) & {"magnitude"}:
        raise CheckpointError(f"{source}: '{layer}' is a LoKr and has '{min(strange)}' as well.")
    (out1, in1), (out2, in2) = shapes
    if 0 in (out1, in1, out2, in2):
        raise CheckpointError(f"{source}: '{layer}' is changed by a matrix without numbers.")
    return (out1 * out2, in1 * in2), ranks[0] if ranks else None


def _check_rank(source: str, layer: str, rank: int, shape: Shape, most: int) -> None:
    if not 0 < rank <= most:
        raise CheckpointError(
            f"{source}: '{layer}' has rank {rank:,}, and a matrix of {shape[0]:,} × {shape[1]:,} "
            f"has at most {most:,}."
        )


def _check_magnitude(
    source: str, layer: str, stored: Mapping[Part, Stored], shape: Shape, settings: AdapterSettings
) -> None:
    out = shape[0]
    if (length := stored.get("magnitude")) and length.shape not in ((out,), (out, 1)):
        raise CheckpointError(f"{source}: the DoRA magnitude of '{layer}' is {list(length.shape)}.")
    if (scale := stored.get("dora_scale")) and scale.shape not in ((out, 1), (out,)):
        raise CheckpointError(
            f"{source}: 'dora_scale' of '{layer}' is {list(scale.shape)}; only one number for each "
            f"of the {out:,} outputs is known here."
        )
    if length and scale:
        raise CheckpointError(f"{source}: '{layer}' has two DoRA magnitudes.")
    if settings.is_dora and not (length or scale):
        raise CheckpointError(
            f"{source} is a DoRA by its settings, but '{layer}' has no magnitude."
        )


def _do_not_multiply(
    source: str, layer: str, left: tuple[int, ...], right: tuple[int, ...]
) -> CheckpointError:
    return CheckpointError(
        f"{source}: the matrices of '{layer}', {list(left)} and {list(right)}, do not multiply."
    )


def _alpha(source: str, keys: Mapping[Part, str], stored: Mapping[Part, Stored]) -> float | None:
    if "alpha" not in stored:
        return None
    alpha = read_number(stored["alpha"])
    if not math.isfinite(alpha):
        raise CheckpointError(f"{source} is damaged: '{keys['alpha']}' is {alpha}.")
    return alpha


def _written_alpha(
    parts: Mapping[str, Mapping[Part, str]],
    tensors: Mapping[str, Stored],
    settings: AdapterSettings,
) -> float | None:
    """The first layer's own, or the settings'; a sentence has room for one."""
    for keys in parts.values():
        if "alpha" in keys:
            return read_number(tensors[keys["alpha"]])
    return settings.alpha


def _understood(file: Path, header: Header) -> dict[str, AdapterKey]:
    """
    Raises:
        CheckpointError: no adapter of this kind of model, or one with something left over.
    """
    keys = {key: parse_key(key) for key in header.tensors}
    known = {key: parsed for key, parsed in keys.items() if parsed is not None}
    unknown = [key for key, parsed in keys.items() if parsed is None]
    if not known:
        first = f"; the first is '{unknown[0]}'" if unknown else ""
        raise CheckpointError(
            f"{file.name} is no LoRA of this kind of music model: 0 of its {len(keys)} tensors "
            f"belong to one{first}."
        )
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise CheckpointError(
            f"{file.name} holds '{unknown[0]}'{more}, which cannot be applied here, so it would "
            "not sound as it was made."
        )
    return known


def _weights_file(path: Path) -> Path:
    """
    Raises:
        CheckpointError: a pickle, or not exactly one file of weights.
    """
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(pickle_sentence(path.name))
    if not path.is_dir():
        if path.suffix.lower() != ".safetensors":
            raise CheckpointError(f"{path.name} is no adapter: a .safetensors file is needed.")
        return path
    found = [path / name for name in WEIGHTS if (path / name).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(f"{path.name} holds two adapters: {found[0].name}, {found[1].name}.")
    if (other := pickled(path)) is not None:
        raise CheckpointError(pickle_sentence(f"{path.name}/{other.name}"))
    raise CheckpointError(f"{path.name} is no adapter folder: it holds no {WEIGHTS[0]}.")


def pickle_sentence(name: str) -> str:
    return f"{name} was ignored: pickle files can run code. Convert it to .safetensors."
