"""What hashes cannot tell about a run's checkpoints: numbers that are not finite, shapes that do not fit each other,
a state.json of another version. A checkpoint that was written so has honest hashes, and a run would go on from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from honeclip.checkpoint import manifest
from honeclip.checkpoint.load import check_format, content
from honeclip.checkpoint.save import LATEST, named, steps
from honeclip.errors import RunError

WEIGHTS = "weights.safetensors"

CHUNK = 1 << 20
"""Numbers looked at in one go, so that a table of any size costs a few megabytes besides the file, which is mapped."""

_NUMBERS: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "total_steps": int,
    "elapsed_s": (int, float),
    "events_offset": int,
}

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]
"""File name -> tensor name -> shape."""


@dataclass(frozen=True)
class _Seen:
    """One checkpoint: its shapes, what its run says of the model, and its faults so far."""

    path: Path
    shapes: Shapes
    model: Any
    faults: list[str]
    honest: bool
    """Whether its hashes are right, so that --resume would take it."""
    said: tuple[str, ...] = ()
    """Faults that say themselves what to do, and for which nothing need be deleted but what they name."""

    @property
    def whole(self) -> bool:
        return not self.faults and not self.said


def examine(folder: Path) -> dict[str, list[str]]:
    """Every checkpoint of a run, and what is wrong with it, one sentence a fault; no sentence where it is whole.

    Hashes come first, and what they find ends the look at that checkpoint. Then: state.json (format, the honeclip that
    wrote it, its numbers), files of tensors that the manifest does not list, every number of every tensor of floats,
    and names and shapes, which must be those of the newest checkpoint without a fault. A model whose images have grown
    meanwhile has another table of positions, so shapes are compared between checkpoints of one model only.

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
            one.faults.extend(_differences(one, like))
    whole = [one.path.name for one in seen if one.whole] or [one.path.name for one in seen if not one.faults]
    good = _goes_on_from(folder, whole)
    return {one.path.name: [*one.said, *(fault + _way_out(one, good) for fault in one.faults)] for one in seen}


def _goes_on_from(folder: Path, whole: list[str]) -> str | None:
    """What --resume takes once faulty checkpoints are out of its way: what LATEST names, or else the newest whole one."""
    latest = named(folder, LATEST)
    return latest if latest in whole else next(reversed(whole), None)


def _way_out(one: _Seen, good: str | None) -> str:
    """What to do about a fault: --resume compares hashes alone, so what has honest ones is taken out of its way."""
    if good is None:
        return "; begin anew with --overwrite, for no other checkpoint is whole"
    if one.honest:
        return f"; delete the folder {one.path.name}, then --resume goes on from {good}"
    return f"; --resume goes on from {good}"


def _look(path: Path) -> _Seen:
    faults = manifest.verify(path)
    if faults:
        return _Seen(path, {}, None, faults, honest=False)
    try:
        stored = content(path)
    except RunError as error:
        return _Seen(path, {}, None, [str(error)], honest=True)
    try:
        check_format(path, stored)
    except RunError as error:
        return _Seen(path, {}, None, [], honest=True, said=(str(error),))
    faults = _state_faults(path, stored)
    strangers = _strangers(path)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for file in sorted(path.glob("*.safetensors")):
        if file.name in strangers:
            continue
        shapes[file.name], found = _tensors(file)
        faults.extend(found)
    described = stored.get("json")
    model = described.get("clip") if isinstance(described, dict) else None
    said = tuple(
        f"{path.name}/{name} is not in {manifest.MANIFEST}, and --resume would read it as a part of the checkpoint; delete it"
        for name in strangers
    )
    return _Seen(path, shapes, model, faults, honest=True, said=said)


def _strangers(path: Path) -> list[str]:
    """Names of files of tensors that no hash vouches for. What else a system leaves in folders is never read."""
    listed = json.loads((path / manifest.MANIFEST).read_text(encoding="utf-8"))
    return [file.name for file in sorted(path.glob("*.safetensors")) if file.name not in listed]


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
    if not faults and path.name != f"step-{stored['step']:06d}":
        faults.append(f"{where}: step is {stored['step']}, and the folder is {path.name}")
    return faults


def _tensors(file: Path) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Shapes by name, and a sentence for each tensor of floats that is not finite. One tensor at a time, as mapped."""
    shapes: dict[str, tuple[int, ...]] = {}
    faults: list[str] = []
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - the file is no mapping and cannot be iterated
                one = opened.get_tensor(name)
                shapes[name] = tuple(one.shape)
                bad = _not_finite(one) if one.is_floating_point() else 0
                if bad:
                    faults.append(f"{file.name}: {name} holds NaN or infinity ({bad} of {one.numel()} numbers)")
    except (OSError, SafetensorError) as error:
        faults.append(f"{file.name} cannot be read: {error}")
    return shapes, faults


def _not_finite(one: torch.Tensor) -> int:
    return sum(int((~piece.isfinite()).sum()) for piece in one.reshape(-1).split(CHUNK))


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
