"""What is done to pictures to see whether a model keeps its answers: fewer pixels, blur, crop, JPEG. Nothing is random.

`PERTURBATIONS` is the only place where kinds and strengths stand. All but the crop change the square that the model
takes, as the benchmarks of corruptions do (ImageNet-C, Hendrycks and Dietterich 2019), so that a strength means the
same for a photograph of 12 megapixels and for a thumbnail; the crop is cut from the picture itself, so that nothing
but its edges is lost.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from honeclip.preprocess.preprocess import Preprocess

REFERENCE_PX = 224
"""Blur is given in pixels of a picture of this side, and is larger or smaller with the model's own size."""


@dataclass(frozen=True)
class Perturbation:
    """One change of a picture.

    Attributes:
        kind: "scale", "blur", "crop" or "compression".
        strength: as METRICS name it; its unit follows from the kind (see `PERTURBATIONS`).
        words: what is done, for people.
        change: from an RGB picture to another one.
        of_square: True where it changes the square that the model takes, False where it changes the picture before.
    """

    kind: str
    strength: str
    words: str
    change: Callable[[Image.Image], Image.Image]
    of_square: bool = True

    def pixels(self, picture: Image.Image, square: Tensor, preprocess: Preprocess) -> Tensor:
        """What the model takes of the changed picture: uint8 (3, S, S).

        Args:
            picture: decoded, upright RGB, of any size.
            square: `preprocess.image(picture)`.
            preprocess: of the model.
        """
        if not self.of_square:
            return preprocess.image(self.change(picture))
        changed = self.change(Image.fromarray(square.permute(1, 2, 0).numpy()))
        return torch.from_numpy(np.array(changed)).permute(2, 0, 1).contiguous()


def reduced(picture: Image.Image, share: float) -> Image.Image:
    """Made smaller to `share` of both sides and enlarged again, bicubic: a picture taken from further away."""
    small = tuple(max(1, round(side * share)) for side in picture.size)
    return picture.resize((small[0], small[1]), Image.Resampling.BICUBIC).resize(picture.size, Image.Resampling.BICUBIC)


def blurred(picture: Image.Image, sigma_px: float) -> Image.Image:
    """Gaussian blur (Pillow's, by extended box filters) of `sigma_px` pixels of a side of `REFERENCE_PX`."""
    return picture.filter(ImageFilter.GaussianBlur(sigma_px * max(picture.size) / REFERENCE_PX))


def cropped(picture: Image.Image, share: float) -> Image.Image:
    """The middle, `share` of both sides; at least one pixel."""
    width, height = (max(1, round(side * share)) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def compressed(picture: Image.Image, quality: int) -> Image.Image:
    """Written as JPEG of a quality (1 to 95, colour at half resolution) and read again."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as read:
        return read.convert("RGB")


PERTURBATIONS = (
    Perturbation("scale", "0.5", "scale: half the pixels a side", partial(reduced, share=0.5)),
    Perturbation("scale", "0.25", "scale: a quarter of them", partial(reduced, share=0.25)),
    Perturbation("blur", "1", "blur: 1 px of 224", partial(blurred, sigma_px=1.0)),
    Perturbation("blur", "3", "blur: 3 px of 224", partial(blurred, sigma_px=3.0)),
    Perturbation("crop", "0.9", "crop: the middle 0.9 a side", partial(cropped, share=0.9), of_square=False),
    Perturbation("crop", "0.7", "crop: the middle 0.7 a side", partial(cropped, share=0.7), of_square=False),
    Perturbation("compression", "50", "compression: JPEG 50", partial(compressed, quality=50)),
    Perturbation("compression", "15", "compression: JPEG 15", partial(compressed, quality=15)),
)
"""A mild and a strong one of each kind. Strengths: share of the side (scale, crop), sigma in pixels of a picture of 224
(blur; 1 and 3 are severities 1 and 3 of ImageNet-C), JPEG quality (50: usual on the web; 15: severity 3 of ImageNet-C)."""
