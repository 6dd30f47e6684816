"""The condition encoder: caption, lyrics and reference timbre become one sequence of states
(checkpoint keys `encoder.*`)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from acestep.models.config import AceStepConfig
from acestep.models.initialize import gaussian
from acestep.models.layers import EncoderLayers, RMSNorm
from acestep.types import States, TokenMask

References = Float[Tensor, "reference frame channel"]  # VAE latents of every item's references
ReferenceOrder = Int[Tensor, " reference"]  # the batch item each reference belongs to


class LyricEncoder(nn.Module):
    """Token embeddings of the lyrics in context of each other."""

    def __init__(self, config: AceStepConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Linear(config.text_hidden_dim, config.hidden_size)
        self.layers = EncoderLayers(config, config.num_lyric_encoder_hidden_layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, lyrics: Float[Tensor, "batch token embedding"], mask: TokenMask
    ) -> Float[Tensor, "batch token width"]:
        return self.norm(self.layers(self.embed_tokens(lyrics), mask))


class TimbreEncoder(nn.Module):
    """One vector for the sound of a reference: what its first position has gathered."""

    def __init__(self, config: AceStepConfig, *, prepends_token: bool) -> None:
        super().__init__()
        # In every file, but only XL was trained to read its place (docs/model.md, Timbre).
        self.special_token = gaussian(1, 1, config.hidden_size, scale=0.02)
        self.embed_tokens = nn.Linear(config.timbre_hidden_dim, config.hidden_size)
        self.layers = EncoderLayers(config, config.num_timbre_encoder_hidden_layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.prepends_token = prepends_token

    def forward(self, references: References) -> Float[Tensor, "reference width"]:
        states = self.embed_tokens(references)
        if self.prepends_token:
            token = self.special_token.expand(len(states), -1, -1)
            states = torch.cat([token, states], dim=1)
        return self.norm(self.layers(states)[:, 0])


class ConditionEncoder(nn.Module):
    """What the DiT's cross-attention reads: lyrics, timbres and caption, in this order."""

    def __init__(self, config: AceStepConfig) -> None:
        super().__init__()
        sizes = config.encoder
        self.text_projector = nn.Linear(sizes.text_hidden_dim, sizes.hidden_size, bias=False)
        self.lyric_encoder = LyricEncoder(sizes)
        self.timbre_encoder = TimbreEncoder(sizes, prepends_token=config.prepends_timbre_token)

    def forward(
        self,
        text: Float[Tensor, "batch text embedding"],
        text_mask: Bool[Tensor, "batch text"],
        lyrics: Float[Tensor, "batch lyric embedding"],
        lyrics_mask: Bool[Tensor, "batch lyric"],
        references: References,
        reference_order: ReferenceOrder,
    ) -> tuple[States, TokenMask]:
        """States of every condition and where they are real; padding is moved to the end.

        Args:
            text: last hidden states of the text encoder for the caption's prompt.
            lyrics: rows of the text encoder's embedding table, not its hidden states.
            references: the references of all items, stacked; each item has at least one.
            reference_order: which item each of them belongs to.
        """
        timbres, timbres_mask = slots(
            self.timbre_encoder(references), reference_order, batch=len(text)
        )
        voice, voice_mask = pack_sequences(
            self.lyric_encoder(lyrics, lyrics_mask), lyrics_mask, timbres, timbres_mask
        )
        return pack_sequences(voice, voice_mask, self.text_projector(text), text_mask)


def slots(
    timbres: Float[Tensor, "reference width"], order: ReferenceOrder, batch: int
) -> tuple[States, TokenMask]:
    """Give each item its own timbres, in order of appearance; slots left over are zero."""
    counts = torch.bincount(order, minlength=batch)
    same = order[:, None] == order
    slot = same.tril(-1).sum(dim=1)  # how many of the item's references came before
    states = timbres.new_zeros(batch, int(counts.max()), timbres.shape[-1])
    states[order, slot] = timbres
    mask = torch.arange(states.shape[1], device=order.device) < counts[:, None]
    return states, mask


def pack_sequences(
    first: Float[Tensor, "batch first width"],
    first_mask: Bool[Tensor, "batch first"],
    second: Float[Tensor, "batch second width"],
    second_mask: Bool[Tensor, "batch second"],
) -> tuple[States, TokenMask]:
    """Join two sequences so that what is real comes first, each keeping its order.

    Nothing is cut: the padding of both is at the end, where the DiT still sees it.
    """
    states = torch.cat([first, second], dim=1)
    mask = torch.cat([first_mask, second_mask], dim=1)
    # Integers, because not every device sorts booleans.
    order = mask.to(torch.int32).argsort(dim=1, descending=True, stable=True)
    return states.take_along_dim(order[..., None], dim=1), mask.take_along_dim(order, dim=1)
