"""Makers of small images and manifests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Photo = Callable[..., Path]


@pytest.fixture
def photo() -> Photo:
    """Writes an image of noise; equal seeds and sizes give equal pixels."""

    def make(path: Path, seed: int = 0, size: tuple[int, int] = (16, 12), mode: str = "RGB") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = size
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise, "RGB").convert(mode).save(path)
        return path

    return make


@pytest.fixture
def ten(tmp_path: Path, photo: Photo) -> Path:
    """A folder with ten different images 0.png ... 9.png and no manifest."""
    for number in range(10):
        photo(tmp_path / f"{number}.png", seed=number)
    return tmp_path
