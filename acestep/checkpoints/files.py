"""What a checkpoint folder is made of: its kinds of network, and the names of their files."""

from collections.abc import Mapping
from typing import Literal

Kind = Literal["dit", "lm", "vae", "text_encoder"]

KIND_NAMES: Mapping[Kind, str] = {
    "dit": "music model",
    "lm": "5Hz language model",
    "vae": "VAE",
    "text_encoder": "text encoder",
}
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
SILENCE_FILE = "silence_latent.pt"
FIRST_CODE = "<|audio_code_0|>"  # a token that a 5Hz LM has and a text encoder has not
# Of the weights: STEM.safetensors, or parts and their index. transformers' name and diffusers'.
STEMS: Mapping[Kind, str] = {
    "dit": "model",
    "lm": "model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
# What a complete folder holds besides the weights.
REQUIRED: Mapping[Kind, tuple[str, ...]] = {
    "dit": (CONFIG_FILE, SILENCE_FILE),
    "lm": (CONFIG_FILE, TOKENIZER_FILE),
    "vae": (CONFIG_FILE,),
    "text_encoder": (CONFIG_FILE, TOKENIZER_FILE),
}
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def size_text(count: float) -> str:
    """Bytes as people write them: 4.8 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
