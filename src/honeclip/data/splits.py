"""Which rows train, which choose the best checkpoint, which are held out.

Rows are bound to one split by two things only: the same `group`, and the same pixels. Equal captions bind nothing.
Without a `split` column rows are divided 70/15/15, stratified by label and by content alone: the order of the rows, the
names of the files and the machine do not matter.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from honeclip.errors import DataError

SPLITS = ("train", "val", "test")
SHARES = {"train": 70, "val": 15, "test": 15}
"""In percent. Whole numbers, so that no rounding decides where a row goes."""

NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names understood in a `split` column, any case, and what they mean."""


@dataclass(frozen=True)
class Content:
    """What decides a row's split.

    Attributes:
        image_sha: hash of the pixels.
        caption: cleaned text.
        labels: () where there are none.
        group: "" where there is none.
    """

    image_sha: str
    caption: str
    labels: tuple[str, ...]
    group: str


def given(names: Sequence[str], rows: Sequence[int], source: object) -> tuple[str, ...]:
    """The splits as a manifest gives them, by their usual names.

    Raises:
        DataError: a name is unknown, or a row has none.
    """
    out = []
    for row, name in zip(rows, names, strict=True):
        split = NAMES.get(name.strip().casefold())
        if split is None:
            said = f"the split {name!r} is unknown" if name else "there is no split, while other rows have one"
            raise DataError(f"{source}: row {row}: {said}; use {', '.join(NAMES)}, or leave out the whole column")
        out.append(split)
    return tuple(out)


def complete(splits: Sequence[str], contents: Sequence[Content]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Fill in `val` or `test` where the given splits lack one: it is carved from train by the same rule.

    Without a train split (data only to evaluate on) nothing is carved.

    Returns:
        The splits, and a sentence for each that was carved.
    """
    counts = Counter(splits)
    lacking = [name for name in ("val", "test") if not counts[name]]
    if not lacking or not counts["train"]:
        return tuple(splits), ()
    rows = [row for row, name in enumerate(splits) if name == "train"]
    shares = {name: SHARES[name] for name in ("train", *lacking)}
    carved = assign([contents[row] for row in rows], shares)
    out = list(splits)
    for row, name in zip(rows, carved, strict=True):
        out[row] = name
    counts = Counter(out)
    notes = [f"the split column has no {name}: {counts[name]} rows of train were taken for it" for name in lacking]
    return tuple(out), tuple(notes)


def assign(contents: Sequence[Content], shares: Mapping[str, int] = SHARES) -> tuple[str, ...]:
    """Divide rows by content.

    Rows bound together make a unit. The units of each label are taken in the order of their hashes, and each goes where
    most rows are lacking so far, so every label is divided in the shares to within a unit or two. Units that would more
    than fill the smallest split come first, while there is room. With at least as many units as splits, none is empty.

    Args:
        contents: one a row.
        shares: split -> share, in any unit.

    Returns:
        A split for each row.
    """
    smallest = min(shares.values()) * len(contents) / sum(shares.values())
    units = sorted(_units(contents), key=lambda unit: (len(unit.rows) <= smallest, unit.stratum, unit.key))
    chosen = _divide(units, shares, len(contents))
    _fill_empty(units, chosen, list(shares))
    out = [""] * len(contents)
    for unit, name in zip(units, chosen, strict=True):
        for row in unit.rows:
            out[row] = name
    return tuple(out)


@dataclass(frozen=True)
class _Unit:
    """Rows that cannot be parted."""

    rows: tuple[int, ...]
    key: str
    stratum: tuple[str, ...]


def _units(contents: Sequence[Content]) -> list[_Unit]:
    parent = list(range(len(contents)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[tuple[str, str], int] = {}
    for row, content in enumerate(contents):
        for kind, value in (("group", content.group), ("pixels", content.image_sha)):
            if value:
                parent[root(row)] = root(first.setdefault((kind, value), row))
    members: dict[int, list[int]] = defaultdict(list)
    for row in range(len(contents)):
        members[root(row)].append(row)
    rarity = Counter(label for content in contents for label in content.labels)
    return [_unit(tuple(rows), contents, rarity) for rows in members.values()]


def _unit(rows: tuple[int, ...], contents: Sequence[Content], rarity: Counter[str]) -> _Unit:
    """Its key is the least hash of what binds it; its stratum the rarest of its labels, the one hardest to divide."""
    mine = [contents[row] for row in rows]
    named = [f"group\0{content.group}" for content in mine if content.group]
    keys = named or [f"pixels\0{content.image_sha}\0{content.caption}" for content in mine]
    labels = {label for content in mine for label in content.labels}
    rarest = min(labels, key=lambda label: (rarity[label], label)) if labels else None
    return _Unit(
        rows=rows,
        key=min(hashlib.sha256(key.encode()).hexdigest() for key in keys),
        stratum=(rarest,) if rarest is not None else (),
    )


def _divide(units: Sequence[_Unit], shares: Mapping[str, int], total_rows: int) -> list[str]:
    """A split for each unit, in their order: where most rows lack so far, if the unit fits into what is left there."""
    whole = sum(shares.values())
    seen = 0
    has = dict.fromkeys(shares, 0)
    chosen = []
    for unit in units:
        size = len(unit.rows)
        seen += size
        lack = {name: shares[name] * seen - whole * has[name] for name in shares}
        room = {name: shares[name] * total_rows - whole * has[name] for name in shares}
        fitting = [name for name in shares if whole * (size - 1) < room[name]]
        name = max(fitting, key=lack.__getitem__) if fitting else max(shares, key=room.__getitem__)
        has[name] += size
        chosen.append(name)
    return chosen


def _fill_empty(units: Sequence[_Unit], chosen: list[str], names: Sequence[str]) -> None:
    """Give each empty split the smallest unit of the split that has most units."""
    for name in names:
        counts = Counter(chosen)
        donor = max(names, key=counts.__getitem__)
        if counts[name] == 0 and counts[donor] > 1:
            mine = [place for place, one in enumerate(chosen) if one == donor]
            chosen[min(mine, key=lambda place: (len(units[place].rows), units[place].key))] = name
