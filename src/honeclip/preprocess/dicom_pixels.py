"""Stored values of one frame of a DICOM file: its shape (PS3.3 C.7.6.3), its bytes, and what decodes them.

Plain pixels and RLE are decoded by pydicom, the family of JPEG by `dicom_streams`. pydicom gets numbers and one frame, never
a header (`dicom_file` says why).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import convert_color_space

from honeclip.errors import DataError
from honeclip.preprocess import dicom_file, dicom_streams
from honeclip.preprocess.dicom_file import DicomFile, Group, named
from honeclip.preprocess.dicom_streams import DECODERS

_NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
_UID = re.compile(r"[0-2](\.(0|[1-9]\d{0,38})){4,20}")
T = TypeVar("T")

WAY_OUT = "save the picture as PNG with the viewer it came from"


@dataclass(frozen=True)
class Shape:
    """Image Pixel Module (C.7.6.3), checked."""

    rows: int
    columns: int
    samples: int
    photometric: str
    planar: int
    allocated: int
    stored: int
    signed: int
    frames: int

    @property
    def frame(self) -> int:
        """Which frame is taken, counted from 0: the middle one."""
        return self.frames // 2


def opened(file: BinaryIO, syntax: str, pixels: int, names: Mapping[int, str] = dicom_file.VALUES) -> DicomFile:
    """The file up to its pixels, if its transfer syntax is one that is read.

    Args:
        file: stands where `dicom_file.syntax_of` left it.
        syntax: what that gave.
        pixels: most pixels of a picture, for what a deflated file may become.
        names: which elements are kept, as in `dicom_file.opened`.

    Raises:
        DataError: a transfer syntax that is not read, or a damaged header.
    """
    if not syntax:
        raise DataError(
            "the DICOM file names no transfer syntax (0002,0010), so its pixels cannot be read: get it again"
        )
    if syntax not in (*_NATIVE, uid.RLELossless, *DECODERS):
        raise DataError(f"the DICOM transfer syntax {shown(syntax)} is not read: {WAY_OUT}")
    known = uid.UID(syntax)
    most_bytes = 16 * pixels + (1 << 24)  # 4 channels of 32 bits, and a header
    explicit, deflated = not known.is_implicit_VR, known.is_deflated
    return dicom_file.opened(file, syntax, explicit, known.is_little_endian, deflated, most_bytes, names)


def from_path(
    path: Path, pixels: int, use: Callable[[DicomFile], T], names: Mapping[int, str] = dicom_file.VALUES
) -> T:
    """What `use` makes of an opened file. Whatever goes wrong, no word of its header hangs on to the error.

    Args:
        path: a DICOM file.
        pixels: as of `opened`.
        use: is called while the file is open.
        names: as of `opened`.

    Raises:
        DataError: `use` says so, or damaged, cut off, or of a transfer syntax that is not read. No value stands in the message.
    """
    syntax = ""
    try:
        with path.open("rb") as file:
            syntax = dicom_file.syntax_of(file)
            return use(opened(file, syntax, pixels, names))
    except (DataError, MemoryError):
        raise
    except OSError as error:
        reason = error.strerror or "the disk fails"
    except Exception:  # as in `dicom.read`
        reason = ""
    raise DataError(
        f"cannot be read: {reason}" if reason else f"damaged, or not {shown(syntax)}: get it again, or {WAY_OUT}"
    )


def shown(syntax: str) -> str:
    """A UID with its name, if it is one: what stands there in a damaged file may be anything, and pydicom would quote it."""
    if not _UID.fullmatch(syntax):
        return "without a valid UID"
    name = uid.UID(syntax).name
    return syntax if name == syntax else f"{name} ({syntax})"


def shape_of(data: Group) -> Shape:
    """What the header says of the pixels.

    Raises:
        DataError: it lacks something, or says what cannot be.
    """

    def need(name: str) -> int:
        found = data.number(name)
        if found is None:
            raise DataError(f"the DICOM header has no {named(name)}, so its pixels cannot be read: get it again")
        return found

    photometric, samples = data.word("Photometric Interpretation"), need("Samples per Pixel")
    if photometric not in (*GREY, *COLOUR, PALETTE):
        raise DataError(
            f"{named('Photometric Interpretation')} of the DICOM file is none of "
            f"{', '.join((*GREY, PALETTE, *COLOUR))}: {WAY_OUT}"
        )
    frames = data.decimal("Number of Frames")
    shape = Shape(
        rows=need("Rows"),
        columns=need("Columns"),
        samples=samples,
        photometric=photometric,
        planar=data.number("Planar Configuration") or 0,
        allocated=need("Bits Allocated"),
        stored=need("Bits Stored"),
        signed=need("Pixel Representation"),
        frames=1 if frames is None else int(frames),
    )
    faults = {
        "Rows": shape.rows < 1,
        "Columns": shape.columns < 1,
        "Samples per Pixel": samples != (3 if photometric in COLOUR else 1),
        "Planar Configuration": shape.planar > 1,
        "Bits Allocated": shape.allocated not in (1, 8, 16, 32),
        "Bits Stored": not 1 <= shape.stored <= shape.allocated,
        "Pixel Representation": shape.signed > 1,
        "Number of Frames": shape.frames < 1,
    }
    for name, fault in faults.items():
        if fault:
            raise DataError(
                f"the DICOM header has an impossible {named(name)} for {photometric}: get it again, or {WAY_OUT}"
            )
    return shape


def stored_values(dicom: DicomFile, shape: Shape) -> NDArray[Any]:
    """Stored values of the frame, (rows, columns) or (rows, columns, 3); YBR as RGB already.

    Raises:
        DataError: they are cut off, damaged, or of another size than the header says.
        Exception: whatever a decoder raises besides; its words are not for the user.
    """
    syntax = uid.UID(dicom.syntax)
    if (syntax in _NATIVE) != (dicom.length is not None):
        raise DataError(f"the pixels of the DICOM file are not stored as {shown(syntax)}: get it again")
    if syntax in DECODERS:
        frame = dicom_streams.frame_of(dicom, shape.frame, shape.frames)
        stream = dicom_streams.stream_of(frame, syntax)
        if stream.size != (shape.columns, shape.rows) or stream.samples != shape.samples:
            raise DataError(
                "the compressed pixels of the DICOM file have another size than its header says: get it again"
            )
        values = dicom_streams.decoded(frame, stream, syntax, shape.stored, bool(shape.signed))
        if shape.samples == 1 or not stream.is_ybr(shape.photometric):
            return values
        return convert_color_space(values, "YBR_FULL", "RGB")
    frames, index = 1, 0
    if syntax in _NATIVE:
        # Where frames need not begin at whole bytes, or at whole words that are to be swapped, all are handed over
        whole = shape.allocated == 1 or (shape.allocated == 8 and not dicom.data.little)
        if whole:
            frames, index = shape.frames, shape.frame
        raw = _native(dicom, shape, whole)
    else:
        raw = encapsulate([dicom_streams.frame_of(dicom, shape.frame, shape.frames)])
    options: dict[str, Any] = {
        "rows": shape.rows,
        "columns": shape.columns,
        "samples_per_pixel": shape.samples,
        "photometric_interpretation": shape.photometric,
        "planar_configuration": shape.planar,
        "bits_allocated": shape.allocated,
        "bits_stored": shape.stored,
        "pixel_representation": shape.signed,
        "number_of_frames": frames,
        "pixel_keyword": "PixelData",
        "pixel_vr": dicom.pixel_vr,
    }
    # Unasked it warns where compressed bytes happen to be as many as plain ones would be
    plugin, validate = ("", True) if syntax in _NATIVE else ("pydicom", False)
    return get_decoder(syntax).as_array(raw, index=index, decoding_plugin=plugin, validate=validate, **options)[0]


def native_bytes(shape: Shape) -> int:
    """How many bytes the pixels of all frames take where they are not compressed; a file may have more, which mean nothing."""
    return (_frame_bits(shape) * shape.frames + 7) // 8


def _frame_bits(shape: Shape) -> int:
    bits = shape.rows * shape.columns * shape.samples * shape.allocated
    return bits * 2 // 3 if shape.photometric == "YBR_FULL_422" else bits  # two pixels share their colour (C.7.6.3.1.2)


def _native(dicom: DicomFile, shape: Shape, whole: bool) -> bytes:
    """Bytes of the frame, or of all frames: just as many as there have to be, for padding makes pydicom warn."""
    bits = _frame_bits(shape)
    length = native_bytes(shape)
    if length > (dicom.length or 0) or dicom.start + length > dicom.end:
        raise DataError("the DICOM file is cut off, it has fewer pixels than its header says: get it again")
    start = 0 if whole else bits // 8 * shape.frame
    dicom.stream.seek(dicom.start + start)
    return dicom.stream.read(length + length % 2 if whole else bits // 8)
