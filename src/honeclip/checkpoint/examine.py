"""What is wrong with a run's checkpoints: what `load.verify` finds in each, and shapes that do not fit each other.

A run never goes on from what `verify` finds. Shapes are seen only beside other checkpoints, and such a one has to be deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from honeclip.checkpoint import manifest, tensors
from honeclip.checkpoint.load import check_format, content, tensor_files, verify
from honeclip.checkpoint.save import LATEST, named, steps
from honeclip.errors import RunError

WEIGHTS = f"weights{tensors.SUFFIX}"
PAIRS = f"pairs{tensors.SUFFIX}"
"""Not in every checkpoint: embeddings of a few pairs come with an evaluation."""

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]
"""File name -> tensor name -> shape."""


@dataclass(frozen=True)
class _Seen:
    """One checkpoint: its shapes, what its run says of the model, and its faults so far: those for which --resume passes
    it over, those for which it would not, and one that says itself what to do."""

    path: Path
    shapes: Shapes
    model: Any
    faults: list[str]
    unseen: list[str]
    said: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return not self.faults and not self.unseen and not self.said


def examine(folder: Path) -> dict[str, list[str]]:
    """Every checkpoint of a run, and what is wrong with it, one sentence a fault; no sentence where it is whole.

    First what `load.verify` finds. Then names and shapes of tensors, which must be those of the newest checkpoint without a
    fault. A model whose images have grown meanwhile has another table of positions, so shapes are compared between
    checkpoints of one model only.

    Args:
        folder: RUN/checkpoints.

    Returns:
        name of the checkpoint -> faults, oldest first.
    """
    seen = [_look(path) for path in steps(folder).values()]
    newest = next((one for one in reversed(seen) if one.whole), None)
    for one in seen:
        others = [other for other in reversed(seen) if other.whole and other is not one]
        like = next((other for other in others if other.model == one.model), newest)
        if one.shapes and like is not None and one is not newest:
            one.unseen.extend(_differences(one, like))
    able = [one for one in seen if not one.faults and not one.unseen]
    whole = [one.path.name for one in able if one.whole] or [one.path.name for one in able]
    good = _goes_on_from(folder, whole)
    return {one.path.name: _sentences(one, good) for one in seen}


def _goes_on_from(folder: Path, whole: list[str]) -> str | None:
    """What --resume takes once faulty checkpoints are out of its way: what LATEST names, or else the newest whole one."""
    latest = named(folder, LATEST)
    return latest if latest in whole else next(reversed(whole), None)


def _sentences(one: _Seen, good: str | None) -> list[str]:
    """The faults of a checkpoint, each with what to do about it."""
    anew = "begin anew with --overwrite, for no other checkpoint is whole"
    on = f"--resume goes on from {good}" if good else anew
    delete = f"delete the folder {one.path.name}, then {on}" if good else anew
    return [*one.said, *(f"{fault}; {on}" for fault in one.faults), *(f"{fault}; {delete}" for fault in one.unseen)]


def _look(path: Path) -> _Seen:
    faults = verify(path)
    if faults:
        return _Seen(path, {}, None, faults, [])
    stored = content(path)
    try:
        check_format(path, stored)
    except RunError as error:
        return _Seen(path, {}, None, [], [], said=(str(error),))
    unseen = []
    if path.name != f"step-{stored['step']:06d}":
        unseen.append(f"{manifest.STATE}: step is {stored['step']}, and the folder is {path.name}")
    shapes = {file.name: tensors.shapes(file) for file in tensor_files(path) if file.name != PAIRS}
    return _Seen(path, shapes, stored["json"].get("clip"), [], unseen)


def _differences(one: _Seen, like: _Seen) -> list[str]:
    """How the files, the names of the weights and the shapes differ from those of another checkpoint."""
    faults = [f"{file} is missing, and {like.path.name} has it" for file in like.shapes if file not in one.shapes]
    for file, shapes in one.shapes.items():
        others = like.shapes.get(file, {})
        if file == WEIGHTS:  # the optimizer's names are more where towers that were frozen have begun to learn
            faults += [
                f"{file}: {name} is missing, and {like.path.name} has it" for name in others if name not in shapes
            ]
            faults += [f"{file}: {name} is not in that of {like.path.name}" for name in shapes if name not in others]
        if one.model == like.model:
            faults += [
                f"{file}: {name} has shape {list(shape)}, and {list(others[name])} in {like.path.name}"
                for name, shape in shapes.items()
                if name in others and shape != others[name]
            ]
    return faults
