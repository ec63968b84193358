"""The few elements of a DICOM file that say how its pixels look, as bytes; every other element is stepped over unread.

The header names people, places and dates. pydicom's reader puts values of it into warnings and log lines, and those
cannot be kept back in a process that decodes in threads (`warnings.catch_warnings` is everybody's). So the header is
walked here: no text of a person is ever decoded, and no message here quotes a value.

Read as PS3.5 7 (elements, sequences), PS3.5 A.4 (fragments), PS3.5 A.5 (deflated) and PS3.10 7.1 (the preamble) say.
Little or big endian, explicit or implicit, and the slips that pydicom allows for as well: a file without the length of
its first group, an implicit element among explicit ones, an explicit file that calls itself implicit.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

from honeclip.errors import DataError

VALUES = {
    0x00020010: "Transfer Syntax UID",
    0x00080060: "Modality",
    0x00280002: "Samples per Pixel",
    0x00280004: "Photometric Interpretation",
    0x00280006: "Planar Configuration",
    0x00280008: "Number of Frames",
    0x00280010: "Rows",
    0x00280011: "Columns",
    0x00280100: "Bits Allocated",
    0x00280101: "Bits Stored",
    0x00280103: "Pixel Representation",
    0x00281050: "Window Center",
    0x00281051: "Window Width",
    0x00281052: "Rescale Intercept",
    0x00281053: "Rescale Slope",
    0x00281054: "Rescale Type",
    0x00281056: "VOI LUT Function",
    0x00281101: "Red Palette Color Lookup Table Descriptor",
    0x00281102: "Green Palette Color Lookup Table Descriptor",
    0x00281103: "Blue Palette Color Lookup Table Descriptor",
    0x00281201: "Red Palette Color Lookup Table Data",
    0x00281202: "Green Palette Color Lookup Table Data",
    0x00281203: "Blue Palette Color Lookup Table Data",
    0x00281221: "Segmented Red Palette Color Lookup Table Data",
    0x00283002: "LUT Descriptor",
    0x00283004: "Modality LUT Type",
    0x00283006: "LUT Data",
    0x7FE00001: "Extended Offset Table",
    0x7FE00002: "Extended Offset Table Lengths",
}
"""What is kept, by tag (PS3.6)."""

SEQUENCES = {
    0x00283000: "Modality LUT Sequence",
    0x00283010: "VOI LUT Sequence",
    0x00289132: "Frame VOI LUT Sequence",
    0x00289145: "Pixel Value Transformation Sequence",
    0x52009229: "Shared Functional Groups Sequence",
    0x52009230: "Per-Frame Functional Groups Sequence",
}
TAGS = {name: tag for tag, name in (VALUES | SEQUENCES).items()}

PIXEL_DATA, FLOAT_PIXELS, DOUBLE_PIXELS = 0x7FE00010, 0x7FE00008, 0x7FE00009
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_MOST_BYTES = 1 << 24  # of one value: a table has at most 128 KiB, offsets of a million frames 8 MiB
_DEEPEST = 32
_CAPITALS = re.compile(b"[A-Z]{2}")
_NUMBER = re.compile(rb"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")

CUT_OFF = "the DICOM file is cut off: get it again"


@dataclass(frozen=True)
class Group:
    """One data set, or one item of a sequence: values and items by the names above, as far as they are there."""

    little: bool
    values: dict[str, bytes]
    items: dict[str, list[Group]]

    def number(self, name: str) -> int | None:
        """An unsigned number of 16 bits (VR US), or None.

        Raises:
            DataError: it has another length.
        """
        value = self.values.get(name)
        if not value:
            return None
        if len(value) != 2:
            raise DataError(f"the DICOM header is damaged: {named(name)} is no number of 16 bits")
        return int.from_bytes(value, "little" if self.little else "big")

    def decimal(self, name: str) -> float | None:
        """The first of the decimal numbers (VR DS or IS), or None.

        Raises:
            DataError: it is no number.
        """
        first = self.values.get(name, b"").split(b"\\")[0].strip(b" \0")
        if not first:
            return None
        # Asked before: what float() raises quotes the value
        if len(first) > 64 or not _NUMBER.fullmatch(first) or not abs(number := float(first)) < 1e300:
            raise DataError(f"the DICOM header is damaged: {named(name)} is no number")
        return number

    def word(self, name: str) -> str:
        """A word of capitals (VR CS); "" where there is none. Show it only if it is one that the standard knows."""
        return self.values.get(name, b"").split(b"\\")[0].strip(b" \0").decode("ascii", "replace")


@dataclass(frozen=True)
class DicomFile:
    """A DICOM file up to its pixels.

    Attributes:
        stream: the data set, inflated where it was deflated.
        syntax: the UID of its transfer syntax.
        data: what was kept of the header.
        pixel_tag: which kind of pixel data; None where there are none.
        pixel_vr: "OB" or "OW".
        start: where in `stream` the pixel data begin, in bytes.
        length: how many bytes they have; None where they come in fragments.
        end: where `stream` ends.
    """

    stream: BinaryIO
    syntax: str
    data: Group
    pixel_tag: int | None
    pixel_vr: str
    start: int
    length: int | None
    end: int


@dataclass(frozen=True)
class _Coding:
    explicit: bool
    little: bool


def named(name: str) -> str:
    """`Rows (0028,0010)`."""
    return f"{name} ({TAGS[name] >> 16:04X},{TAGS[name] & 0xFFFF:04X})"


def syntax_of(file: BinaryIO) -> str:
    """The UID of the transfer syntax, from the file meta information (PS3.10 7.1); "" where it names none.

    Raises:
        DataError: the file ends there.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(132)
    values: dict[str, bytes] = {}
    while end - (start := file.tell()) >= 8:
        tag, _, length = _header(file, _Coding(True, True))
        if tag >> 16 != 2:
            file.seek(start)
            break
        if length is None or file.tell() + length > end:
            raise DataError(CUT_OFF)
        _keep(file, tag, length, values, VALUES)
    return values.get("Transfer Syntax UID", b"").strip(b" \0").decode("ascii", "replace")


