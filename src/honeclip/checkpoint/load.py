"""Reading a checkpoint: the newest whole one, with a word on every damaged one that was passed over."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from honeclip.checkpoint import manifest, tensors
from honeclip.checkpoint.save import BEST, FORMAT, LATEST, RunState, named, set_aside, steps
from honeclip.errors import RunError

_NUMBERS: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "total_steps": int,
    "elapsed_s": (int, float),
    "events_offset": int,
}

SHOWN = 3
"""Faults of a damaged checkpoint that are said; in one whose weights are all NaN there are hundreds."""


def latest_good(folder: Path, report: Callable[[str], None]) -> Path | None:
    """The checkpoint that LATEST names, or where that one is damaged the newest whole one.

    Args:
        folder: RUN/checkpoints.
        report: called with one sentence for each damaged checkpoint, which names the file at fault.

    Returns:
        its folder; None where there is no checkpoint at all.

    Raises:
        RunError: there are checkpoints, and every one of them is damaged.
    """
    return _first_whole(folder, LATEST, report)


def best_good(folder: Path, report: Callable[[str], None]) -> Path | None:
    """The checkpoint that BEST names, or where there is no best, or it is damaged, what `latest_good` gives.

    Raises:
        RunError: as `latest_good`.
    """
    return _first_whole(folder, BEST if named(folder, BEST) else LATEST, report)


def read(path: Path) -> RunState:
    """A checkpoint's content: the files that its manifest lists. Hashes are not compared again: `latest_good` and `verify`
    did.

    Args:
        path: the folder of one checkpoint.

    Raises:
        RunError: a file is missing or no such file, or a newer honeclip wrote it. An older format is migrated.
    """
    stored = content(path)
    check_format(path, stored)
    stored = migrate(stored)
    return RunState(
        step=stored["step"],
        total_steps=stored["total_steps"],
        elapsed_s=stored["elapsed_s"],
        tensors={file.stem: tensors.read(file) for file in tensor_files(path)},
        json=stored["json"],
        events_offset=stored["events_offset"],
    )


def content(path: Path) -> dict[str, Any]:
    """The object in a checkpoint's state.json, whatever its format.

    Raises:
        RunError: the file is missing or no such file.
    """
    try:
        stored: dict[str, Any] = json.loads((path / manifest.STATE).read_text(encoding="utf-8"))
        stored["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is no checkpoint: {manifest.STATE}: {error}") from None
    return stored


def check_format(path: Path, stored: Mapping[str, Any]) -> None:
    """Raises RunError where a checkpoint is of a format that this honeclip cannot read; says which honeclip wrote it."""
    if stored["format"] not in (FORMAT, *MIGRATIONS):
        writer = stored.get("honeclip")
        wrote = f"use honeclip {writer}, which wrote it" if writer else "use the version that wrote it"
        raise RunError(f"{path} has format {stored['format']}, and this honeclip reads format {FORMAT}; {wrote}")


def migrate(stored: dict[str, Any]) -> dict[str, Any]:
    """What state.json says in today's format, one step a version. The files of a checkpoint stay as they are."""
    while stored["format"] != FORMAT:
        stored = MIGRATIONS[stored["format"]](stored)
    return stored


def _from_1(stored: dict[str, Any]) -> dict[str, Any]:
    """Format 1 stored no pairs to be embedded again, and nothing of the data and the device; its first writers no version
    either."""
    described = {**stored["json"], "pairs": None, "data": None, "device": None}
    return {**stored, "format": 2, "honeclip": stored.get("honeclip", ""), "json": described}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""From an older format to the one after it."""


def verify(path: Path) -> list[str]:
    """What is wrong with one checkpoint, one sentence a fault; an empty list where a run can go on from it.

    Hashes come first, and what they find ends the look. Then state.json and its numbers, and every number of every tensor
    of floats: a checkpoint that was written with NaN in it has honest hashes. One of a newer format is not looked into;
    `read` refuses it and says which honeclip wrote it.
    """
    if faults := manifest.verify(path):
        return faults
    try:
        stored = content(path)
    except RunError as error:
        return [str(error)]
    if stored["format"] not in (FORMAT, *MIGRATIONS):
        return []
    return [*_state_faults(path, stored), *(fault for file in tensor_files(path) for fault in tensors.faults(file))]


def tensor_files(path: Path) -> list[Path]:
    """The files of tensors of a checkpoint: those that its manifest lists.

    Raises:
        RunError: its manifest cannot be read.
    """
    try:
        return [file for file in manifest.listed(path) if file.suffix == tensors.SUFFIX]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} is no checkpoint: {manifest.MANIFEST}: {error}") from None


def _state_faults(path: Path, stored: Mapping[str, Any]) -> list[str]:
    where = manifest.STATE
    faults = [
        f"{where}: {key} is {stored.get(key)!r} and must be a number that is not negative"
        for key, kind in _NUMBERS.items()
        if isinstance(stored.get(key), bool) or not isinstance(stored.get(key), kind) or not stored[key] >= 0
    ]
    if not isinstance(stored.get("json"), dict):
        faults.append(f"{where}: json is {stored.get('json')!r:.40} and must be an object")
    # What was written before versions were kept has none, and is none the worse for it.
    if not isinstance(stored.get("honeclip", ""), str):
        faults.append(f"{where}: honeclip is {stored['honeclip']!r:.40} and must be the version that wrote it, as text")
    return faults


def _first_whole(folder: Path, pointer: str, report: Callable[[str], None]) -> Path | None:
    candidates = _candidates(folder, pointer)
    for position, path in enumerate(candidates):
        faults = verify(path)
        if not faults:
            if position:
                report(f"going on with checkpoint {path.name}")
            return path
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        report(f"checkpoint {path.name} is damaged: {'; '.join(faults[:SHOWN])}{more}")
    if candidates:
        raise RunError(
            f"{folder}: every checkpoint is damaged ({', '.join(path.name for path in candidates)}); "
            "start anew with --overwrite"
        )
    return None


def _candidates(folder: Path, pointer: str) -> list[Path]:
    """What the pointer names, then LATEST, then everything else from the newest to the oldest."""
    first = [folder / name for which in (pointer, LATEST) if (name := named(folder, which))]
    # A crash in the moment in which one checkpoint replaced another of its step left the first one set aside.
    aside = [set_aside(path) if not path.exists() and set_aside(path).exists() else path for path in first]
    return list(dict.fromkeys([*aside, *reversed(steps(folder).values())]))
