"""From a checkpoint folder to a network: safetensors headers, then a meta module, then its tensors.

A file is judged by its header before any weight is read: a damaged, foreign or wrongly shaped
checkpoint is refused with one sentence that names the file. Pickle is never opened, but for the
one small tensor that is published no other way, and then only through `weights_only=True`.
"""

import logging
import math
import pickle
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from acestep.checkpoints.files import CONFIG_FILE, SILENCE_FILE, STEMS
from acestep.checkpoints.headers import ARCHIVE, Stored, stored_tensors
from acestep.errors import CheckpointError
from acestep.models.acestep import AceStep
from acestep.models.config import AceStepConfig, Qwen3Config, VaeConfig
from acestep.models.packed import PackedWeights
from acestep.models.quantize import (
    QuantizedLinear,
    WeightForm,
    product_name,
    quantize_linears,
    relative_error,
)
from acestep.models.qwen3 import Qwen3
from acestep.models.vae import Vae
from acestep.types import Latents

M = TypeVar("M", bound=nn.Module)

# The children of `AceStep`, each of which can be loaded without the others.
PARTS = ("decoder", "encoder", "tokenizer", "detokenizer", "null_condition_emb")
SILENCE_FRAMES = 15_000  # ten minutes
MAX_SILENCE_FILE = 64_000_000  # bytes; the published file is 3.84 MB

logger = logging.getLogger(__name__)


def load_acestep(
    folder: Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    *,
    parts: Collection[str] = PARTS,
    int8: bool = False,
) -> AceStep:
    """The networks of a DiT folder, 2B or XL.

    Args:
        parts: which of them get weights; the others stay on the meta device and cost nothing. The
            file is judged as a whole all the same.
        int8: hold attention and MLP of the DiT's and of the condition encoder's layers in INT8.
            What is small, or shifts every layer (embeddings, norms, times), and the tokenizer,
            whose codes are exact, stay as they are.
    """
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"{sorted(unknown)} are no parts of AceStep; they are {PARTS}.")
    config = AceStepConfig.read(folder)
    return load_module(
        lambda: AceStep(config),
        folder,
        dtype=dtype,
        device=device,
        is_wanted=lambda name: name.split(".")[0] in parts,
        weights="int8" if int8 else "plain",
        is_quantized=lambda name: name.startswith(("decoder.", "encoder.")) and ".layers." in name,
    )


def load_vae(
    folder: Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Vae:
    """The autoencoder of a `vae` folder, weight norm folded; None is fp32.

    It is folded in fp32 and rounded afterwards, once.
    """
    config = VaeConfig.read(folder)
    vae = load_module(
        lambda: Vae(config),
        folder,
        dtype=torch.float32,
        device=device,
        stem=STEMS["vae"],
    )
    return vae.fold().to(dtype)


def load_qwen3(
    folder: Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    *,
    weights: WeightForm = "plain",
) -> Qwen3:
    """A text encoder or a planner.

    Args:
        weights: the form of the layers' weights; embedding and norms stay as they are.

    Raises:
        Unavailable: NF4 without bitsandbytes.
    """
    config = Qwen3Config.read(folder)

    def rename(key: str) -> str | None:
        """Some files prefix every key, and repeat the embedding as the head."""
        if key == "lm_head.weight" and config.tie_word_embeddings:
            return None
        return key.removeprefix("model.")

    return load_module(
        lambda: Qwen3(config),
        folder,
        dtype=dtype,
        device=device,
        rename=rename,
        weights=weights,
        is_quantized=lambda name: name.startswith("layers."),
    )


def load_silence(folder: Path) -> Latents:
    """What the VAE makes of silence, [1, 15000, channel] in fp32; it is neither zero nor constant.

    A shorter one is repeated up to ten minutes, as upstream does; a longer one is cut there.

    Raises:
        CheckpointError: the file is missing, damaged or of another shape.
    """
    path = folder / SILENCE_FILE
    channels = AceStepConfig.read(folder).audio_acoustic_hidden_dim
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the folder is not a complete model.")
    if path.stat().st_size > MAX_SILENCE_FILE:
        raise CheckpointError(f"{path} is far larger than a silence latent; it is not opened.")
    try:
        with path.open("rb") as file:
            if file.read(4) != ARCHIVE:
                raise CheckpointError(f"{path} is damaged: it is not a PyTorch archive.")
        silence = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError, OSError, EOFError, RuntimeError, ValueError, LookupError,
        AttributeError, TypeError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path} is damaged or holds more than one tensor.") from error
    if not isinstance(silence, torch.Tensor) or not silence.is_floating_point():
        raise CheckpointError(f"{path} does not hold one tensor of numbers.")
    if silence.shape[:-1] != (1, channels) or silence.shape[-1] == 0:
        raise CheckpointError(
            f"{path} holds {list(silence.shape)}, but [1, {channels}, {SILENCE_FRAMES}] is needed."
        )
    repeats = math.ceil(SILENCE_FRAMES / silence.shape[-1])
    whole = silence.tile(repeats)[..., :SILENCE_FRAMES]
    return whole.float().transpose(1, 2).contiguous()


