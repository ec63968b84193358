"""What may be done to a training image: drawn from a seed, the step and the row alone, so that a resumed run repeats it."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from honeclip.domains.domain import AugmentRules

_SPOT_PX, _GRAIN_PX = 64, 256
"""Longest side of the fields that are drawn: a spot is soft, and grain finer than a model sees is lost."""

_TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


def changes_nothing(rules: AugmentRules) -> bool:
    """Whether every image stays as it is."""
    return rules == AugmentRules()


def augment(
    image: Image.Image, rules: AugmentRules, strength: float, seed: tuple[int, int, int], fill: int = 0
) -> Image.Image:
    """One image, changed within the rules.

    Args:
        image: RGB.
        rules: the domain's.
        strength: 0 leaves the image as it is, 1 goes as far as the rules allow.
        seed: run's seed, step, row.
        fill: grey value 0 to 255 of corners that a rotation leaves empty.

    Returns:
        An RGB image; a crop makes it smaller.
    """
    if strength <= 0:
        return image
    # a bit generator of its own for each image: numpy promises Philox's raw stream for ever
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
    image = _cropped(image, rules, strength, draw)
    if draw.random() < 0.5 * strength and rules.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = strength * rules.rotate_deg * (2 * draw.random() - 1)
    if angle:
        image = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=(fill, fill, fill))
    for enhance, most in (
        (ImageEnhance.Brightness, rules.brightness),
        (ImageEnhance.Contrast, rules.contrast),
        (ImageEnhance.Color, rules.saturation),
    ):
        factor = 1 + strength * most * (2 * draw.random() - 1)
        if factor != 1:
            image = enhance(image).enhance(factor)
    if draw.random() < 0.5 * strength and rules.flip_vertical:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    turn = int(4 * draw.random()) if draw.random() < strength else 0
    if turn and rules.quarter_turns:
        image = image.transpose(_TURNS[turn - 1])
    image = _greys(image, rules, strength, draw)
    image = _glare(image, strength * rules.glare, draw)
    image = _noise(image, strength * rules.noise, draw)
    if draw.random() < strength * rules.grey:
        image = image.convert("L").convert("RGB")
    return _saved(image, 100 - strength * (100 - rules.jpeg), draw)


def _greys(image: Image.Image, rules: AugmentRules, strength: float, draw: np.random.Generator) -> Image.Image:
    """Another exponent, and another window of the grey scale: every channel through one table."""
    exponent, shift, width = (2 * draw.random() - 1 for _ in range(3))
    grey = np.arange(256) / 255
    grey = (grey - 0.5 - strength * rules.window * shift) / (1 + strength * rules.window * width) + 0.5
    grey = np.clip(grey, 0, 1) ** ((1 - strength * rules.gamma) ** exponent)
    table = np.rint(255 * grey).astype(np.uint8)
    return image if np.array_equal(table, np.arange(256)) else image.point(table.tolist() * 3)


def _glare(image: Image.Image, most: float, draw: np.random.Generator) -> Image.Image:
    """A soft spot of light somewhere."""
    across, down, radius, bright = draw.random(), draw.random(), 0.1 + 0.3 * draw.random(), most * draw.random()
    if not most:
        return image
    width, height = _grid(image, _SPOT_PX)
    x, y = np.arange(width) - across * width, np.arange(height)[:, None] - down * height
    spot = bright * np.exp(-(x**2 + y**2) / (2 * (radius * max(width, height)) ** 2))
    return _added(image, 255 * spot[..., None].repeat(3, 2))


def _noise(image: Image.Image, most: float, draw: np.random.Generator) -> Image.Image:
    """Normal noise with a grain of the same share of every picture: at full size it would vanish when that is made small."""
    if not most:
        return image
    width, height = _grid(image, _GRAIN_PX)
    return _added(image, 255 * most * draw.random() * draw.standard_normal((height, width, 3)))


def _grid(image: Image.Image, longest: int) -> tuple[int, int]:
    """(width, height) with the proportions of the image and at most so many pixels a side."""
    share = min(1.0, longest / max(image.size))
    return max(1, round(image.width * share)), max(1, round(image.height * share))


def _added(image: Image.Image, change: NDArray[np.float64]) -> Image.Image:
    """The image with a coarser field of changes (h, w, 3) in grey values added."""
    fields = [
        np.asarray(Image.fromarray(one.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR))
        for one in np.moveaxis(change, 2, 0)
    ]
    changed = np.asarray(image).astype(np.float32) + np.stack(fields, 2)
    return Image.fromarray(np.rint(np.clip(changed, 0, 255)).astype(np.uint8))


def _saved(image: Image.Image, lowest: float, draw: np.random.Generator) -> Image.Image:
    """The image as a JPEG of a quality from `lowest` on brings it back."""
    quality = round(lowest + (100 - lowest) * draw.random())
    if lowest >= 100:
        return image
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    with Image.open(file) as again:
        return again.convert("RGB")


def _cropped(image: Image.Image, rules: AugmentRules, strength: float, draw: np.random.Generator) -> Image.Image:
    """A random part of the image of the same proportions: nothing is squashed, so lengths keep their meaning."""
    low, high = (1 - strength * (1 - share) for share in rules.crop_scale)
    side = math.sqrt(low + (high - low) * draw.random())
    across, down = draw.random(), draw.random()
    width, height = (max(1, round(size * side)) for size in image.size)
    left, top = round(across * (image.width - width)), round(down * (image.height - height))
    return image if (width, height) == image.size else image.crop((left, top, left + width, top + height))