def opened(
    file: BinaryIO,
    syntax: str,
    explicit: bool,
    little: bool,
    deflated: bool,
    most_bytes: int,
    names: Mapping[int, str] = VALUES,
) -> DicomFile:
    """Walks the data set as far as the pixels. `file` stands where `syntax_of` left it.

    Args:
        file: the DICOM file.
        syntax: the UID of the transfer syntax.
        explicit: elements have a VR (PS3.5 7.1.2).
        little: numbers have their lowest byte first.
        deflated: the data set was compressed as a whole (PS3.5 A.5).
        most_bytes: what a deflated one may become.
        names: tag -> name of what is kept of the data set itself; items of sequences keep VALUES.

    Raises:
        DataError: damaged or cut off, or larger than `most_bytes`.
    """
    if deflated:
        file = _inflated(file.read(), most_bytes)
    start = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(start)
    # An explicit one that calls itself implicit: no length of a first element looks like two capitals
    vr = file.read(8)[4:6]
    file.seek(start)
    coding = _Coding(explicit or _CAPITALS.fullmatch(vr) is not None, little)
    data, pixels = _group(file, coding, end, 0, names)
    tag, pixel_vr, length = pixels or (None, b"", 0)
    vr_name = "OB" if pixel_vr == b"OB" else "OW"
    return DicomFile(file, syntax, data, tag, vr_name, file.tell(), length, end)


def fragments(dicom: DicomFile) -> list[tuple[int, int]]:
    """(start, length) in bytes of every fragment of compressed pixels (PS3.5 A.4); the first is the offset table.

    Raises:
        DataError: they do not come to their end within the file, or are none.
    """
    found: list[tuple[int, int]] = []
    dicom.stream.seek(dicom.start)
    while dicom.stream.tell() < dicom.end:
        tag, _, length = _header(dicom.stream, _Coding(False, True))
        if tag == _SEQUENCE_END:
            return found
        if tag != _ITEM or length is None:
            raise DataError("the compressed pixels of the DICOM file are damaged: get it again")
        found.append((dicom.stream.tell(), length))
        if dicom.stream.seek(length, io.SEEK_CUR) > dicom.end:
            break
    raise DataError(CUT_OFF)


