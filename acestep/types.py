"""The shapes that cross module borders, named once (jaxtyping; checked at run time by the tests).

Rates: 48,000 samples, 25 latent frames and 5 codes per second. Frames come before channels
everywhere but inside the VAE.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Waveform = Float[Tensor, "batch 2 sample"]  # 48 kHz, [-1, 1]
Channels = Float[Tensor, "channel sample"]  # at any rate, as a file holds it
Stereo = Float[Tensor, "2 sample"]  # one song, 48 kHz, [-1, 1]
Latents = Float[Tensor, "batch frame channel"]  # 25 Hz, VAE space
Shared = Float[Tensor, "#batch frame channel"]  # latents: one row for all takes, or one for each
Context = Float[Tensor, "batch frame context"]  # source latents and chunk mask, side by side
Codes = Int[Tensor, "batch code"]  # 5 Hz, FSQ indices
Quantized = Float[Tensor, "batch code width"]  # 5 Hz, what a code means to the detokenizer
States = Float[Tensor, "batch token width"]  # hidden states of a text, lyric or packed sequence
TokenMask = Bool[Tensor, "batch token"]  # True where a token is real
TokenIds = Int[Tensor, "batch token"]
