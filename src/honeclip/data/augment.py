"""What may be done to a training image: drawn from a seed, the step and the row alone, so that a resumed run repeats it."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance

from honeclip.domains.domain import AugmentRules


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
    return image


def _cropped(image: Image.Image, rules: AugmentRules, strength: float, draw: np.random.Generator) -> Image.Image:
    """A random part of the image of the same proportions: nothing is squashed, so lengths keep their meaning."""
    low, high = (1 - strength * (1 - share) for share in rules.crop_scale)
    side = math.sqrt(low + (high - low) * draw.random())
    across, down = draw.random(), draw.random()
    width, height = (max(1, round(size * side)) for size in image.size)
    left, top = round(across * (image.width - width)), round(down * (image.height - height))
    return image if (width, height) == image.size else image.crop((left, top, left + width, top + height))
