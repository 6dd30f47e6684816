"""What adapter files call the DiT's linear layers and the numbers that change them.

Every trainer and every program spells a key in its own way; here each spelling becomes the DiT's
own layer name and one of a few parts. It needs no torch, so a page may judge a file with it.
"""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from acestep.models.config import AceStepConfig
from acestep.models.constants import MODULATIONS, TIME_FREQUENCIES

Part = str  # down, up, magnitude, dora_scale, alpha, or a lokr_… of LyCORIS
Style = Literal["PEFT", "ComfyUI", "diffusers", "LyCORIS", "bare"]
Shape = tuple[int, int]  # out, in: a weight's

# Every linear of the DiT, with the sizes that its weight [out, in] is made of.
IN_LAYER: dict[str, tuple[str, str]] = {
    **{f"{attention}.{name}": sizes
       for attention in ("self_attn", "cross_attn")
       for name, sizes in {
           "q_proj": ("queries", "width"), "k_proj": ("keys", "width"),
           "v_proj": ("keys", "width"), "o_proj": ("width", "queries"),
       }.items()},
    "mlp.gate_proj": ("mlp", "width"),
    "mlp.up_proj": ("mlp", "width"),
    "mlp.down_proj": ("width", "mlp"),
}  # fmt: skip
OUTSIDE: dict[str, tuple[str, str]] = {
    **{f"{embedding}.{name}": sizes
       for embedding in ("time_embed", "time_embed_r")
       for name, sizes in {
           "linear_1": ("width", "waves"), "linear_2": ("width", "width"),
           "time_proj": ("modulations", "width"),
       }.items()},
    "condition_embedder": ("width", "conditions"),
}  # fmt: skip

PREFIXES: Mapping[str, Style] = {
    "base_model.model.": "PEFT",
    "diffusion_model.": "ComfyUI",
    "transformer.": "diffusers",
}
FLAT_PREFIX = "lycoris_"  # LyCORIS joins the parts of a name with _ as well
DIFFUSERS_WORDS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out.0": "o_proj"}
# PEFT writes an adapter's own name behind the part when it is saved by other means than its own.
PART = re.compile(
    r"(?P<layer>.+)\.(?:"
    r"(?P<down>lora_(?:A|down))(?:\.\w+)?\.weight"
    r"|(?P<up>lora_(?:B|up))(?:\.\w+)?\.weight"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.\w+)*"
    r"|(?P<other>dora_scale|alpha|lokr_w[12](?:_[ab])?)"
    r")",
    re.ASCII,
)
LAYER = re.compile(r"layers\.(\d{1,3})\.(.+)", re.ASCII)
FLAT_LAYER = re.compile(r"layers_(\d{1,3})_(.+)", re.ASCII)
FLAT = {name.replace(".", "_"): name for name in (*IN_LAYER, *OUTSIDE)}


class AdapterKey(NamedTuple):
    """One stored key, understood."""

    layer: str  # the DiT's own name, as in `dit.get_submodule`
    part: Part
    style: Style


def parse_key(key: str) -> AdapterKey | None:
    """What a stored key means for a DiT; None where it means nothing here."""
    if (match := PART.fullmatch(key)) is None:
        return None
    named = {part: value for part, value in match.groupdict().items() if value}
    written = named.pop("layer")
    part = named.get("other") or next(iter(named))
    layer, style = _layer(written)
    return None if layer is None else AdapterKey(layer, part, style)


def linear_shapes(config: AceStepConfig) -> dict[str, Shape]:
    """The weight [out, in] of every linear layer that a DiT of these sizes has."""
    sizes = {
        "width": config.hidden_size,
        "queries": config.num_attention_heads * config.head_dim,
        "keys": config.num_key_value_heads * config.head_dim,
        "mlp": config.intermediate_size,
        "waves": 2 * TIME_FREQUENCIES,
        "modulations": MODULATIONS * config.hidden_size,
        "conditions": config.encoder.hidden_size,
    }
    names = {
        f"layers.{index}.{name}": words
        for index in range(config.num_hidden_layers)
        for name, words in IN_LAYER.items()
    }
    return {name: (sizes[out], sizes[into]) for name, (out, into) in (names | OUTSIDE).items()}


def base_width(shapes: Mapping[str, Shape]) -> int | None:
    """The width of the DiT whose layers have these shapes; None where they do not tell."""
    for layer, shape in shapes.items():
        match = LAYER.fullmatch(layer)
        words = IN_LAYER[match[2]] if match else OUTSIDE[layer]
        if "width" in words:
            return shape[words.index("width")]
    return None


def _layer(written: str) -> tuple[str | None, Style]:
    if written.startswith(FLAT_PREFIX):
        return _unflattened(written.removeprefix(FLAT_PREFIX).removeprefix("decoder_")), "LyCORIS"
    style: Style = "bare"
    for prefix, owner in PREFIXES.items():
        if written.startswith(prefix):
            written, style = written.removeprefix(prefix), owner
            break
    written = written.removeprefix("decoder.")
    for theirs, ours in DIFFUSERS_WORDS.items():
        if written.endswith(f"_attn.{theirs}"):
            written = written.removesuffix(theirs) + ours
    match = LAYER.fullmatch(written)
    is_known = match[2] in IN_LAYER if match else written in OUTSIDE
    return (_numbered(match[1], match[2]) if match else written) if is_known else None, style


def _unflattened(written: str) -> str | None:
    if match := FLAT_LAYER.fullmatch(written):
        name = FLAT.get(match[2], "")
        return _numbered(match[1], name) if name in IN_LAYER else None
    name = FLAT.get(written, "")
    return name if name in OUTSIDE else None


def _numbered(index: str, name: str) -> str:
    return f"layers.{int(index)}.{name}"