def load_module(
    build: Callable[[], M],
    folder: Path,
    *,
    dtype: torch.dtype | None,
    device: torch.device | str = "cpu",
    stem: str = STEMS["dit"],
    rename: Callable[[str], str | None] = lambda key: key,
    is_wanted: Callable[[str], bool] = lambda name: True,
    weights: WeightForm = "plain",
    is_quantized: Callable[[str], bool] = lambda name: True,
) -> M:
    """Build a network without memory, then give it the folder's tensors one by one.

    A weight is quantized as it is read, on `device`, and its error is logged (`relative_error`).

    The network must make its non-persistent buffers itself when it runs: they have no tensor here.

    Args:
        dtype: what the weights are cast to; None keeps them as stored.
        stem: name of the weight file, or of its index, before `.safetensors`.
        rename: from a stored key to the network's own; None leaves the tensor out.
        is_wanted: whether the network's tensor of this name is read; else it stays on meta.
        weights: the form of the linear layers that `is_quantized` names.

    Raises:
        CheckpointError: no weights, damaged weights, or weights of another network.
    """
    with torch.device("meta"):
        module = build()
    stored = {}
    for key, tensor in stored_tensors(folder, stem).items():
        if (name := rename(key)) is not None:
            stored[name] = (key, tensor)
    _compare(folder, {name: tensor for name, (_, tensor) in stored.items()}, module.state_dict())
    device = torch.device(device)
    quantized = quantize_linears(
        module, weights, lambda name: is_wanted(name) and is_quantized(name)
    )
    files = sorted({tensor.file for _, tensor in stored.values()})
    # A GPU rounds faster than a file is read.
    packed = PackedWeights(folder, quantized if device.type == "cpu" else {}, files)
    is_packed = {f"{layer}.weight" for layer in packed.read()}
    tensors = {}
    for file in files:
        names = {
            key: name
            for name, (key, tensor) in stored.items()
            if tensor.file == file and is_wanted(name) and name not in is_packed
        }
        tensors |= _read(file, names, dtype, device, quantized)
    # Nothing can be missing but what is not wanted or has been stored: names have been compared.
    module.load_state_dict(tensors, strict=False, assign=True)
    packed.save()
    if quantized:
        logger.info(
            "%s: %d layers in %s, %.2f %% from the file's; %s.",
            folder.name, len(quantized), weights.upper(), 100 * relative_error(module),
            product_name(device, weights),
        )  # fmt: skip
    return module.requires_grad_(False).eval()


def _read(
    file: Path,
    names: Mapping[str, str],
    dtype: torch.dtype | None,
    device: torch.device,
    quantized: Mapping[str, QuantizedLinear],
) -> dict[str, torch.Tensor]:
    """The named tensors of one file; only one is ever held in a second dtype.

    Weights of quantized layers go there.
    """
    read = {}
    try:
        with safe_open(file, framework="pt") as tensors:
            for key, name in names.items():
                tensor = tensors.get_tensor(key).to(device=device)
                layer, _, kind = name.rpartition(".")
                if kind == "weight" and layer in quantized:
                    quantized[layer].store(tensor)
                else:
                    read[name] = tensor.to(dtype=dtype)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}).") from error
    return read


def _compare(
    folder: Path, stored: Mapping[str, Stored], expected: Mapping[str, torch.Tensor]
) -> None:
    """Refuse weights of another network, naming the first difference."""
    if missing := [key for key in expected if key not in stored]:
        raise CheckpointError(
            f"{folder}: the weights lack '{missing[0]}'{_and_more(missing)}; "
            "this is another network, or not all of it."
        )
    if unknown := [key for key in stored if key not in expected]:
        raise CheckpointError(
            f"{stored[unknown[0]].file} holds '{unknown[0]}'{_and_more(unknown)}, "
            "which this network does not have."
        )
    for key, tensor in expected.items():
        if stored[key].shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{stored[key].file}: '{key}' is {list(stored[key].shape)}, "
                f"but {CONFIG_FILE} makes it {list(tensor.shape)}."
            )


def _and_more(keys: list[str]) -> str:
    return f" and {len(keys) - 1} more" if len(keys) > 1 else ""
