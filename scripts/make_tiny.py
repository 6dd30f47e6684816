"""Write the tiny model set: official layout, random weights, a song in seconds.

    uv run python scripts/make_tiny.py FOLDER

Every file follows from the seed alone. The weights are scaled so that activations stay near one and
the sound is neither silent nor clipped, but they have learnt nothing: the result is noise with the
right length, rate and shape.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor, nn

from acestep.models.acestep import AceStep
from acestep.models.config import AceStepConfig, Qwen3Config, VaeConfig
from acestep.models.qwen3 import Qwen3
from acestep.models.vae import Vae
from acestep.seeds import generator

SEED = 15
SILENCE_FRAMES = 15_000  # ten minutes, like the official files
SILENCE_PERIOD = 25  # frames; a short pattern, so that git stores it in a few kilobytes

ACESTEP = {
    "architectures": ["AceStepConditionGenerationModel"],
    "model_type": "acestep",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "attention_bias": False,
    "use_sliding_window": True,
    "sliding_window": 128,
    "in_channels": 192,
    "audio_acoustic_hidden_dim": 64,
    "patch_size": 2,
    "text_hidden_dim": 64,
    "num_lyric_encoder_hidden_layers": 2,
    "num_timbre_encoder_hidden_layers": 2,
    "timbre_hidden_dim": 64,
    "timbre_fix_frame": 750,
    "pool_window_size": 5,
    "num_attention_pooler_hidden_layers": 1,
    "fsq_dim": 64,
    "fsq_input_levels": [8, 8, 8],
    "fsq_input_num_quantizers": 1,
}
VAE = {
    "_class_name": "AutoencoderOobleck",
    "encoder_hidden_size": 4,
    "downsampling_ratios": [10, 6, 4, 4, 2],
    "channel_multiples": [1, 4, 8, 8, 8],
    "decoder_channels": 4,
    "decoder_input_channels": 64,
    "audio_channels": 2,
    "sampling_rate": 48_000,
}
QWEN3 = {
    "architectures": ["Qwen3Model"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "attention_bias": False,
    "tie_word_embeddings": True,
}
CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
THINK_TOKENS = ["<think>", "</think>"]
# One digit each, and a space joins the next word.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TOKENIZER_TEXT = [
    "# Instruction\nFill the audio semantic mask based on the given conditions:\n\n# Caption\n",
    "Generate audio semantic tokens based on the given conditions:\n\n# Metas\n- bpm: 120\n",
    "- timesignature: 4\n- keyscale: C major\n- keyscale: F# minor\n- duration: 30 seconds\n",
    "<think>\nbpm: 120\ncaption: A calm piano melody.\nduration: 20\nkeyscale: G major\n",
    "language: en\ntimesignature: 4\n</think>\n\n",
    "# Languages\nen\n\n# Lyric\n[Verse]\n[Chorus]\n[Bridge]\n[Intro]\n[Outro]\n[Instrumental]\n",
    "warm lo-fi beat with dusty drums and mellow electric piano, upbeat techno, synth-pop ballad",
    "airy female vocal, acoustic guitar, deep bass, strings, ambient pads, jazz trio, rock, house",
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the tiny model set.")
    parser.add_argument("root", type=Path, help="folder that receives the model folders")
    write_all(parser.parse_args().root)


def write_all(root: Path) -> None:
    """Write the nano-named set under `root`, replacing files of the same name."""
    write_vae(root / "acestep-nano-vae")
    tokenizer = train_tokenizer()
    write_text_encoder(root / "acestep-nano-text-encoder", tokenizer)
    write_planner(root / "acestep-5Hz-lm-nano", tokenizer)
    for name, is_turbo in (("turbo", True), ("base", False)):
        write_acestep(root / f"acestep-v15-nano-{name}", is_turbo=is_turbo)


def write_acestep(folder: Path, *, is_turbo: bool) -> None:
    config = {**ACESTEP, "is_turbo": is_turbo, "model_version": "turbo" if is_turbo else "base"}
    _write_config(folder, config)
    with torch.device("meta"):
        module = AceStep(AceStepConfig.from_dict(config))
    _write_weights(folder / "model.safetensors", module)
    channels = config["audio_acoustic_hidden_dim"]
    pattern = torch.randn(1, channels, SILENCE_PERIOD, generator=generator(SEED, "silence"))
    silence = 0.3 * pattern.repeat(1, 1, SILENCE_FRAMES // SILENCE_PERIOD)
    torch.save(silence, folder / "silence_latent.pt")


def write_vae(folder: Path) -> None:
    _write_config(folder, VAE)
    with torch.device("meta"):
        module = Vae(VaeConfig.from_dict(VAE))
    _write_weights(folder / "diffusion_pytorch_model.safetensors", module)


def write_text_encoder(folder: Path, tokenizer: Tokenizer) -> None:
    _write_qwen3(folder, with_end(tokenizer))


def write_planner(folder: Path, tokenizer: Tokenizer) -> None:
    """The same tokens, then one per audio code, as in the official 5 Hz models."""
    _write_qwen3(folder, with_codes(tokenizer, math.prod(ACESTEP["fsq_input_levels"])))


def _write_qwen3(folder: Path, tokenizer: Tokenizer) -> None:
    config = {**QWEN3, "vocab_size": tokenizer.get_vocab_size()}
    _write_config(folder, config)
    tokenizer.save(str(folder / "tokenizer.json"))
    with torch.device("meta"):
        module = Qwen3(Qwen3Config.from_dict(config))
    _write_weights(folder / "model.safetensors", module)


def with_codes(tokenizer: Tokenizer, count: int) -> Tokenizer:
    """A copy that also knows `count` audio codes."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.add_special_tokens([f"<|audio_code_{code}|>" for code in range(count)])
    return copy


def with_end(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that appends the end token, as Qwen3-Embedding's tokenizer does."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    end = CONTROL_TOKENS[0]
    copy.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return copy


def train_tokenizer(texts: Sequence[str] = TOKENIZER_TEXT, size: int = 512) -> Tokenizer:
    """A small byte-level BPE that splits words as Qwen's does, with its control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token) for token in THINK_TOKENS])
    return tokenizer


def _write_config(folder: Path, config: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _write_weights(path: Path, module: nn.Module) -> None:
    tensors = {name: _random(name, p) for name, p in sorted(module.state_dict().items())}
    save_file(tensors, path, metadata={"format": "pt"})


def _random(name: str, like: Tensor) -> Tensor:
    """Each tensor from its own name, so that adding one never changes another."""
    noise = torch.randn(like.shape, generator=generator(SEED, name))
    if name.endswith(("alpha", "beta")):
        value = 0.1 * noise  # Snake: logs of frequency and magnitude
    elif name.endswith("weight_g"):
        value = torch.full(like.shape, 1.0)
    elif like.ndim == 1:
        value = 1 + 0.1 * noise if name.endswith("weight") else 0.02 * noise
    else:
        fan_in = math.prod(like.shape[1:])
        value = noise / math.sqrt(fan_in)
    return value.to(torch.bfloat16)


if __name__ == "__main__":
    main()
