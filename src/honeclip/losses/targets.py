"""Which pairs of a batch belong together, and how much, as rules that can be asked tile by tile."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from honeclip.errors import BadInput


@dataclass(frozen=True)
class Targets:
    """Positives of a batch of B pairs: the diagonal, and every pair with an equal identity or a label in common.

    Attributes:
        caption_id: int64 (B,) or None; equal values are the same sentence.
        image_id: int64 (B,) or None; equal values are the same picture.
        label_BC: bool or float 0/1 (B, C) or None; rows that share at least one label are positives of each other, a row
            without a label only of itself.
        vectors_BK: float (B, K) or None; a unit vector a pair in the space of the domain, or zeros where the domain knows
            nothing of it. The similarity of two pairs is s_ij = max(0, v_i . v_j); zeros are similar to nothing.
        blend: share of the target that follows the similarity instead of the positives, 0 to 1.
        smoothing: share of the target that is spread over the whole batch (Szegedy et al. 2016, arXiv 1512.00567), 0 to 1.
        same: negatives with s_ij above this are no negatives either (the rule of GISTEmbed, Solatorio 2024, arXiv
            2402.16829, with the domain as guide), or None. Only the masked form reads it.

    The identities stay apart: "same caption or same image" is not transitive, and merging it into one identity would weld
    two sentences together through one duplicate picture.

    Raises:
        BadInput: a share outside 0 to 1, or `blend` or `same` without vectors.
    """

    caption_id: Tensor | None = None
    image_id: Tensor | None = None
    label_BC: Tensor | None = None
    vectors_BK: Tensor | None = None
    blend: float = 0.0
    smoothing: float = 0.0
    same: float | None = None

    def __post_init__(self) -> None:
        for name in ("blend", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} = {getattr(self, name)}: it is a share and lies in 0 to 1")
        if self.vectors_BK is None and (self.blend > 0 or self.same is not None):
            name = "blend" if self.blend > 0 else "same"
            raise BadInput(f"{name} = {getattr(self, name)} needs vectors to compare the pairs by; give vectors_BK")

    @property
    def only_pairs(self) -> bool:
        """Whether the diagonal is all there is of positives."""
        return self.caption_id is None and self.image_id is None and self.label_BC is None

    @property
    def soft(self) -> bool:
        """Whether a pair that is no positive may have a part of the target."""
        return self.blend > 0 or self.smoothing > 0

    def tile(self, start: int, stop: int, columns: int) -> Tensor:
        """Rows `start` to `stop` of the symmetric positive mask: bool (stop - start, columns)."""
        ids = [one for one in (self.caption_id, self.image_id) if one is not None]
        mask_TB = self._diagonal(start, stop, columns)
        for one in ids:
            mask_TB |= one[start:stop, None] == one[None, :]
        if self.label_BC is not None:
            mask_TB |= (self.label_BC[start:stop].float() @ self.label_BC.float().T) > 0
        return mask_TB

    def negatives(self, start: int, stop: int, columns: int) -> Tensor:
        """Rows of the symmetric mask of negatives: neither positive nor more similar than `same`; bool as `tile`."""
        mask_TB = ~self.tile(start, stop, columns)
        return mask_TB if self.same is None else mask_TB & (self.similarity(start, stop) <= self.same)

    def similarity(self, start: int, stop: int) -> Tensor:
        """Rows of s_ij = max(0, v_i . v_j), of the vectors' dtype."""
        assert self.vectors_BK is not None
        return (self.vectors_BK[start:stop] @ self.vectors_BK.T).clamp_(min=0)

    def counts(self, size: int, tile: int) -> Tensor:
        """Positives of each row (and, the mask being symmetric, of each column): int64 (B,)."""
        if self.only_pairs:
            return torch.ones(size, dtype=torch.int64)
        spans = ((start, min(start + tile, size)) for start in range(0, size, tile))
        return torch.cat([self.tile(start, stop, size).sum(1) for start, stop in spans])

    def shares(self, like_BD: Tensor, tile: int) -> Shares:
        """The distribution over columns that each row aims at; its normalisers are summed here, once, tile by tile.

            t_ij = (1 - smoothing) [(1 - blend) h_ij / |P(i)| + blend s_ij / sum_j s_ij] + smoothing / B

        h is the positive mask and P(i) row i's positives. A row that is similar to nothing aims at its positives alone, as
        if blend were 0. h and s being symmetric, columns aim at the transposed rule.
        """
        size = len(like_BD)
        hard_B = (1 - self.smoothing) / self.counts(size, tile).to(like_BD)
        if self.blend == 0:
            return Shares(self, hard_B, None, self.smoothing / size)
        spans = ((start, min(start + tile, size)) for start in range(0, size, tile))
        similar_B = torch.cat([self.similarity(start, stop).sum(1) for start, stop in spans]).to(like_BD)
        known_B = similar_B > 0
        soft_B = torch.where(known_B, (1 - self.smoothing) * self.blend / similar_B, torch.zeros_like(similar_B))
        return Shares(self, torch.where(known_B, hard_B * (1 - self.blend), hard_B), soft_B, self.smoothing / size)

    def values(self, start: int, stop: int, like_BD: Tensor) -> Tensor:
        """Rows of each pair's own target in 0 to 1, for losses that judge every pair by itself: (stop - start, B).

            y_ij = (1 - smoothing) [(1 - blend) h_ij + blend s_ij] + smoothing / 2

        Where one of the two pairs is similar to nothing, y_ij follows h alone.
        """
        value_TB = self.tile(start, stop, len(like_BD)).to(like_BD)
        if self.blend > 0:
            assert self.vectors_BK is not None
            known_B = (self.vectors_BK != 0).any(1)
            soft_TB = value_TB.lerp(self.similarity(start, stop).to(like_BD), self.blend)
            value_TB = torch.where(known_B[start:stop, None] & known_B[None, :], soft_TB, value_TB)
        return value_TB.mul_(1 - self.smoothing).add_(self.smoothing / 2)

    def _diagonal(self, start: int, stop: int, columns: int) -> Tensor:
        given = [one for one in (self.caption_id, self.image_id, self.label_BC, self.vectors_BK) if one is not None]
        device = given[0].device if given else None
        rows = torch.arange(start, stop, device=device)
        return rows[:, None] == torch.arange(columns, device=device)[None, :]


@dataclass(frozen=True)
class Shares:
    """Target distributions with their normalisers: t_ij = hard_B[i] h_ij + soft_B[i] s_ij + flat."""

    targets: Targets
    hard_B: Tensor
    soft_B: Tensor | None
    flat: float

    def tile(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of what each row aims at; each sums to 1: (stop - start, B)."""
        return self._weighed(start, stop, self.hard_B[start:stop, None], self.soft_B, both=False)

    def both(self, start: int, stop: int) -> Tensor:
        """The same, plus what each column aims at."""
        hard_TB = self.hard_B[start:stop, None] + self.hard_B[None, :]
        return self._weighed(start, stop, hard_TB, self.soft_B, both=True)

    def _weighed(self, start: int, stop: int, hard_TB: Tensor, soft_B: Tensor | None, both: bool) -> Tensor:
        mask_TB = self.targets.tile(start, stop, len(self.hard_B)).to(self.hard_B.device)
        share_TB = hard_TB * mask_TB
        if soft_B is not None:
            soft_TB = soft_B[start:stop, None] + soft_B[None, :] if both else soft_B[start:stop, None]
            share_TB += soft_TB * self.targets.similarity(start, stop).to(share_TB)
        return share_TB if self.flat == 0 else share_TB.add_(2 * self.flat if both else self.flat)
