"""Pictures divided by a column of the manifest: sex, age band, device, hospital. A mean over all can hide who it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALLEST = 20
"""Pictures that a group needs to be scored: under it an interval spans most of what is possible."""

MOST_GROUPS = 12
"""A column with more values divides nothing: it is an identifier, or a number to be cut into bands first."""

UNKNOWN = "(empty)"


@dataclass(frozen=True)
class Group:
    """One value of a column and the places of its pictures."""

    value: str
    places: NDArray[np.int64]

    @property
    def scored(self) -> bool:
        """Whether it is large enough."""
        return len(self.places) >= SMALLEST


def by_column(
    columns: Mapping[str, Sequence[str]], rows: NDArray[np.int64]
) -> tuple[dict[str, tuple[Group, ...]], tuple[str, ...]]:
    """The groups of each column, and the names of the columns that divide into too many.

    Args:
        columns: name -> value a row, "" where it is empty.
        rows: of the pictures; `places` count along them.

    Returns:
        Column -> its groups, sorted by value, a missing value last. Columns of one value are left out, for they divide nothing.
    """
    out, many = {}, []
    for name, values in columns.items():
        mine = np.array([values[row].strip() for row in rows], dtype=object)
        found = sorted({str(value) for value in mine}, key=lambda value: (not value, value))
        if len(found) > MOST_GROUPS:
            many.append(name)
        elif len(found) > 1:
            out[name] = tuple(
                Group(value or UNKNOWN, np.flatnonzero(mine == value).astype(np.int64)) for value in found
            )
    return out, tuple(many)
