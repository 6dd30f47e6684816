"""The 5 Hz codec as tasks use it: latents from codes, and a song as its codes would have it."""

from collections.abc import Sequence

import torch

from acestep.errors import InvalidRequest
from acestep.runtime.store import ModelStore
from acestep.types import Codes, Latents


class Codec:
    """Tokenizer and detokenizer of the loaded checkpoint.

    Attributes:
        silence: the checkpoint's silence track, (1, 15000, channel).
    """

    def __init__(self, store: ModelStore) -> None:
        self.silence: Latents = store.silence
        self._store = store

    def decode(self, codes: Sequence[Sequence[int]]) -> Latents:
        """Source latents from a plan's codes, one row each.

        Raises:
            InvalidRequest: the plan was made for another checkpoint.
        """
        store, known = self._store, self._store.config.codebook_size
        rows = torch.tensor(codes, device=store.device)
        if rows.max() >= known:
            raise InvalidRequest(
                "plan",
                f"The plan has the code {rows.max().item()}, but this checkpoint knows {known:,}: "
                "it was planned for another model.",
            )
        with store.conditioner() as networks:
            # One take after the other: eight of ten minutes at once would take 5 GB.
            decoded = [
                networks.detokenizer(networks.tokenizer.quantizer.decode(row[None])).float().cpu()
                for row in rows
            ]
        return torch.cat(decoded)

    def encode(self, latents: Latents) -> Codes:
        """A song as the planner reads it: five codes per second."""
        with self._store.conditioner() as networks:
            return networks.tokenizer(self._there(latents), self.silence)[1]

    def through_codes(self, latents: Latents) -> Latents:
        """A song reduced to what its codes say of it, as many frames as it has."""
        with self._store.conditioner() as networks:
            quantized, _ = networks.tokenizer(self._there(latents), self.silence)
            return networks.detokenizer(quantized)[:, : latents.shape[1]].float().cpu()

    def _there(self, latents: Latents) -> Latents:
        return latents.to(self._store.device, self._store.dtype)
