"""Reading a checkpoint: the newest whole one, with a word on every damaged one that was passed over."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from honeclip.checkpoint import manifest, tensors
from honeclip.checkpoint.save import BEST, FORMAT, LATEST, RunState, named, set_aside, steps
from honeclip.errors import RunError


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
    """A checkpoint's content. Hashes are not compared again: `latest_good` and `verify` did.

    Args:
        path: the folder of one checkpoint.

    Raises:
        RunError: a file is missing or no such file, or a newer honeclip wrote it.
    """
    stored = content(path)
    check_format(path, stored)
    return RunState(
        step=stored["step"],
        total_steps=stored["total_steps"],
        elapsed_s=stored["elapsed_s"],
        tensors={file.stem: tensors.read(file) for file in sorted(path.glob("*.safetensors"))},
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
    """Raises RunError where a checkpoint is not of the format that this honeclip reads; says which honeclip wrote it."""
    if stored["format"] != FORMAT:
        writer = stored.get("honeclip")
        wrote = f"use honeclip {writer}, which wrote it" if writer else "use the version that wrote it"
        raise RunError(f"{path} has format {stored['format']}, and this honeclip reads format {FORMAT}; {wrote}")


def verify(path: Path) -> list[str]:
    """What is wrong with one checkpoint, one sentence a file; an empty list where it is whole."""
    return manifest.verify(path)


def _first_whole(folder: Path, pointer: str, report: Callable[[str], None]) -> Path | None:
    candidates = _candidates(folder, pointer)
    for position, path in enumerate(candidates):
        faults = verify(path)
        if not faults:
            if position:
                report(f"going on with checkpoint {path.name}")
            return path
        report(f"checkpoint {path.name} is damaged: {'; '.join(faults)}")
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
