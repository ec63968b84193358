"""DICOM images to 8 bits as a viewer shows them: stored values -> modality -> window -> 0..255. Knows no torch.

Sections are of PS3.3, as are the names.

- Grey (C.7.6.3.1.2): Rescale Slope and Intercept or the Modality LUT (C.11.1) give the values that a window speaks of, the
  first VOI LUT or else the first window (C.11.2: LINEAR, LINEAR_EXACT, SIGMOID) makes them 0..255, and without
  one the smallest value of the picture becomes 0 and the largest 255. MONOCHROME1 is inverted after that.
- Windows that were asked for (`windows`) take the place of the file's own where they hold; three make three channels.
- Of several frames the middle one is taken, number n // 2 counted from 0, with its own window and slope where frames
  have some (C.7.6.16.2.9, C.7.6.16.2.10).
- PALETTE COLOR is looked up (C.7.6.3.1.5), YBR becomes RGB, colour of more than 8 bits is scaled by Bits Stored.
- Nothing else of the file is looked at: overlays are not burned in, colour profiles and the aspect of pixels are not
  applied, padding values count as values.

No text of the header that could name somebody comes into a message, a log or the picture (`dicom_file` says how).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from honeclip.errors import DataError
from honeclip.preprocess import dicom_file
from honeclip.preprocess.dicom_file import DicomFile, Group, named
from honeclip.preprocess.dicom_pixels import COLOUR, PALETTE, WAY_OUT, Shape, opened, shape_of, shown, stored_values
from honeclip.preprocess.images import Limits, within
from honeclip.preprocess.windows import Asked, Window, resolve

Values = NDArray[np.float64]
Map = Callable[[Values], Values]

_BAND_PIXELS = 4_000_000


def read(
    file: BinaryIO,
    limits: Limits,
    windows: Sequence[Asked] = (),
    tell: Callable[[bytes], object] | None = None,
) -> tuple[Image.Image, str]:
    """The picture of a DICOM file (PS3.10: "DICM" at byte 128), before it becomes RGB.

    Args:
        file: a file that can be sought in.
        limits: what is refused; Rows x Columns are asked before anything is decoded.
        windows: of grey pictures; see `windows.resolve`.
        tell: is told what a window looks at, the values after the rescale and which windows hold for them: two grey
            files may look alike through one window and differ through another.

    Returns:
        A Pillow image of mode L or RGB without metadata, and what it was: "DICOM MONOCHROME2".

    Raises:
        DataError: no pixel data, a transfer syntax that is not read, a header that cannot be used, damaged, cut off, or
            beyond the limits. No value of the header that could name somebody stands in the message.
        DomainError: an unknown window.
    """
    chosen = resolve(windows)
    syntax = ""
    try:
        syntax = dicom_file.syntax_of(file)
        return _picture(opened(file, syntax, limits.pixels), limits, chosen, tell)
    except (DataError, MemoryError):
        raise
    except Exception:  # decoders raise what they like, in words that are not ours
        pass
    # Outside of the handler, so that nothing of those words hangs on to the error
    raise DataError(f"damaged, or not decodable as {shown(syntax)}: get the DICOM file again, or {WAY_OUT}")


def _picture(
    dicom: DicomFile, limits: Limits, windows: tuple[Window | None, ...], tell: Callable[[bytes], object] | None
) -> tuple[Image.Image, str]:
    if dicom.pixel_tag is None:
        raise DataError("this DICOM file has no pixel data (a report, a plan, a structure set?): leave its row out")
    if dicom.pixel_tag != dicom_file.PIXEL_DATA:
        raise DataError(f"this DICOM file holds floating point values (a map, not a picture): {WAY_OUT}")
    shape = shape_of(dicom.data)
    within((shape.columns, shape.rows), limits)
    stored = stored_values(dicom, shape)
    if shape.photometric in COLOUR:
        top = 2**shape.stored - 1
        pixels = stored if stored.dtype == np.uint8 and top == 255 else _banded(stored, lambda x: x * (255 / top))
    elif shape.photometric == PALETTE:
        colours = [_palette(dicom.data, shape, name) for name in ("Red", "Green", "Blue")]
        pixels = np.stack([_banded(stored, one) for one in colours], axis=-1)
    else:
        if tell is not None:
            _tell(tell, dicom.data, shape, stored)
        greys = [_banded(stored, _greys(dicom.data, shape, stored, window)) for window in windows or (None,)]
        pixels = greys[0] if len(greys) == 1 else np.stack(greys, axis=-1)
    return Image.fromarray(np.ascontiguousarray(pixels)), f"DICOM {shape.photometric}"


def _banded(stored: NDArray[Any], to_byte: Map) -> NDArray[np.uint8]:
    """`to_byte` of all values, rounded; row by row, for eight bytes a pixel of a large picture are a lot."""
    made = np.empty(stored.shape, np.uint8)
    for band in _bands(stored):
        made[band] = np.rint(np.clip(to_byte(stored[band].astype(np.float64)), 0, 255))
    return made


def _bands(stored: NDArray[Any]) -> Iterator[slice]:
    rows = max(1, _BAND_PIXELS // int(np.prod(stored.shape[1:])))
    return (slice(top, top + rows) for top in range(0, stored.shape[0], rows))


def _tell(tell: Callable[[bytes], object], data: Group, shape: Shape, stored: NDArray[Any]) -> None:
    tell(f"{shape.photometric} {'HU' if _in_hounsfield(data, shape) else ''}".encode())
    modality = _modality(data, shape)
    for band in _bands(stored):
        tell(np.ascontiguousarray(modality(stored[band].astype(np.float64)), "<f8").tobytes())


def _greys(data: Group, shape: Shape, stored: NDArray[Any], window: Window | None) -> Map:
    """Stored values -> 0..255 (C.11.1, C.11.2)."""
    modality = _modality(data, shape)
    holds = window is not None and (not window.modality or _in_hounsfield(data, shape))
    windowed = _through(window) if window is not None and holds else _window(data, shape)
    if windowed is None:
        ends = [(x.min(), x.max()) for x in (modality(stored[band].astype(np.float64)) for band in _bands(stored))]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        windowed = _between(float(low), float(high))
    inverted = shape.photometric == "MONOCHROME1"

    def greys(values: Values) -> Values:
        shown = np.clip(windowed(modality(values)), 0, 255)
        return 255 - shown if inverted else shown

    return greys


def _between(low: float, high: float) -> Map:
    return lambda x: (x - low) * (255 / (high - low if high > low else 1.0))


def _of_frame(data: Group, shape: Shape, macro: str) -> Group:
    """Where the attributes of a macro stand: with the frame, with all frames, or else in the file as a whole."""
    per_frame = data.items.get("Per-Frame Functional Groups Sequence", [])[shape.frame : shape.frame + 1]
    for group in (*per_frame, *data.items.get("Shared Functional Groups Sequence", [])):
        for item in group.items.get(macro, []):
            return item
    return data


def _modality(data: Group, shape: Shape) -> Map:
    tables = data.items.get("Modality LUT Sequence", [])
    if tables:
        return _table(tables[0], shape, "LUT Descriptor", "LUT Data")[0]
    where = _of_frame(data, shape, "Pixel Value Transformation Sequence")
    slope, intercept = where.decimal("Rescale Slope"), where.decimal("Rescale Intercept")
    if slope == 0:
        raise DataError(
            f"{named('Rescale Slope')} of the DICOM file is 0, which makes all pixels one (PS3.3 C.11.1): {WAY_OUT}"
        )
    return lambda x: x * (1.0 if slope is None else slope) + (intercept or 0.0)


def _in_hounsfield(data: Group, shape: Shape) -> bool:
    """Whether the values after the rescale are Hounsfield units, which a file need not say where they are (C.11.1.1.2)."""
    tables = data.items.get("Modality LUT Sequence", [])
    where = tables[0] if tables else _of_frame(data, shape, "Pixel Value Transformation Sequence")
    rescaled = (
        bool(tables) or where.decimal("Rescale Slope") is not None or where.decimal("Rescale Intercept") is not None
    )
    units = where.word("Modality LUT Type" if tables else "Rescale Type")
    return data.word("Modality") == "CT" and rescaled and units in ("", "HU")


def _through(window: Window) -> Map:
    """LINEAR (C.11.2.1.2.1), and LINEAR_EXACT below a width of 1, for which the former has no meaning."""
    return _linear(window.centre, window.width) if window.width >= 1 else _linear_exact(window.centre, window.width)


def _linear(centre: float, width: float) -> Map:
    if width == 1:
        return lambda x: np.where(x <= centre - 0.5, 0.0, 255.0)
    return lambda x: ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255


def _linear_exact(centre: float, width: float) -> Map:
    return lambda x: ((x - centre) / width + 0.5) * 255


def _window(data: Group, shape: Shape) -> Map | None:
    """Values -> 0..255 and beyond, or None where the file has no window."""
    tables = data.items.get("VOI LUT Sequence", [])
    if tables:
        look_up, top = _table(tables[0], shape, "LUT Descriptor", "LUT Data")
        return lambda x: look_up(x) * (255 / top)
    where = _of_frame(data, shape, "Frame VOI LUT Sequence")
    centre, width, kind = where.decimal("Window Center"), where.decimal("Window Width"), where.word("VOI LUT Function")
    if centre is None or width is None:
        return None
    if width <= 0 or (width < 1 and kind in ("", "LINEAR")):
        raise DataError(
            f"{named('Window Width')} of the DICOM file has to be 1 or more, above 0 for LINEAR_EXACT and SIGMOID "
            f"(PS3.3 C.11.2.1.2), and is less: {WAY_OUT}"
        )
    if kind == "SIGMOID":
        return lambda x: 255 / (1 + np.exp(np.clip(-4 * (x - centre) / width, -500, 500)))
    return _linear_exact(centre, width) if kind == "LINEAR_EXACT" else _linear(centre, width)


def _palette(data: Group, shape: Shape, colour: str) -> Map:
    if "Segmented Red Palette Color Lookup Table Data" in data.values:
        raise DataError(f"the DICOM file has a segmented palette (PS3.3 C.7.9.2), which is not read: {WAY_OUT}")
    name = f"{colour} Palette Color Lookup Table"
    look_up, top = _table(data, shape, f"{name} Descriptor", f"{name} Data")
    return lambda x: look_up(x) * (255 / top)


def _table(group: Group, shape: Shape, descriptor: str, name: str) -> tuple[Map, int]:
    """A look-up table (C.11.1.1.1, C.11.2.1.1, C.7.6.3.1.5) as a function, and the largest value that it can give."""
    order = "<" if group.little else ">"
    said, raw = group.values.get(descriptor, b""), group.values.get(name, b"")
    if len(said) != 6:
        raise DataError(f"{named(descriptor)} of the DICOM file is not three numbers: {WAY_OUT}")
    entries, _, bits = np.frombuffer(said, f"{order}u2").tolist()
    first = int(np.frombuffer(said[2:4], f"{order}{'i' if shape.signed else 'u'}2")[0])
    entries = entries or 65536
    wide = len(raw) >= 2 * entries
    if not 1 <= bits <= 16 or len(raw) < entries:
        raise DataError(f"{named(name)} of the DICOM file does not have the entries of {named(descriptor)}: {WAY_OUT}")
    values = np.frombuffer(raw, f"{order}u2" if wide else "u1")[:entries].astype(np.float64)
    return lambda x: values[np.clip(np.floor(x) - first, 0, entries - 1).astype(np.intp)], 2**bits - 1
