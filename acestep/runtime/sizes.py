"""How large the networks of one service are, from headers and config.json alone.

Memory is planned before anything is loaded: this reads a few kilobytes of each folder and imports
no torch.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

from acestep.checkpoints.files import STEMS
from acestep.checkpoints.headers import Stored, stored_tensors
from acestep.models.config import AceStepConfig, Qwen3Config, VaeConfig
from acestep.runtime.folders import Folders

Part = Literal["dit", "conditioner", "text_encoder", "vae", "planner"]

DECODER = "decoder."  # the DiT's keys; the rest of its file is the conditioner
# What INT8 and NF4 act on: matrices of attention and MLP. Those of the FSQ codec stay exact.
BIG_MATRIX = re.compile(r"(?:^|\.)layers\.\d+\.(?:self_attn|cross_attn|mlp)\.\w+_proj\.weight$")
EXACT = ("tokenizer.", "detokenizer.")
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True)
class PartSize:
    """Numbers (not bytes) that a network holds.

    Attributes:
        numbers: all of them.
        quantizable: those in matrices that INT8 and NF4 act on.
        rows: output rows of these matrices; each has a scale of its own in INT8.
    """

    numbers: int
    quantizable: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Sizes:
    """The networks of one service, and the widths that their activations have.

    Attributes:
        model: the music model's name, that of its folder; `lm` likewise, or None.
        parts: by name; without a 5Hz LM there is no planner.
        dit_layer: one layer of the DiT, what is streamed at a time.
        dit_layers: all of them; the rest of the DiT is on the device as long as it computes.
    """

    model: str
    lm: str | None
    parts: Mapping[Part, PartSize]
    dit_layer: PartSize
    dit_layers: PartSize
    dit: AceStepConfig
    text_encoder: Qwen3Config
    vae: VaeConfig
    planner: Qwen3Config | None

    @classmethod
    def read(cls, folders: Folders) -> Self:
        """The sizes of what lies in the folders.

        Raises:
            CheckpointError: a folder is incomplete or damaged.
        """
        acestep = stored_tensors(folders.dit, STEMS["dit"])
        decoder = {key: one for key, one in acestep.items() if key.startswith(DECODER)}
        rest = {key: one for key, one in acestep.items() if key not in decoder}
        parts: dict[Part, PartSize] = {
            "dit": _size(decoder.items()),
            "conditioner": _size(rest.items()),
            "text_encoder": _size(
                stored_tensors(folders.text_encoder, STEMS["text_encoder"]).items()
            ),
            # Numbers of weight norm are gone once it is folded, but they are one in a thousand.
            "vae": _size(stored_tensors(folders.vae, STEMS["vae"]).items()),
        }
        planner = None
        if folders.lm is not None:
            planner = Qwen3Config.read(folders.lm)
            is_head = planner.tie_word_embeddings  # the embedding once more, and left out
            stored = stored_tensors(folders.lm, STEMS["lm"]).items()
            parts["planner"] = _size(
                (key, one) for key, one in stored if not (is_head and key == "lm_head.weight")
            )
        return cls(
            model=folders.dit.name,
            lm=None if folders.lm is None else folders.lm.name,
            parts=parts,
            dit_layer=_size(_of_layers(decoder, lambda number: number == 0)),
            dit_layers=_size(_of_layers(decoder, lambda number: True)),
            dit=AceStepConfig.read(folders.dit),
            text_encoder=Qwen3Config.read(folders.text_encoder),
            vae=VaeConfig.read(folders.vae),
            planner=planner,
        )


def _of_layers(
    tensors: dict[str, Stored], is_meant: Callable[[int], bool]
) -> list[tuple[str, Stored]]:
    return [
        (key, one)
        for key, one in tensors.items()
        if (found := LAYER.search(key)) is not None and is_meant(int(found[1]))
    ]


def _size(tensors: Iterable[tuple[str, Stored]]) -> PartSize:
    numbers = quantizable = rows = 0
    for key, one in tensors:
        count = math.prod(one.shape)
        numbers += count
        if BIG_MATRIX.search(key) and not key.startswith(EXACT):
            quantizable += count
            rows += one.shape[0]
    return PartSize(numbers, quantizable, rows)
