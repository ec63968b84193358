"""Compressed frames of a DICOM file: found among the fragments, looked at, decoded by imagecodecs.

Of the decoders that pydicom can call, one for JPEG lossless is under the GPL and the other, GDCM, ends the whole process on
some damaged streams. imagecodecs (libjpeg-turbo, CharLS, OpenJPEG) raises, gives up the interpreter's lock, and reads JPEG
of 12 bits as well. What a stream says of its own size is there to be compared with the header before it is decoded:
decoders make room for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from honeclip.errors import DataError
from honeclip.preprocess import dicom_file
from honeclip.preprocess.dicom_file import DicomFile

_Decode = Callable[[bytes], NDArray[Any]]


def _jpeg(frame: bytes) -> NDArray[Any]:
    samples = stream_of(frame, uid.JPEGBaseline8Bit).samples
    # Components as they are, whatever libjpeg makes of their names: `is_ybr` decides
    space = "RGB" if samples == 3 else None
    return imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace=space)


DECODERS: dict[str, _Decode] = {
    uid.JPEGBaseline8Bit: _jpeg,
    uid.JPEGExtended12Bit: _jpeg,
    uid.JPEGLossless: _jpeg,
    uid.JPEGLosslessSV1: _jpeg,
    uid.JPEGLSLossless: imagecodecs.jpegls_decode,
    uid.JPEGLSNearLossless: imagecodecs.jpegls_decode,
    uid.JPEG2000Lossless: imagecodecs.jpeg2k_decode,
    uid.JPEG2000: imagecodecs.jpeg2k_decode,
    uid.HTJ2KLossless: imagecodecs.jpeg2k_decode,
    uid.HTJ2KLosslessRPCL: imagecodecs.jpeg2k_decode,
    uid.HTJ2K: imagecodecs.jpeg2k_decode,
}
"""Transfer syntax -> what decodes a frame."""

_JPEG_2000 = {syntax for syntax, decode in DECODERS.items() if decode is imagecodecs.jpeg2k_decode}
_END = b"\xff\xd9"
_DAMAGED = "the compressed pixels of the DICOM file are damaged: get it again"


@dataclass(frozen=True)
class Stream:
    """What a compressed frame says of itself.

    Attributes:
        size: (width, height) in pixels.
        samples: per pixel.
        bits: of a sample.
        colours: "RGB" or "YBR" where it says so, else "".
    """

    size: tuple[int, int]
    samples: int
    bits: int
    colours: str

    def is_ybr(self, photometric: str) -> bool:
        """Decoded values are luminance and colour differences; the stream knows better than the header."""
        return (self.colours or photometric[:3]) == "YBR" and photometric not in ("YBR_ICT", "YBR_RCT")


def frame_of(dicom: DicomFile, index: int, frames: int) -> bytes:
    """The bytes of one compressed frame (PS3.5 A.4).

    Args:
        dicom: the file.
        index: which frame, counted from 0.
        frames: how many there are.

    Raises:
        DataError: no pixels, cut off, or it cannot be told where the frame begins.
    """
    table, *parts = dicom_file.fragments(dicom) or [(0, 0)]
    if not parts:
        raise DataError("the DICOM file has no compressed pixels: get it again")

    def joined(chosen: list[tuple[int, int]]) -> bytes:
        pieces = []
        for start, length in chosen:
            dicom.stream.seek(start)
            pieces.append(dicom.stream.read(length))
        return b"".join(pieces)

    order = "<" if dicom.data.little else ">"
    starts = np.frombuffer(joined([table]), "<u4").tolist() if table[1] % 4 == 0 else []
    extended = dicom.data.values.get("Extended Offset Table", b"")
    if extended and len(extended) % 8 == 0:
        starts = np.frombuffer(extended, f"{order}u8").tolist()
    if frames == 1:
        return joined(parts)
    if len(starts) == frames:
        first = parts[0][0]  # offsets count from the tag of the first fragment, whose value begins 8 bytes later
        low, high = first + starts[index], first + [*starts, dicom.end][index + 1]
        chosen = [part for part in parts if low <= part[0] < high]
        if chosen and chosen[0][0] == low:
            return joined(chosen)
    if len(parts) == frames:
        return joined([parts[index]])
    raise DataError("it cannot be told where the frames of the compressed DICOM file begin: get it again")


def stream_of(frame: bytes, syntax: str) -> Stream:
    """Reads the head of a compressed frame.

    Raises:
        DataError: it has none, or no end.
    """
    if _END not in frame:  # neither family has these bytes within its data
        raise DataError(_DAMAGED)
    if syntax in _JPEG_2000:
        # ISO 15444-1 A.5.1: SIZ comes first, wherever a file of JP2 boxes has the codestream
        siz = frame[max(0, frame.find(b"\xff\x4f\xff\x51")) :][:43]
        if len(siz) < 43:
            raise DataError(_DAMAGED)
        right, bottom, left, top = (int.from_bytes(siz[at : at + 4], "big") for at in (8, 12, 16, 20))
        return Stream((right - left, bottom - top), int.from_bytes(siz[40:42], "big"), (siz[42] & 0x7F) + 1, "")
    segments = list(_segments(frame))
    head = next((content for marker, content in segments if _is_frame(marker)), b"")
    if len(head) < 6:
        raise DataError(_DAMAGED)
    colours = ""
    if head[6:15:3] in (b"RGB", b"rgb"):  # the names of its components
        colours = "RGB"
    for marker, content in segments:
        if marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            colours = "YBR" if content[11] == 1 else "RGB"
        elif marker == 0xE0 and content.startswith(b"JFIF"):
            colours = colours or "YBR"
    return Stream((int.from_bytes(head[3:5], "big"), int.from_bytes(head[1:3], "big")), head[5], head[0], colours)


def decoded(frame: bytes, stream: Stream, syntax: str, stored: int, signed: bool) -> NDArray[Any]:
    """Values of a frame, (rows, columns) or (rows, columns, samples).

    Args:
        frame: from `frame_of`.
        stream: from `stream_of`.
        syntax: the UID of the transfer syntax.
        stored: Bits Stored; JPEG 2000 and JPEG-LS say better how many bits they have (as pydicom takes it).
        signed: Pixel Representation. JPEG and JPEG-LS have no sign, and JPEG 2000 may have the wrong one.

    Raises:
        Exception: whatever a decoder raises.
    """
    values = DECODERS[syntax](frame)
    bits = stored if DECODERS[syntax] is _jpeg else stream.bits
    if signed:
        top = 1 << (bits - 1)
        return (values.astype(np.int32) & (2 * top - 1) ^ top) - top
    return (
        values
        if values.dtype.kind == "u" and bits == 8 * values.itemsize
        else values.astype(np.uint32) & ((1 << bits) - 1)
    )


def _is_frame(marker: int) -> bool:
    """Start of frame of JPEG (ISO 10918-1 B.1.1.3) or of JPEG-LS (ISO 14495-1 C.1.1)."""
    return marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC))


def _segments(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of the marker segments of JPEG or JPEG-LS, as far as the first scan."""
    at = 2
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker == 0xFF:  # fill bytes
            at += 1
            continue
        yield marker, frame[at + 4 : at + 2 + length]
        if marker == 0xDA:
            return
        at += 2 + length
