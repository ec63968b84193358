"""Writing a checkpoint so that a crash at any moment leaves LATEST naming a whole one.

Files are written aside, into `step-000400.partial-PID`, and each waits for the disk. The manifest comes last, then one
rename makes the folder real, then LATEST is replaced by a rename. What is not needed any more is renamed out of the way
before it is deleted, so that half a deletion never looks like a checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from honeclip.checkpoint import manifest, tensors
from honeclip.checkpoint.lock import locked
from honeclip.errors import HoneclipError, RunError

FORMAT = 2
"""Of state.json and the files beside it; `load` refuses a newer one and migrates an older one. 2: `json` says of `pairs` what
their embeddings are of, which `data` the run had and on which `device` it was."""

LATEST, BEST = "LATEST", "BEST"
WITHIN = "WITHIN"
"""The newest checkpoint to which a run may have to go back."""

_STEP = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class RunState:
    """Everything that a run needs to go on as if it had never stopped.

    Attributes:
        step: steps done.
        total_steps: steps of the whole run.
        elapsed_s: seconds of training so far.
        tensors: file name without ending -> name -> tensor: weights, optimizer, rng. Any device; they are read while
            saving, so the next step waits.
        json: what JSON can say, with text for keys and no NaN.
        events_offset: bytes of events.jsonl that belong to the steps done.
    """

    step: int
    total_steps: int
    elapsed_s: float
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    json: dict[str, Any] = field(default_factory=dict)
    events_offset: int = 0


def save(folder: Path, state: RunState, keep_last: int, best: bool = False, within: bool = False) -> Path:
    """Writes a checkpoint and makes it LATEST; deletes what is no longer needed.

    Args:
        folder: RUN/checkpoints; made where it is missing.
        state: what to write. A checkpoint of the same step is replaced.
        keep_last: newest checkpoints kept, LATEST among them (at least 1); those that BEST and WITHIN name are kept besides.
        best: make it BEST as well.
        within: make it WITHIN as well.

    Returns:
        the checkpoint's folder, `folder / "step-000400"`.

    Raises:
        RunError: another process is writing this run.
        HoneclipError: the disk is full or refuses; what was there before is untouched.
    """
    final = folder / f"step-{state.step:06d}"
    partial = folder / f"{final.name}.partial-{os.getpid()}"
    with locked(folder.parent):
        _clean(folder)
        try:
            partial.mkdir(parents=True)
            _write(partial, state)
            _put_in_place(partial, final)
            # BEST first: killed between the two, the run goes on from the older LATEST and finds this best again.
            if best:
                _point(folder, BEST, final.name)
            if within:
                _point(folder, WITHIN, final.name)
            _point(folder, LATEST, final.name)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise HoneclipError(
                f"the checkpoint of step {state.step} could not be written to {folder}: {error.strerror or error}. "
                f"{_untouched(folder)} Make room, then go on with --resume"
            ) from error
        _prune(folder, state.step, keep_last)
    return final


def tidy(folder: Path, step: int, keep_last: int) -> None:
    """Deletes what a killed process could not any more: half-written files, and checkpoints up to `step` that are too many.

    Raises:
        RunError: another process is writing this run.
    """
    with locked(folder.parent):
        _clean(folder)
        _prune(folder, step, keep_last)


def mark_best(folder: Path, name: str) -> None:
    """Makes a checkpoint of `folder` the BEST one.

    Raises:
        RunError: there is no checkpoint of that name.
    """
    if not (folder / name).is_dir():
        raise RunError(f"{folder} has no checkpoint {name!r} that could be the best")
    with locked(folder.parent):
        _point(folder, BEST, name)


def named(folder: Path, pointer: str) -> str | None:
    """The checkpoint that LATEST or BEST names; None where the file is missing or holds no checkpoint's name."""
    try:
        text = (folder / pointer).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if _STEP.fullmatch(text) else None


def set_aside(checkpoint: Path) -> Path:
    """Where a checkpoint waits while another one of the same step takes its name."""
    return checkpoint.with_name(f"{checkpoint.name}.old")


def steps(folder: Path) -> dict[int, Path]:
    """Step -> folder of every checkpoint, whole or not, oldest first."""
    if not folder.is_dir():
        return {}
    found = {int(match[1]): path for path in folder.iterdir() if (match := _STEP.fullmatch(path.name))}
    return dict(sorted(found.items()))


def _write(partial: Path, state: RunState) -> None:
    hashes = {
        f"{name}.safetensors": tensors.write(partial / f"{name}.safetensors", group)
        for name, group in state.tensors.items()
    }
    content = {
        "format": FORMAT,
        "honeclip": _version(),
        "step": state.step,
        "total_steps": state.total_steps,
        "elapsed_s": state.elapsed_s,
        "events_offset": state.events_offset,
        "json": state.json,
    }
    hashes[manifest.STATE] = manifest.write_text(
        partial / manifest.STATE, json.dumps(content, indent=2, allow_nan=False) + "\n"
    )
    manifest.seal(partial, hashes)
    _sync(partial)


def _version() -> str:
    """Of the honeclip that writes; empty where its source is used without being installed."""
    try:
        return version("honeclip")
    except PackageNotFoundError:
        return ""


def _put_in_place(partial: Path, final: Path) -> None:
    """Renames the finished folder to its name; a checkpoint that has the name already waits as `NAME.old` meanwhile."""
    old = set_aside(final)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    _sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _point(folder: Path, pointer: str, name: str) -> None:
    aside = folder / f"{pointer}.partial"
    manifest.write_text(aside, name + "\n")
    aside.replace(folder / pointer)
    _sync(folder)


def _prune(folder: Path, step: int, keep_last: int) -> None:
    found = steps(folder)
    newest = [path.name for number, path in found.items() if number <= step][-max(1, keep_last) :]
    kept = {*newest, *(named(folder, one) for one in (LATEST, BEST, WITHIN))}
    for path in found.values():
        if path.name not in kept:
            path.rename(folder / f"{path.name}.partial-{os.getpid()}")
    _clean(folder)


def _clean(folder: Path) -> None:
    """Deletes what a crash left behind. The lock is held, so nobody is still writing it."""
    for path in folder.glob("*.partial*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    for path in folder.glob("step-*.old"):
        if (folder / path.stem).exists():
            shutil.rmtree(path, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Waits until the names in a folder lie on the disk; only POSIX can open a folder for that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _untouched(folder: Path) -> str:
    name = named(folder, LATEST)
    return f"{name} is whole." if name else "There is no earlier one."
