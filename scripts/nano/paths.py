"""Where trainings put what they make, from the repository's root."""

from pathlib import Path

WORK = Path("work/nano")
VAE = WORK / "acestep-nano-vae"
VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"
BLOCK_FOLDER = WORK / "latents"
