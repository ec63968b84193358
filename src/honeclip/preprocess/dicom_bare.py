"""A DICOM file without its header: only what says how its pixels look, and the pixels. Names, dates, UIDs, private elements,
comments and everything else are not copied, for they are never read; what is copied are numbers and words of the standard.

The pixels stay as they are stored, all bits and all frames, so that windows can still be chosen.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO

from pydicom import uid

from honeclip.errors import DataError
from honeclip.preprocess import dicom_file
from honeclip.preprocess.dicom_file import PIXEL_DATA, TAGS, DicomFile, Group
from honeclip.preprocess.dicom_header import MODALITIES
from honeclip.preprocess.dicom_pixels import COLOUR, GREY, PALETTE, from_path, native_bytes, shape_of
from honeclip.preprocess.images import LIMITS, Limits

_VR = {
    "Modality": "CS",
    "Photometric Interpretation": "CS",
    "VOI LUT Function": "CS",
    "Rescale Type": "LO",
    "Modality LUT Type": "LO",
    "Number of Frames": "IS",
    "Window Center": "DS",
    "Window Width": "DS",
    "Rescale Intercept": "DS",
    "Rescale Slope": "DS",
    "Extended Offset Table": "OV",
    "Extended Offset Table Lengths": "OV",
}
_WORDS = {
    "Modality": MODALITIES,
    "Photometric Interpretation": frozenset((*GREY, *COLOUR, PALETTE)),
    "VOI LUT Function": frozenset(("LINEAR", "LINEAR_EXACT", "SIGMOID")),
    "Rescale Type": frozenset(("HU", "US", "OD", "MGML", "PCT", "HU_MOD")),
    "Modality LUT Type": frozenset(("HU", "US", "OD", "MGML", "PCT", "HU_MOD")),
}
_LONG = ("OB", "OW", "OV", "SQ")
_LUT_BYTES = 1 << 17


def bare(path: Path, limits: Limits = LIMITS) -> bytes:
    """The bytes of a DICOM file with the same picture and no identity.

    Args:
        path: a DICOM file.
        limits: of a deflated file.

    Raises:
        DataError: no pixel data, damaged, cut off, or of a transfer syntax that is not read. No value stands in the message.
    """
    return from_path(path, limits.pixels, _written)


def _written(dicom: DicomFile) -> bytes:
    if dicom.pixel_tag != PIXEL_DATA:
        raise DataError("this DICOM file has no pixel data (a report, a plan, a structure set?)")
    plain = dicom.syntax in (uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian)
    syntax = uid.ExplicitVRLittleEndian if plain else dicom.syntax
    order = "<" if dicom.data.little else ">"
    name = _element("<", 0x00020010, "UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    meta = _element("<", 0x00020000, "UL", struct.pack("<I", len(name))) + name
    return b"\0" * 128 + b"DICM" + meta + _group(dicom.data, order) + _pixels(dicom, order)


def _pixels(dicom: DicomFile, order: str) -> bytes:
    if dicom.length is not None:
        dicom.stream.seek(dicom.start)
        length = native_bytes(shape_of(dicom.data))
        if length > dicom.length:
            raise DataError(dicom_file.CUT_OFF)
        whole = min(length + length % 2, dicom.length)  # the last of an odd number of bytes may stand in a swapped word
        return _element(order, PIXEL_DATA, dicom.pixel_vr, _exactly(dicom.stream, whole))
    out = io.BytesIO()
    out.write(struct.pack("<HH2sHI", PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF, b"OB", 0, 0xFFFFFFFF))
    for start, length in dicom_file.fragments(dicom):
        dicom.stream.seek(start)
        out.write(struct.pack("<HHI", 0xFFFE, 0xE000, length) + _exactly(dicom.stream, length))
    out.write(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    return out.getvalue()


def _exactly(stream: BinaryIO, length: int) -> bytes:
    """Everything up to there belongs to the pixels, so that nothing of another element is copied."""
    found = stream.read(length)
    if len(found) < length:
        raise DataError(dicom_file.CUT_OFF)
    return found


def _group(group: Group, order: str) -> bytes:
    """The elements of a data set or an item, in the order of their tags."""
    made = {
        TAGS[name]: _value(name, value, order) for name, value in group.values.items() if name != "Transfer Syntax UID"
    }
    for name, items in group.items.items():
        inner = b"".join(_item(order, _group(item, order)) for item in items)
        made[TAGS[name]] = _element(order, TAGS[name], "SQ", inner)
    return b"".join(made[tag] for tag in sorted(made))


def _value(name: str, value: bytes, order: str) -> bytes:
    """An element if its value is what the standard allows there, and else nothing: no text gets through as a number."""
    tag, vr = TAGS[name], _VR.get(name) or ("OW" if name.endswith("Data") else "US")
    if name in _WORDS:
        word = value.split(b"\\")[0].strip(b" \0").decode("ascii", "replace")
        value = word.encode() if word in _WORDS[name] else b""
    elif vr in ("IS", "DS"):
        first = Group(order == "<", {name: value}, {}).decimal(name)
        value = b"" if first is None else value.split(b"\\")[0].strip(b" \0")
    elif vr == "US" and len(value) not in (2, 6):
        value = b""
    elif vr == "OW":
        value = value[:_LUT_BYTES]
    if len(value) % 2:
        value += b" " if vr in ("CS", "LO", "IS", "DS") else b"\0"
    return _element(order, tag, vr, value) if value else b""


def _element(order: str, tag: int, vr: str, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    group, element = tag >> 16, tag & 0xFFFF
    if vr in _LONG:
        return struct.pack(f"{order}HH2sHI", group, element, vr.encode(), 0, len(value)) + value
    return struct.pack(f"{order}HH2sH", group, element, vr.encode(), len(value)) + value


def _item(order: str, value: bytes) -> bytes:
    return struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(value)) + value
