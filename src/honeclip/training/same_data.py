"""Whether a run that goes on has the data that it began with: which rows came, went, or say something else now.

The order of the batches is a function of the number of rows and their places, so with other rows it would be another run
under the same name, and its scores would be compared with those on other pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from honeclip.data.pairs import Pairs
from honeclip.errors import RunError
from honeclip.training import folder as folders
from honeclip.training.folder import Found

FORMAT = 1
SHOWN = 3
"""Rows of each kind of change that a message names."""

LETTERS = 16
"""Of a hash in hex: 64 bits, so that two of a million rows agree by chance once in thirty million data sets."""

_WHAT = {"image": "picture", "caption": "caption", "labels": "label", "split": "split"}


@dataclass(frozen=True)
class Change:
    """What is different, in words; empty where nothing is."""

    words: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.words)


def rows(pairs: Pairs) -> dict[str, Any]:
    """What is kept of the rows of a run, every split: a list for each column. A hundred bytes a row."""
    names = pairs.files or [one.name for one in pairs.images]
    return {
        "format": FORMAT,
        "file": list(names),
        "image": [sha[:LETTERS] for sha in pairs.image_sha],
        "caption": [_hash(one) for one in pairs.captions],
        "labels": [_hash("\n".join(one)) if one else "" for one in pairs.labels],
        "split": list(pairs.splits),
    }


def compare(then: Mapping[str, Any], now: Mapping[str, Any]) -> Change:
    """What came between two answers of `rows`. A row is found again by its file, and among several of one file by its place."""
    before, after = _by_name(then["file"]), _by_name(now["file"])
    words = [
        _said(keys, verb)
        for keys, verb in (
            ([key for key in after if key not in before], "came"),
            ([key for key in before if key not in after], "went"),
        )
    ]
    both = [key for key in before if key in after]
    for column, what in _WHAT.items():
        other = [key for key in both if then[column][before[key]] != now[column][after[key]]]
        words.append(_said(other, f"{'has' if len(other) == 1 else 'have'} another {what}"))
    if not any(words) and list(before) != list(after):
        words = ["the rows stand in another order"]
    return Change(tuple(one for one in words if one))


def check(found: Found, pairs: Pairs, *, force: bool) -> Change:
    """What changed in the data of a run that goes on; nothing in one that begins, or that is older than this file.

    Args:
        found: the run.
        pairs: the data as they are now.
        force: whether a change is accepted.

    Raises:
        RunError: something changed, and nobody said that it may; or a run begins, which nothing need be forced for.
    """
    if not found.going_on:
        if force:
            raise RunError("--force goes on with a run whose data changed: give it with --resume, or leave it out")
        return Change(())
    stored = folders.read_json(found.folder.data_file)
    if stored is None or stored.get("format") != FORMAT:
        return Change(())
    change = compare(stored, rows(pairs))
    if change and not force:
        raise RunError(
            f"the data of {found.folder.path} changed since it began: {'; '.join(change.words)} ({pairs.source}). Put the data "
            "back as they were, start another run, or say --force to go on with these: the order of the batches is then "
            "another one, and scores are compared anew"
        )
    return change


def fingerprint(pairs: Pairs) -> str:
    """SHA-256 in hex of `rows`: a checkpoint has that of the data that it was trained and scored on."""
    return hashlib.sha256(json.dumps(rows(pairs)).encode()).hexdigest()


def keep(file: Path, pairs: Pairs) -> None:
    """Writes down what a run has for data from now on."""
    folders.write_json(file, rows(pairs))


def _by_name(names: Sequence[str]) -> dict[tuple[str, int], int]:
    """Place of each row, by its file and its number among those of that file."""
    seen: Counter[str] = Counter()
    out: dict[tuple[str, int], int] = {}
    for place, name in enumerate(names):
        out[name, seen[name]] = place
        seen[name] += 1
    return out


def _said(keys: Sequence[tuple[str, int]], verb: str) -> str:
    if not keys:
        return ""
    shown = ", ".join(name for name, _ in keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
    return f"{len(keys)} row{'s' if len(keys) > 1 else ''} {verb} ({shown})"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:LETTERS]
