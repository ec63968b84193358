"""DICOM files for tests: those that come with pydicom, and made ones."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.datadict import DicomDictionary
from pydicom.encaps import encapsulate


def stored(name) -> Path:
    """A file of pydicom's own; nothing is downloaded."""
    return Path(get_testdata_file(f"{name}.dcm", download=False))


def made(array, syntax=uid.ExplicitVRLittleEndian, pixels=None, pieces=1, **elements):
    """A file with these elements besides those that describe `array`; `pixels` are its frames, compressed."""
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = uid.SecondaryCaptureImageStorage, "1.2.3.4"
    ds.Rows, ds.Columns = array.shape[-3:-1] if array.shape[-1] == 3 else array.shape[-2:]
    ds.SamplesPerPixel = 3 if array.shape[-1] == 3 else 1
    ds.PhotometricInterpretation = "RGB" if ds.SamplesPerPixel == 3 else "MONOCHROME2"
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * array.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(array.dtype.kind == "i")
    for name, value in elements.items():
        setattr(ds, name, value)
    raw = array.tobytes() if pixels is None else encapsulate(pixels, fragments_per_frame=pieces)
    ds.PixelData = raw + b"\0" * (len(raw) % 2)
    ds["PixelData"].VR = "OB" if pixels is not None or array.itemsize == 1 else "OW"
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def group(**elements):
    ds = pydicom.Dataset()
    for name, value in elements.items():
        if name == "LUTData":
            ds.add_new("LUTData", "OW", value)
        elif name == "LUTDescriptor":
            ds.add_new("LUTDescriptor", "US", value)
        else:
            setattr(ds, name, value)
    return ds


NAME = b"ZZPLANTEDNAMEZZ "
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
TEXTS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")


def element(tag, vr, value):
    vr, value = vr.encode(), value + b"\0" * (len(value) % 2)
    length = b"\0\0" + struct.pack("<I", len(value)) if vr in LONG else struct.pack("<H", len(value))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + length + value


def number(value):
    return struct.pack("<H", value)


GOOD = {
    0x00280002: ("US", number(1)),
    0x00280004: ("CS", b"MONOCHROME2"),
    0x00280010: ("US", number(4)),
    0x00280011: ("US", number(6)),
    0x00280100: ("US", number(16)),
    0x00280101: ("US", number(12)),
    0x00280102: ("US", number(11)),
    0x00280103: ("US", number(0)),
    0x7FE00010: ("OW", np.arange(24, dtype="<u2").tobytes()),
}


def written(elements, syntax=uid.ExplicitVRLittleEndian, before=b"\0" * 128, after=b""):
    """A file of exactly these elements: tag -> (VR, bytes)."""
    body = b"".join(element(tag, *one) for tag, one in sorted(elements.items()))
    meta = element(0x00020010, "UI", syntax.encode() if isinstance(syntax, str) else syntax)
    return before + b"DICM" + meta + body + after


def planted():
    """Every text that the dictionary of DICOM knows but for those that decide pixels, and private ones: with a name."""
    decide = (0x00280004, 0x00280008, 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281056)
    texts = {tag: (entry[0], NAME) for tag, entry in DicomDictionary.items() if entry[0] in TEXTS}
    private = {0x00090010: ("LO", NAME), 0x00091001: ("UN", NAME), 0x00091002: ("LT", NAME * 300)}
    return {tag: one for tag, one in (texts | private).items() if 2 < tag >> 16 < 0x7FE0 and tag not in decide}
