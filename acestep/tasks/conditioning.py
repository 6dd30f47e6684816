"""What the DiT is told in words and by example: the two texts of a request, and the recording
whose timbre it takes.

The texts are the literal templates the models were trained with; one changed character is another
prompt.
"""

import torch

from acestep.media.audio import SAMPLES_PER_FRAME
from acestep.request import MusicRequest
from acestep.types import Waveform

FILL_MASK = "Fill the audio semantic mask based on the given conditions:"  # nothing is given
FOLLOW_CODES = "Generate audio semantic tokens based on the given conditions:"  # a song in outline
REPAINT = "Repaint the mask area based on the given conditions:"  # a song with a hole
UNKNOWN = "N/A"
REFERENCE_CLIPS = 3  # ten seconds each, so that verse, chorus and ending all lend their timbre


def caption_prompt(
    request: MusicRequest, instruction: str, seconds: float, caption: str = ""
) -> str:
    """Instruction, caption and metadata, as the text encoder reads them.

    Args:
        instruction: one of the three above; it names what the context holds.
        seconds: length of the song.
        caption: stands for the request's own.
    """
    return (
        f"# Instruction\n{instruction}\n\n"
        f"# Caption\n{caption or request.caption}\n\n"
        "# Metas\n"
        f"- bpm: {request.bpm or UNKNOWN}\n"
        f"- timesignature: {request.time_signature or UNKNOWN}\n"
        f"- keyscale: {request.key_scale or UNKNOWN}\n"
        f"- duration: {int(seconds)} seconds\n"
        "<|endoftext|>\n"
    )


def lyrics_prompt(request: MusicRequest) -> str:
    """The language and the words; only their embedding rows are used."""
    return f"# Languages\n{request.vocal_language}\n\n# Lyric\n{request.lyrics}<|endoftext|>"


def reference_clips(waveform: Waveform, frames: int) -> Waveform:
    """Cut a recording to `frames` latent frames: the middle of each of its thirds, joined.

    A shorter recording is repeated first. The cut is fixed, so a seed gives the same song again.
    """
    clip = frames * SAMPLES_PER_FRAME // REFERENCE_CLIPS
    repeats = -(-REFERENCE_CLIPS * clip // waveform.shape[-1])
    waveform = waveform.repeat(1, 1, repeats)
    third = waveform.shape[-1] // REFERENCE_CLIPS
    starts = [i * third + (third - clip) // 2 for i in range(REFERENCE_CLIPS)]
    return torch.cat([waveform[..., start : start + clip] for start in starts], dim=-1)
