"""Image files to upright RGB, judged before they are decoded: limits, modes, orientation. Knows no model, no torch.

Files are told apart by their first bytes, not by their names. What becomes of them:

- transparency (of RGBA, LA, PA, of a palette, of a single colour) is put on white;
- palettes, CMYK and other colour spaces become RGB without a colour profile, as in open_clip;
- colour of 16 bits a channel keeps its upper 8, which Pillow does while it reads;
- grey of 16 bits is divided by 257, so that 65535 becomes 255, whatever the picture holds;
- grey of 32 bits or of floating point stays where all of it lies within 0..255, floating point within 0..1 times 255,
  and else the smallest value becomes 0 and the largest 255; what is no finite number becomes 0;
- DICOM becomes what a viewer shows (`dicom` has the rules), through windows of one's own where some are given;
- the orientation of EXIF is applied; of an animation or of several pages the first picture is taken.

Nothing here touches what belongs to the whole process (Pillow's limits, warning filters): files are decoded in threads.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
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

from honeclip.errors import DataError, TooManyPixels
from honeclip.preprocess.likeness import difference_hash
from honeclip.preprocess.windows import Asked

RULES = 1
"""Raised when `decode` would give other pixels for the same file."""

HASHES = 3
"""Raised when `probe` would give other hashes for the same pixels."""


@dataclass(frozen=True)
class Limits:
    """What is not decoded.

    Attributes:
        pixels: most pixels (width x height), read from the header.
    """

    pixels: int = 250_000_000


LIMITS = Limits()
"""For files of the user's own; a server takes smaller ones."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "DICOM")
"""Of Pillow's readers only these: each is a door for a crafted file, and some start other programs. DICOM has its own."""

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

_DICOM = re.compile(rb".{128}DICM", re.DOTALL)

_STRANGERS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"....ftyp(hei|hev|mif|msf)", re.DOTALL), "this is a HEIC photo: convert it to JPEG"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "this is an AVIF image: convert it to PNG"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "this is a JPEG 2000 image: convert it to PNG"),
    (re.compile(rb"%PDF"), "this is a PDF: convert its pages to PNG"),
    (re.compile(rb"version https://git-lfs"), "this is a pointer of Git LFS, not the image itself: run `git lfs pull`"),
    (re.compile(rb"\s*(<\?xml.*)?<svg", re.DOTALL), "this is an SVG drawing: convert it to PNG"),
)

