"""How many rows of the logits are held at once."""

from __future__ import annotations

TILE_BYTES = 16 * 2**20
"""Bytes of one tile of logits. A few of these live at a time; larger tiles were not faster on the machines measured."""


def rows(size: int, tile: int | str = "auto", element_bytes: int = 4) -> int:
    """Rows a tile for a batch of `size`: as given, at most `size`; "auto" keeps a tile at `TILE_BYTES`."""
    if tile == "auto":
        return max(1, min(size, TILE_BYTES // max(1, size * element_bytes)))
    return max(1, min(size, int(tile)))
