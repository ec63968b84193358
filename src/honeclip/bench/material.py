"""What the benchmarks of inference and serving feed a model with: JPEG files of 640 x 480 pixels, and captions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from honeclip.data import manifest
from honeclip.errors import BadInput
from honeclip.preprocess import images

WIDTH, HEIGHT, QUALITY = 640, 480, 85

CAPTIONS = (
    "a red circle",
    "a photo of a small brown dog on a green lawn",
    "chest radiograph without any sign of an acute infiltrate in either lung",
    "a scratch of about two millimetres beside the lower edge of a polished steel plate",
    "two people",
    "the crab nebula in infrared light, with filaments of gas around the pulsar in its middle",
    "a diagram of the cell cycle that shows where in it the chromosomes are copied, and what stops it when they are damaged",
    "a wooden chair in an empty room",
)
"""Short and long ones, as captions are, where no data is given."""


def jpegs(data: str | None, count: int) -> list[bytes]:
    """`count` files: pictures of a data set, stretched to 640 x 480, else drawn ones; again from the first where they run out.

    Raises:
        BadInput: no picture of the data can be read.
    """
    if data is None:
        return [drawn(seed) for seed in range(count)]
    made: list[bytes] = []
    for row in manifest.read(data, images_alone=True).rows:
        if len(made) == count:
            break
        if isinstance(row.image, Path) and row.image.is_file():
            picture = images.decode(row.image).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            made.append(_encoded(picture))
    if not made:
        raise BadInput(f"--data {data}: there are no pictures that are files")
    return [made[place % len(made)] for place in range(count)]


def captions(data: str | None, count: int) -> list[str]:
    """`count` captions of a data set, else of `CAPTIONS`; again from the first where they run out.

    Raises:
        BadInput: the data has no captions.
    """
    known: Sequence[str] = CAPTIONS
    if data is not None:
        known = list(dict.fromkeys(row.caption for row in manifest.read(data, images_alone=True).rows if row.caption))
        if not known:
            raise BadInput(f"--data {data}: there are no captions")
    return [known[place % len(known)] for place in range(count)]


def drawn(seed: int) -> bytes:
    """Noise at several scales, so that a JPEG of it is as large as one of a photograph."""
    random = np.random.default_rng(seed)
    field = np.zeros((HEIGHT, WIDTH, 3))
    for step in (4, 16, 80):
        coarse = random.integers(0, 256, (HEIGHT // step, WIDTH // step, 3), dtype=np.uint8)
        field += np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) / 3
    return _encoded(Image.fromarray(field.astype(np.uint8)))


def _encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
