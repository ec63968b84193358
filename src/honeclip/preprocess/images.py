"""Image files to upright RGB, judged before they are decoded: limits, modes, orientation. Knows no model.

Modes: transparency is put on white; a palette, CMYK and other colour spaces become RGB without a colour profile; grey
of 16 bits is scaled by 1/257, other wide grey by its own range where it leaves 0..255; of an animation the first frame.
Nothing here touches what belongs to the whole process (Pillow's limits, warning filters): files are decoded in threads.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from honeclip.errors import DataError

RULES = 1
"""Raised when `decode` would give other pixels for the same file."""


@dataclass(frozen=True)
class Limits:
    """What is not decoded.

    Attributes:
        pixels: most pixels (width x height), read from the header.
    """

    pixels: int = 250_000_000


LIMITS = Limits()
"""For files of the user's own; a server takes smaller ones."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""Of Pillow's readers only these: each is a door for a crafted file, and some start other programs."""

_READERS: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
    (re.compile(rb"P[1-6fy]\s"), PpmImageFile),
)
# Called without Image.open, which judges sizes by a limit of the whole process and warns: switching a warning off for a
# moment switches it for every thread, and now and then for good.

_STRANGERS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb".{128}DICM", re.DOTALL), "this is a DICOM file, and this version reads none: convert it to PNG"),
    (re.compile(rb"....ftyp(hei|hev|mif|msf)", re.DOTALL), "this is a HEIC photo: convert it to JPEG"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "this is an AVIF image: convert it to PNG"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "this is a JPEG 2000 image: convert it to PNG"),
    (re.compile(rb"%PDF"), "this is a PDF: convert its pages to PNG"),
    (re.compile(rb"version https://git-lfs"), "this is a pointer of Git LFS, not the image itself: run `git lfs pull`"),
    (re.compile(rb"\s*(<\?xml.*)?<svg", re.DOTALL), "this is an SVG drawing: convert it to PNG"),
)

_HEAD_BYTES = 512

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what undoes it (Exif 2.32, 4.6.4, tag 0x0112)."""


@dataclass(frozen=True)
class Facts:
    """What is known of a picture once it was decoded.

    Attributes:
        size: (width, height) in pixels, upright.
        mode: Pillow's mode of the file, before it became RGB.
        pixels_sha256: hex, of size and RGB pixels: equal pictures in different formats share it.
    """

    size: tuple[int, int]
    mode: str
    pixels_sha256: str


def probe(source: bytes | Path, limits: Limits = LIMITS) -> Facts:
    """Decodes a picture wholly and says what it is.

    Args:
        source: bytes of a file, or its path.
        limits: what is refused.

    Raises:
        DataError: it cannot be decoded; the message says why.
        OSError: there is no such file, or it cannot be opened.
    """
    picture, mode = _opened(source, limits)
    digest = hashlib.sha256(f"{picture.width}x{picture.height}".encode())
    digest.update(picture.tobytes())
    return Facts(picture.size, mode, digest.hexdigest())


def decode(source: bytes | Path | Image.Image, limits: Limits = LIMITS) -> Image.Image:
    """The picture as upright RGB, without metadata: decoding the result again changes nothing.

    Args:
        source: bytes of a file, its path, or a Pillow image (its mode and orientation are seen to as well, and it stays
            as it is).
        limits: what is refused.

    Returns:
        A new Pillow image of mode RGB.

    Raises:
        DataError: no image, a damaged or truncated one, or one beyond the limits; the message says which. It does not
            name the file: who calls knows by which name the user does.
        OSError: there is no such file, or it cannot be opened.
    """
    if isinstance(source, Image.Image):
        with _faults():
            return _upright_rgb(source, limits)
    return _opened(source, limits)[0]


def _opened(source: bytes | Path, limits: Limits) -> tuple[Image.Image, str]:
    """The picture as `decode` gives it, and the mode of the file."""
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), limits)
    try:
        # Not read as a whole: a film of many gigabytes that is called .jpg is turned away by its first bytes
        with source.open("rb") as file:
            return _read(file, limits)
    except IsADirectoryError:
        raise DataError("this is a folder, not an image file") from None


def _read(file: BinaryIO, limits: Limits) -> tuple[Image.Image, str]:
    head = file.read(_HEAD_BYTES)
    if not head:
        raise DataError("the file is empty")
    reader = next((reader for start, reader in _READERS if start.match(head)), None)
    if reader is None:
        raise DataError(_unknown(head))
    file.seek(0)
    with _faults():
        image = reader(file)
        mode = image.mode
        return _upright_rgb(image, limits), mode


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """Whatever Pillow's readers stumble over in a damaged file as a DataError."""
    try:
        yield
    except (DataError, MemoryError):  # too little memory is not the file's fault
        raise
    except Exception as error:  # struct.error, KeyError, ...: what a reader raises follows from what the damage hits
        reason = str(error)
        known = reason and not re.fullmatch(r"-?\d+", reason)  # libtiff gives a bare number
        raise DataError(f"damaged or cut off: {reason if known else type(error).__name__}") from None


def _unknown(head: bytes) -> str:
    for start, what in _STRANGERS:
        if start.match(head):
            return what
    with contextlib.suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(head)  # which allows for a letter that the head cuts in two
        if b"\0" not in head:
            return "this is a text, not an image"
    return f"no image in a known format ({', '.join(FORMATS)})"


def _upright_rgb(image: Image.Image, limits: Limits) -> Image.Image:
    pixels = image.width * image.height
    if pixels > limits.pixels:
        raise DataError(
            f"{image.width}x{image.height} pixels are {pixels / 1e6:.0f} megapixels, and the limit is "
            f"{limits.pixels / 1e6:.0f}: make the image smaller; the model sees a few hundred pixels a side"
        )
    image.load()
    picture = _rgb(image)
    method = _UPRIGHT.get(_orientation(image))
    if method is not None:
        picture = picture.transpose(method)
    picture.info = {}  # it would say again which way to turn the picture, and which colour is transparent
    return picture


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata, on which parsers stumble in as many ways; the pixels are whole
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    """A new image."""
    if image.mode.startswith(("I", "F")):
        return _narrowed(image).convert("RGB")
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image  # Pillow goes no straight way from La to RGBA
        overlay = straight.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), overlay).convert("RGB")
    return image.convert("RGB")


def _narrowed(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as grey of 8; where one of its values stands for "transparent", that becomes white."""
    wide = np.asarray(image)
    if image.mode.startswith("I;16"):
        grey = _by_257(wide)
    else:
        values = np.nan_to_num(wide.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        if image.mode == "I" and low >= 0 and 255 < high <= 65535:
            grey = _by_257(wide)
        elif low < 0 or high > 255:
            grey = np.rint((values - low) * (255 / (high - low if high > low else 1.0))).astype(np.uint8)
        else:
            grey = np.rint(values * 255 if image.mode == "F" and high <= 1 else values).astype(np.uint8)
    if "transparency" in image.info:
        grey[wide == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def _by_257(wide: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Values to 65535 as values to 255, whatever the picture holds: equal tissue keeps equal grey."""
    return ((wide.astype(np.uint32) + 128) // 257).astype(np.uint8)