_HEAD_BYTES = 512
_BAND_PIXELS = 4_000_000

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
        mode: Pillow's mode of the file, before it became RGB; of DICOM its photometric interpretation.
        pixels_sha256: hex, of size and RGB pixels: equal pictures in different formats share it. Grey DICOM has the values
            under its window in it as well: files that differ through any window differ here.
        likeness: hex, the 256 bits of `likeness.difference_hash`.
    """

    size: tuple[int, int]
    mode: str
    pixels_sha256: str
    likeness: str


def probe(source: bytes | Path, limits: Limits = LIMITS) -> Facts:
    """Decodes a picture wholly and says what it is.

    Args:
        source: bytes of a file, or its path.
        limits: what is refused.

    Raises:
        DataError: it cannot be decoded; the message says why.
    """
    beneath = hashlib.sha256()
    nothing = beneath.digest()
    picture, mode = _opened(source, limits, tell=beneath.update)
    digest = hashlib.sha256(f"{picture.width}x{picture.height}".encode())
    if beneath.digest() != nothing:
        digest.update(beneath.digest())
    width, height = picture.size
    rows = max(1, _BAND_PIXELS // width)
    for top in range(
        0, height, rows
    ):  # piece by piece: the bytes of the whole would be a second copy of a large picture
        for left in range(0, width, _BAND_PIXELS):  # several only where a single row is longer
            piece = (left, top, min(width, left + _BAND_PIXELS), min(height, top + rows))
            digest.update(picture.crop(piece).tobytes())
    return Facts(picture.size, mode, digest.hexdigest(), difference_hash(picture).tobytes().hex())


def decode(source: bytes | Path | Image.Image, limits: Limits = LIMITS, windows: Sequence[Asked] = ()) -> Image.Image:
    """The picture as upright RGB, without metadata: decoding the result again changes nothing.

    Args:
        source: bytes of a file, its path, or a Pillow image (its mode and orientation are seen to as well, and it stays
            as it is).
        limits: what is refused.
        windows: of DICOM, as in a domain (`windows`); () takes the file's own.

    Returns:
        A Pillow image of mode RGB: a new one, or `source` itself where it is such a picture already.

    Raises:
        DataError: no file, no image, a damaged or truncated one, or one beyond the limits; the message says which. It
            does not name the file: who calls knows by which name the user does.
        DomainError: a window that is unknown.
    """
    if isinstance(source, Image.Image):
        within(source.size, limits)
        if type(source) is Image.Image and source.mode == "RGB" and not source.info:
            return source  # as this function leaves them; a large one takes a while to copy
        with _faults():
            return _upright_rgb(source)
    return _opened(source, limits, windows)[0]


def _opened(
    source: bytes | Path,
    limits: Limits,
    windows: Sequence[Asked] = (),
    tell: Callable[[bytes], object] | None = None,
) -> tuple[Image.Image, str]:
    """The picture as `decode` gives it, and the mode of the file."""
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), limits, windows, tell)
    try:
        # Not read as a whole: a film of many gigabytes that is called .jpg is turned away by its first bytes
        with source.open("rb") as file:
            return _read(file, limits, windows, tell)
    except FileNotFoundError:
        raise DataError("there is no such file") from None
    except IsADirectoryError:
        raise DataError("this is a folder, not an image file") from None
    except (OSError, ValueError) as error:  # what is wrong with the content has become a DataError by now
        raise DataError(f"the file cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _read(
    file: BinaryIO, limits: Limits, windows: Sequence[Asked], tell: Callable[[bytes], object] | None
) -> tuple[Image.Image, str]:
    head = file.read(_HEAD_BYTES)
    if not head:
        raise DataError("the file is empty")
    if _DICOM.match(head):
        # Asked before the others: some scanners put the start of a TIFF into the 128 bytes, and no TIFF behind it
        from honeclip.preprocess import dicom  # here, for pydicom takes a second to import

        picture, mode = dicom.read(file, limits, windows, tell)
        return _upright_rgb(picture), mode
    reader = next((reader for start, reader in _READERS if start.match(head)), None)
    if reader is None:
        raise DataError(_unknown(head))
    if reader is WebPImageFile:  # it makes its canvas as soon as it is called, and asks a limit of Pillow's own there
        within(_webp_size(head), Limits(min(limits.pixels, 2 * (Image.MAX_IMAGE_PIXELS or limits.pixels))))
    file.seek(0)
    with _faults():
        image = reader(file)
        within(image.size, limits)
        mode = image.mode
        if isinstance(image, TiffImageFile):
            # Else its load() makes the canvas, and asks Pillow's limit first: it would warn, and refuse what is allowed
            image.im = Image.new(mode, getattr(image, "_tile_size", image.size), None).im
        return _upright_rgb(image), mode


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does: many of them have names without a suffix, or UIDs for names."""
    try:
        with path.open("rb") as file:
            return _DICOM.match(file.read(132)) is not None
    except OSError:
        return False


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """Whatever Pillow's readers stumble over in a damaged file as a DataError."""
    try:
        yield
    except (DataError, MemoryError):  # too little memory is not the file's fault
        raise
    except Image.DecompressionBombError as error:  # some readers ask Pillow's limit before they make a canvas
        raise TooManyPixels(f"too large for Pillow, make the image smaller: {error}") from None
    except Exception as error:  # struct.error, KeyError, ...: what a reader raises follows from what the damage hits
        reason = str(error)
        known = reason and not re.fullmatch(r"-?\d+", reason)  # libtiff gives a bare number
        said = reason if known else type(error).__name__
        raise DataError(f"damaged or cut off ({said}): get the file again, or save it anew") from None


def _unknown(head: bytes) -> str:
    for start, what in _STRANGERS:
        if start.match(head):
            return what
    with contextlib.suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(head)  # which allows for a letter that the head cuts in two
        if b"\0" not in head:
            return "this is a text, not an image"
    return f"no image in a known format ({', '.join(FORMATS)})"


def within(size: tuple[int, int], limits: Limits) -> None:
    """Raises TooManyPixels where `size` (width, height) has more pixels than the limit."""
    pixels = size[0] * size[1]
    if pixels > limits.pixels:
        raise TooManyPixels(
            f"{size[0]}x{size[1]} pixels are {pixels / 1e6:.1f} megapixels, and the limit is {limits.pixels / 1e6:g}: "
            "make the image smaller, or cut it into tiles; the model sees a few hundred pixels a side"
        )


def _webp_size(head: bytes) -> tuple[int, int]:
    """(width, height) of the canvas by RFC 9649 (the WebP container); (0, 0) where the head is damaged."""
    kind, number = head[12:16], int.from_bytes(head[16:30], "little")
    if kind == b"VP8X":
        return (number >> 64 & 0xFFFFFF) + 1, (number >> 88 & 0xFFFFFF) + 1
    if kind == b"VP8L":
        return (number >> 40 & 0x3FFF) + 1, (number >> 54 & 0x3FFF) + 1
    return (number >> 80 & 0x3FFF, number >> 96 & 0x3FFF) if kind == b"VP8 " else (0, 0)


def _upright_rgb(image: Image.Image) -> Image.Image:
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
        finite = np.isfinite(wide)
        values = np.where(finite, wide, 0).astype(np.float64)
        known = values[finite] if finite.any() else values
        low, high = float(known.min()), float(known.max())
        if low < 0 or high > 255:
            values = np.where(finite, values - low, 0) * (255 / (high - low if high > low else 1.0))
        elif image.mode == "F" and high <= 1:
            values *= 255
        grey = np.rint(values).astype(np.uint8)
    if "transparency" in image.info:
        grey[wide == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def _by_257(wide: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Values to 65535 as values to 255: equal tissue keeps equal grey from picture to picture."""
    return ((wide.astype(np.uint32) + 128) // 257).astype(np.uint8)