def _inflated(raw: bytes, most_bytes: int) -> BinaryIO:
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = engine.decompress(raw, most_bytes)
    if not engine.eof:
        too_much = len(plain) >= most_bytes
        raise DataError(f"the deflated DICOM file has more than {most_bytes} bytes" if too_much else CUT_OFF)
    return io.BytesIO(plain)


def _header(file: BinaryIO, coding: _Coding) -> tuple[int, bytes, int | None]:
    """(tag, VR, length): VR is b"" where there is none, length None where it is undefined."""
    order = "<" if coding.little else ">"
    raw = file.read(8)
    if len(raw) < 8:
        raise DataError(CUT_OFF)
    group, element, length = struct.unpack(f"{order}HHI", raw)
    vr = raw[4:6] if coding.explicit and group != 0xFFFE and _CAPITALS.fullmatch(raw[4:6]) else b""
    if vr and vr not in _LONG:
        return group << 16 | element, vr, struct.unpack(f"{order}H", raw[6:])[0]
    if vr:
        long = file.read(4)
        if len(long) < 4:
            raise DataError(CUT_OFF)
        length = struct.unpack(f"{order}I", long)[0]
    return group << 16 | element, vr, None if length == 0xFFFFFFFF else length


def _group(
    file: BinaryIO, coding: _Coding, end: int, depth: int, names: Mapping[int, str]
) -> tuple[Group, tuple[int, bytes, int | None] | None]:
    """Elements as far as `end`, the end of an item, or the pixel data of the file, whose header comes back."""
    if depth > _DEEPEST:
        raise DataError(f"the DICOM header is damaged: sequences within sequences, more than {_DEEPEST} deep")
    group = Group(coding.little, {}, {})
    while file.tell() < end:
        tag, vr, length = _header(file, coding)
        if tag == _ITEM_END:
            return group, None
        if depth == 0 and tag in (PIXEL_DATA, FLOAT_PIXELS, DOUBLE_PIXELS):
            return group, (tag, vr, length)
        if length is not None and file.tell() + length > end:
            raise DataError(CUT_OFF)
        # What a writer did not know the VR of is implicit inside (PS3.5 6.2.2)
        inner = replace(coding, explicit=coding.explicit and vr != b"UN")
        if tag in SEQUENCES:
            group.items[SEQUENCES[tag]] = _items(file, inner, length, end, depth, keep=True)
        elif length is None:
            _items(file, inner, length, end, depth, keep=False)
        else:
            _keep(file, tag, length, group.values, names)
    return group, None


def _items(file: BinaryIO, coding: _Coding, length: int | None, end: int, depth: int, keep: bool) -> list[Group]:
    """The items of a sequence; without `keep` only what is needed to find where they end, for they may be fragments."""
    end = end if length is None else file.tell() + length
    found: list[Group] = []
    while file.tell() < end:
        tag, _, size = _header(file, coding)
        if tag == _SEQUENCE_END:
            return found
        if tag != _ITEM or (size is not None and file.tell() + size > end):
            raise DataError("the DICOM header is damaged: a sequence does not hold its items. Get the file again")
        after = None if size is None else file.tell() + size
        if keep or after is None:
            found.append(_group(file, coding, end if after is None else after, depth + 1, VALUES)[0])
        if after is not None:
            file.seek(after)
    if length is None:
        raise DataError(CUT_OFF)
    return found


def _keep(file: BinaryIO, tag: int, length: int, values: dict[str, bytes], names: Mapping[int, str]) -> None:
    """Steps over a value; it is kept if it is among `names`."""
    if tag in names and length <= _MOST_BYTES:
        values[names[tag]] = file.read(length)
    else:
        file.seek(length, io.SEEK_CUR)
