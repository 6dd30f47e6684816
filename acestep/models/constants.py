"""Sizes of the networks that no config.json names. Imports no torch: who plans memory or judges an
adapter counts with them and builds no network."""

# Tokens that the text encoder reads at most, as in training, the end token included.
CAPTION_TOKENS = 256
LYRICS_TOKENS = 2048

TIME_FREQUENCIES = 128  # of a time, each as a cosine and a sine
MODULATIONS = 6  # shift, scale, gate of self-attention, then of the MLP

TILE_FRAMES = 512
"""Latent frames that the VAE keeps per tile (20.5 s): the widest activation of the official
decoder, 128 channels at 48 kHz, is then 0.25 GB in bf16, and the halo costs 18 / 512 = 3.5 % of
extra work."""

PIECE = 256  # tokens of a prompt that the planner reads at once; bounds the memory of a long one
NF4_BLOCKS = (64, 32)  # numbers per scale: the first that divides the width
