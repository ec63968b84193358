"""Which pairs of a batch belong together, as a rule that can be asked tile by tile."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Positives of a batch of B pairs: the diagonal, and where identities are given every equal one.

    Attributes:
        caption_id: int64 (B,) or None; equal values are the same sentence.
        image_id: int64 (B,) or None; equal values are the same picture.

    The two identities stay apart: "same caption or same image" is not transitive, and merging it into one identity
    would weld two sentences together through one duplicate picture.
    """

    caption_id: Tensor | None = None
    image_id: Tensor | None = None

    @property
    def only_pairs(self) -> bool:
        """Whether the diagonal is all there is."""
        return self.caption_id is None and self.image_id is None

    def tile(self, start: int, stop: int, columns: int) -> Tensor:
        """Rows `start` to `stop` of the symmetric positive mask: bool (stop - start, columns)."""
        ids = [one for one in (self.caption_id, self.image_id) if one is not None]
        device = ids[0].device if ids else None
        rows = torch.arange(start, stop, device=device)
        mask = rows[:, None] == torch.arange(columns, device=device)[None, :]
        for one in ids:
            mask |= one[start:stop, None] == one[None, :]
        return mask

    def counts(self, size: int, tile: int) -> Tensor:
        """Positives of each row (and, the mask being symmetric, of each column): int64 (B,)."""
        if self.only_pairs:
            return torch.ones(size, dtype=torch.int64)
        spans = ((start, min(start + tile, size)) for start in range(0, size, tile))
        return torch.cat([self.tile(start, stop, size).sum(1) for start, stop in spans])
