"""DICOM files for tests: those that come with pydicom, and made ones."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
from pydicom import uid
from pydicom.data import get_testdata_file
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
