"""What `prepare` finds in what people have, before it becomes a manifest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from honeclip.errors import DataError
from honeclip.preprocess import images

SHOWN = 3


@dataclass(frozen=True)
class Piecewise:
    """What is known of the pieces of an image.

    Attributes:
        masks: files in which all that is not black is the defect; several are laid over each other.
        label: of a piece without any of it.
        caption: of a piece without any of it.
    """

    masks: tuple[Path, ...]
    label: str
    caption: str


@dataclass(frozen=True)
class Found:
    """A pair that was found; `split` and `group` are "" where it has none.

    Attributes:
        image: the file.
        caption: as found, or by a template.
        labels: () where there are none.
        split: "train", "val" or "test".
        group: what must stay in one split.
        more: further columns of the manifest -> their values.
        pieces: what its tiles are, where that is known.
    """

    image: Path
    caption: str
    labels: tuple[str, ...]
    split: str
    group: str
    more: Mapping[str, str] = field(default_factory=dict)
    pieces: Piecewise | None = None


def mask_of(files: Sequence[Path]) -> NDArray[np.bool_]:
    """Where any of the masks of an image is not black: bool (rows, columns).

    Raises:
        DataError: one cannot be decoded, or they differ in size.
    """
    layers = [np.asarray(images.decode(file)).any(axis=-1) for file in files]
    if len({layer.shape for layer in layers}) > 1:
        raise DataError("the masks of an image differ in size")
    found: NDArray[np.bool_] = np.any(layers, axis=0)
    return found


def left_out(why: str, files: Sequence[Path]) -> list[str]:
    """A note that names some of the files; none where there are none."""
    return [f"{why}, so left out: {shortened(files)}"] if files else []


def shortened(files: Sequence[Path]) -> str:
    """The first names, and how many there are besides."""
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return f"{', '.join(file.name for file in files[:SHOWN])}{more}"


def relative(image: Path, folder: Path) -> str:
    """As the manifest names it; absolute where no relative path leads there (another drive on Windows)."""
    try:
        return Path(os.path.relpath(image.absolute(), folder.resolve())).as_posix()
    except ValueError:
        return image.absolute().as_posix()
