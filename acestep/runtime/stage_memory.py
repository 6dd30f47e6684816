"""How much memory the stages of a song compute with, beside the networks' weights.

Each is what is live at its worst moment, counted from the networks' code and compared with measured
peaks on a CPU (tests/runtime/test_measured_memory.py). What a stage frees at once is left out.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from acestep.models.config import AceStepConfig, Qwen3Config, VaeConfig
from acestep.models.constants import CAPTION_TOKENS, PIECE
from acestep.request.values import CODE_RATE
from acestep.runtime.demand import Demand
from acestep.runtime.precision import DeviceKind, Precision
from acestep.runtime.sizes import Sizes
from acestep.runtime.weight_memory import FP32_BYTES, ITEM_BYTES

# The C library keeps freed blocks of up to 32 MB for itself: measured, this share of what a stage
# uses, up to so much.
HEAP_SHARE = 0.8
HEAP_KEEPS = 200_000_000

# Live tensors of a stage at its worst moment, in tensors of the size named.
MLP_TENSORS = 3  # SwiGLU: silu(gate), up, their product
RESIDUAL_TENSORS = 3  # states, what the norm made of them, what is added to them
HEAD_TENSORS = 4  # masked attention: queries, keys and values repeated for them, what comes out
LATENT_TENSORS = 12  # of the solver and of guidance, in fp32; APG and ADG work in fp64
VAE_TENSORS = 4.5  # a residual unit: its input, Snake's two, a convolution's result and work space
SCORE_TENSORS = 2  # where attention is not fused: the scores and their softmax
WAVEFORM_COPIES = 3  # of one take while it is checked, levelled and written


@dataclass(frozen=True)
class StageMemory:
    """Bytes that each stage of one song computes with.

    Attributes:
        kind: of the device that all but the planner are on.
    """

    sizes: Sizes
    demand: Demand
    precision: Precision
    kind: DeviceKind

    def kv_bytes(self, takes_at_once: int) -> int:
        """Keys and values of every take and branch, for prompt and codes."""
        config, demand = self.sizes.planner, self.demand
        if config is None or not demand.thinks:
            return 0
        tokens = demand.prompt_tokens + math.ceil(CODE_RATE * demand.seconds) + 1
        heads = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        item = ITEM_BYTES[self.precision.planner]
        return takes_at_once * demand.branches * tokens * heads * item

    @cached_property
    def _frames(self) -> int:
        vae = self.sizes.vae
        return math.ceil(self.demand.seconds * vae.sampling_rate / vae.hop)

    def waveform(self) -> int:
        """One take in fp32."""
        vae = self.sizes.vae
        return self._frames * vae.hop * vae.audio_channels * FP32_BYTES

    def writing(self, takes_at_once: int) -> int:
        """A piece of the prompts on its way through a layer, and logits."""
        config = self.sizes.planner
        if config is None:
            return 0
        item = ITEM_BYTES[self.precision.planner]
        sequences = takes_at_once * self.demand.branches
        piece = self.demand.branches * min(PIECE, self.demand.prompt_tokens)
        live = layer_memory(max(piece, sequences), config, item)
        logits = 4 * sequences * self.sizes.dit.codebook_size * FP32_BYTES
        return live + max(logits, config.vocab_size * FP32_BYTES)

    def encoding_text(self) -> int:
        return layer_memory(
            CAPTION_TOKENS, self.sizes.text_encoder, ITEM_BYTES[self.precision.dtype]
        )

    def conditioning(self) -> int:
        """The longest of: lyrics, the reference, a song's codes into latents, latents into codes.

        A group of frames is one sequence of the codec; the tokenizer adds one position to each.
        """
        config, item = self.sizes.dit, ITEM_BYTES[self.precision.dtype]
        tokens = [self.demand.text_tokens, config.timbre_fix_frame + 1]
        if self.demand.thinks:
            tokens.append(self._frames)
        if self.demand.encodes_source:
            window = config.pool_window_size
            tokens.append(math.ceil(self._frames / window) * (window + 1))
        lyrics = band_mask(self.demand.text_tokens, config, item)
        return layer_memory(max(tokens), config.encoder, item) + lyrics

    def rendering(self, takes_at_once: int) -> int:
        """A layer's tensors, the window's mask, what all layers read of the text, latents."""
        config, demand = self.sizes.dit, self.demand
        item = ITEM_BYTES[self.precision.dtype]
        rows = takes_at_once * (2 if demand.guided else 1)
        positions = math.ceil(self._frames / config.patch_size)
        live = layer_memory(rows * positions, config, item)
        live += band_mask(positions, config, item)
        # Of one row that all takes share, of two where guided; repeated for groups of takes.
        texts = (3 if demand.guided else 1) + (rows if demand.guided and rows > 2 else 0)
        heads = 2 * config.num_key_value_heads * config.head_dim
        live += texts * demand.text_tokens * heads * config.num_hidden_layers * item
        latents = demand.takes * self._frames * config.audio_acoustic_hidden_dim * FP32_BYTES
        live += latents * LATENT_TENSORS * (2 if demand.guided else 1)
        live += (demand.takes + rows) * self._frames * config.in_channels * item
        if self.kind == "mps":  # no fused attention for long sequences
            seen = max(positions, demand.text_tokens)
            scores = rows * config.num_attention_heads * positions * seen * FP32_BYTES
            live += SCORE_TENSORS * scores
        return live

    def decoding(self, tile_frames: int) -> int:
        """A tile and its halo in the widest block, and the songs that are decoded."""
        frames = min(tile_frames + 2 * self.sizes.vae.decoder_halo, self._frames)
        widest = widest_frame(self.sizes.vae, self.sizes.vae.decoder_channels)
        tile = int(VAE_TENSORS * frames * widest) * ITEM_BYTES[self.precision.vae]
        copies = WAVEFORM_COPIES if self.kind != "cuda" else 0
        return tile + (self.demand.takes + copies) * self.waveform()

    def encoding(self, tile_frames: int) -> int:
        frames = min(tile_frames + 2 * self.sizes.vae.encoder_halo, self._frames)
        widest = widest_frame(self.sizes.vae, self.sizes.vae.encoder_hidden_size)
        tile = int(VAE_TENSORS * frames * widest) * ITEM_BYTES[self.precision.vae]
        return tile + (2 * self.waveform() if self.kind != "cuda" else 0)


def layer_memory(tokens: int, config: AceStepConfig | Qwen3Config, item: int) -> int:
    """Bytes that are live in a transformer layer at its worst: in the MLP, or in attention where
    query heads are many."""
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    mlp = MLP_TENSORS * config.intermediate_size
    attention = HEAD_TENSORS * queries + 2 * keys
    return tokens * (RESIDUAL_TENSORS * config.hidden_size + max(mlp, attention)) * item


def band_mask(positions: int, config: AceStepConfig, item: int) -> int:
    """Bytes of the mask that hides what is outside the window, shared by all layers; with the
    booleans it is made of."""
    if not config.use_sliding_window or positions <= config.sliding_window + 1:
        return 0
    return positions * positions * (item + 1)


def widest_frame(config: VaeConfig, channels: int) -> int:
    """Numbers per latent frame in the VAE's largest tensor: at the sound's own rate, as a rule."""
    ratios = config.downsampling_ratios
    widths = [channels * multiple for multiple in (1, *config.channel_multiples)]
    # From the sound inwards: the decoder's blocks are the encoder's, mirrored.
    positions = [config.hop // math.prod(ratios[:depth]) for depth in range(len(ratios) + 1)]
    return max(width * count for width, count in zip(widths, positions, strict=True))


def in_heap(kind: DeviceKind, work: int) -> int:
    """What a stage computes with, as the operating system counts it."""
    return work + (min(int(HEAP_SHARE * work), HEAP_KEEPS) if kind == "cpu" else 0)
