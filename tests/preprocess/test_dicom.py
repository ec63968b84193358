"""DICOM: the pixels of pydicom's own test files by pydicom's documented functions, files made for each rule, broken ones."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import group, made, stored
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

from honeclip.data import pairs
from honeclip.errors import DataError
from honeclip.preprocess.images import decode, probe

FILES = {  # what is special about each
    "CT_small": "signed 16 bit, rescale, no window, a TIFF's start before DICM",
    "693_J2KI": "JPEG 2000 of more bits than Bits Stored, rescale and window",
    "J2K_pixelrep_mismatch": "JPEG 2000 with the wrong sign, three windows",
    "JPEG2000": "JPEG 2000, lossy",
    "GDCMJ2K_TextGBR": "JPEG 2000, YBR_RCT",
    "SC_rgb_gdcm_KY": "JPEG 2000, RGB",
    "examples_jpeg2k": "JPEG 2000, YBR_RCT",
    "MR_small": "window",
    "MR_small_padded": "more bytes than pixels",
    "MR_small_implicit": "implicit VR",
    "MR_small_bigendian": "big endian",
    "MR_small_expb": "big endian",
    "MR_small_RLE": "RLE, signed",
    "MR_small_jp2klossless": "JPEG 2000 lossless, signed",
    "MR_small_jpeg_ls_lossless": "JPEG-LS, signed",
    "JPEGLSNearLossless_08": "JPEG-LS, 8 bit",
    "JPEGLSNearLossless_16": "JPEG-LS, 16 bit",
    "SC_rgb_jls_lossy_line": "JPEG-LS, interleaved by line",
    "SC_rgb_jls_lossy_sample": "JPEG-LS, interleaved by sample",
    "SC_rgb_jpeg_gdcm": "JPEG lossless",
    "SC_rgb_jpeg_dcmtk": "JPEG baseline, YBR_FULL",
    "SC_rgb_dcmtk_+eb+cr": "JPEG baseline, RGB",
    "SC_rgb_dcmtk_+eb+cy+np": "JPEG baseline, YBR_FULL_422",
    "SC_rgb_jpeg_lossy_gdcm": "JPEG baseline, YBR_FULL",
    "SC_rgb_small_odd_jpeg": "JPEG baseline, 3x3",
    "SC_jpeg_no_color_transform": "JPEG baseline, RGB by Adobe's marker",
    "SC_jpeg_no_color_transform_2": "JPEG baseline, RGB by Adobe's marker",
    "examples_ybr_color": "JPEG baseline, 30 frames",
    "SC_rgb_rle": "RLE, RGB",
    "SC_rgb_rle_2frame": "two frames",
    "SC_rgb_rle_16bit": "RGB of 16 bit",
    "SC_rgb_rle_32bit_2frame": "RGB of 32 bit",
    "ExplVR_BigEnd": "RGB, by plane",
    "SC_rgb_small_odd": "27 bytes of RGB",
    "SC_rgb_small_odd_big_endian": "27 bytes of RGB as swapped words",
    "SC_ybr_full_422_uncompressed": "YBR_FULL_422",
    "SC_rgb_jpeg_dcmd": "RGB, implicit VR",
    "examples_overlay": "12 bit, two windows, an overlay",
    "examples_palette": "palette",
    "examples_rgb_color": "RGB",
    "image_dfl": "deflated",
    "liver_1frame": "1 bit",
    "liver_expb_1frame": "1 bit, big endian",
    "rtdose": "32 bit, 15 frames",
    "rtdose_expb": "32 bit, 15 frames, big endian",
    "rtdose_rle": "32 bit, 15 frames, RLE",
}


def expected(source):
    """uint8 (rows, columns, 3) by pydicom's documented functions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(source)
        plugin = "pillow" if ds.file_meta.TransferSyntaxUID == uid.JPEGBaseline8Bit else ""
        frames = int(ds.get("NumberOfFrames") or 1)
        array = pixel_array(ds, index=frames // 2, decoding_plugin=plugin)
        kind = ds.PhotometricInterpretation
        if kind == "PALETTE COLOR":
            array = apply_color_lut(array, ds)
            return np.rint(array / np.iinfo(array.dtype).max * 255)
        if ds.SamplesPerPixel == 3:
            return np.rint(array / (2.0**ds.BitsStored - 1) * 255)
        values = apply_modality_lut(array, ds)
        if "VOILUTSequence" in ds:
            grey = apply_voi_lut(values, ds) / (2.0 ** ds.VOILUTSequence[0].LUTDescriptor[2] - 1)
        elif "WindowWidth" in ds:
            shown = apply_voi_lut(values, ds)
            slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
            sign, bits = ds.PixelRepresentation, ds.BitsStored
            low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if sign else (0.0, 2.0**bits - 1)
            if "ModalityLUTSequence" in ds:
                low, high = 0.0, 2.0 ** ds.ModalityLUTSequence[0].LUTDescriptor[2] - 1
            else:
                low, high = low * slope + intercept, high * slope + intercept
            grey = (shown - low) / (high - low)
        else:
            values = values.astype(float)
            grey = (values - values.min()) / max(values.max() - values.min(), 1e-9)
        grey = 1 - grey if kind == "MONOCHROME1" else grey
    return np.repeat(np.rint(grey * 255)[..., None], 3, axis=-1)


def same(source, wanted=None, levels=1):
    picture = decode(source)
    assert (picture.mode, picture.info) == ("RGB", {})
    wanted = expected(io.BytesIO(source) if isinstance(source, bytes) else source) if wanted is None else wanted
    got = np.asarray(picture).astype(float)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= levels
    return got


@pytest.fixture(scope="module")
def ramp():
    """uint16 (24, 32), 0..4095 in no order."""
    return np.random.default_rng(0).integers(0, 4096, (24, 32)).astype(np.uint16)


@pytest.mark.parametrize("name", FILES)
def test_pydicoms_own_files(name):
    same(stored(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = pydicom.dcmread(stored(name), stop_before_pixels=True).PhotometricInterpretation
    assert probe(stored(name)).mode == f"DICOM {kind}"


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": [30, 7], "WindowWidth": [80, 9]}])
def test_every_width_sign_and_window(ramp, kind, dtype, window):
    low = -100 if np.dtype(dtype).kind == "i" else 0
    array = (ramp.astype(int) % 200 + low).astype(dtype)
    file = made(array, PhotometricInterpretation=kind, **window)
    got = same(file)[..., 0]
    brighter = got[array == array.max()].min() > got[array == array.min()].max()
    assert brighter == (kind == "MONOCHROME2")


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", None])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("centre", "width"), [(40, 400), (900.5, 1.5), (-1000, 1), (5000, 20000)])
def test_windows_speak_of_rescaled_values(ramp, function, kind, centre, width):
    more = {"VOILUTFunction": function} if function else {}
    rescale = {"RescaleSlope": 0.5, "RescaleIntercept": -1024}
    file = made(ramp, PhotometricInterpretation=kind, WindowCenter=centre, WindowWidth=width, **rescale, **more)
    same(file)


def test_a_negative_slope_turns_the_picture(ramp):
    plain, turned = made(ramp), made(ramp, RescaleSlope=-2, RescaleIntercept=7)
    assert np.array_equal(same(turned), 255 - same(plain))


def test_one_value_is_no_division_by_zero():
    assert not same(made(np.full((4, 5), 9, np.uint16))).any()


def test_look_up_tables(ramp):
    """Of 256 entries from 100 on, beyond which the ends hold; the table goes before the window."""
    table = np.sqrt(np.arange(256, dtype=float) / 255)
    for bits, first in ((8, 100), (12, 2000), (16, 0)):
        values = (table * (2**bits - 1)).astype(np.uint16)
        item = group(LUTDescriptor=[256, first, bits], LUTData=values.tobytes())
        own = np.clip(ramp.astype(int) - first, 0, 255)
        voi = made(ramp, VOILUTSequence=[item], WindowCenter=1, WindowWidth=2)
        same(voi, np.repeat(np.rint(values[own] / (2**bits - 1) * 255)[..., None], 3, axis=-1), 0)
        if bits > 8:  # pydicom 3.0 takes the place in a table of 8 bits modulo 256
            same(voi)
        if bits != 12:  # pydicom has no such numbers in a modality table
            modality = {"ModalityLUTSequence": [item]}
            same(made(ramp, WindowCenter=2 ** (bits - 1), WindowWidth=2**bits, **modality))
            same(made(ramp, PhotometricInterpretation="MONOCHROME1", **modality))


@pytest.mark.parametrize("frames", [1, 2, 5, 6])
@pytest.mark.parametrize("how", ["plain", "shared", "own", "lossless", "lossless in pieces", "rle"])
def test_the_middle_frame_with_its_own_window(ramp, frames, how):
    array = np.stack([np.roll(ramp, 3 * at) for at in range(frames)])
    elements, middle = {"NumberOfFrames": frames}, frames // 2
    syntax, pixels = uid.ExplicitVRLittleEndian, None
    centres = [100 + 500 * at if how == "own" else 700 for at in range(frames)]
    windows = [group(WindowCenter=centre, WindowWidth=1000) for centre in centres]
    rescale = group(RescaleSlope=2, RescaleIntercept=-50)
    macros = [group(FrameVOILUTSequence=[w], PixelValueTransformationSequence=[rescale]) for w in windows]
    if how == "shared":
        elements["SharedFunctionalGroupsSequence"] = macros[:1]
    elif how == "own":
        elements["PerFrameFunctionalGroupsSequence"] = macros
    elif how.startswith("lossless"):
        syntax = uid.JPEGLosslessSV1
        pixels = [imagecodecs.jpeg8_encode(one, lossless=True, bitspersample=16) for one in array]
    elif how == "rle":
        syntax, pixels = uid.RLELossless, [rle(one) for one in array]
    file = made(array, syntax, pixels, 2 if how.endswith("pieces") else 1, **elements)
    values = array[middle].astype(float)
    if how in ("shared", "own"):
        values = ((values * 2 - 50 - centres[middle] + 0.5) / 999 + 0.5) * 255
    else:
        values = (values - values.min()) / (values.max() - values.min()) * 255
    same(file, np.repeat(np.rint(np.clip(values, 0, 255))[..., None], 3, axis=-1))


def rle(frame):
    """A frame of 16 bits by the simplest form of PS3.5 G: literal runs only."""
    planes = [(frame >> 8).astype(np.uint8).tobytes(), (frame & 255).astype(np.uint8).tobytes()]
    packed = []
    for plane in planes:
        runs = b"".join(
            bytes([len(run) - 1]) + run for run in (plane[at : at + 128] for at in range(0, len(plane), 128))
        )
        packed.append(runs + b"\0" * (len(runs) % 2))
    starts = [2, 64, 64 + len(packed[0])] + [0] * 13
    return struct.pack("<16I", *starts) + b"".join(packed)


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (uid.JPEGLossless, lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=12)),
        (uid.JPEGLosslessSV1, lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=16)),
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
        (uid.JPEG2000Lossless, lambda a: imagecodecs.jpeg2k_encode(a, codecformat="J2K", reversible=True, level=0)),
        (uid.HTJ2KLossless, imagecodecs.htj2k_encode),
        (uid.HTJ2KLosslessRPCL, imagecodecs.htj2k_encode),
    ],
)
def test_lossless_compression_changes_nothing(ramp, syntax, encode):
    plain = made(ramp, BitsStored=12, HighBit=11, WindowCenter=2000, WindowWidth=3000)
    packed = made(ramp, syntax, [encode(ramp)], BitsStored=12, HighBit=11, WindowCenter=2000, WindowWidth=3000)
    assert np.array_equal(same(packed, expected(io.BytesIO(plain))), same(plain))


def test_jpeg_of_12_bits(ramp):
    """pydicom reads none without a plugin under the GPL; smooth values come back nearly as they went in."""
    smooth = np.add.outer(np.arange(48) * 40, np.arange(64) * 30).astype(np.uint16)
    file = imagecodecs.jpeg8_encode(smooth, level=98, bitspersample=12)
    same(made(smooth, uid.JPEGExtended12Bit, [file], BitsStored=12, HighBit=11), expected(io.BytesIO(made(smooth))), 2)
    assert probe(stored("JPGExtended")).size == (256, 1024)


def test_signed_values_in_compression_without_a_sign(ramp):
    array = ramp.astype(np.int16) - 2048
    plain = made(array, BitsStored=12, HighBit=11)
    twelve = (array & 4095).astype(np.uint16)
    for syntax, frame in (
        (uid.JPEGLosslessSV1, imagecodecs.jpeg8_encode(twelve, lossless=True, bitspersample=12)),
        (uid.JPEGLosslessSV1, imagecodecs.jpeg8_encode(array.view(np.uint16), lossless=True, bitspersample=16)),
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode(array.view(np.uint16))),
    ):
        packed = made(array, syntax, [frame], BitsStored=12, HighBit=11)
        assert np.array_equal(same(packed, expected(io.BytesIO(plain))), same(plain))


def test_a_palette_of_16_bits_from_negative_values_on():
    array = np.random.default_rng(1).integers(-60, 60, (9, 11)).astype(np.int16)
    tables = np.random.default_rng(2).integers(0, 65536, (3, 100)).astype("<u2")
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    ds = pydicom.dcmread(io.BytesIO(made(array, **elements)))
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        tag = pydicom.tag.Tag(f"{colour}PaletteColorLookupTableDescriptor")
        ds.add_new(tag, "SS", [100, -50, 16])
        ds.add_new(f"{colour}PaletteColorLookupTableData", "OW", table.tobytes())
    file = io.BytesIO()
    ds.save_as(file)
    wanted = tables[:, np.clip(array.astype(int) + 50, 0, 99)].transpose(1, 2, 0) / 65535 * 255
    same(file.getvalue(), np.rint(wanted))


def test_a_sequence_with_pixels_of_its_own_is_stepped_over(ramp):
    """An icon has Rows, Columns and pixel data as well, here of undefined length and with fragments."""
    icon = group(Rows=2, Columns=2, WindowWidth=0)
    icon.add_new("PixelData", "OB", encapsulate([b"\xfe\xff\x00\xe0" * 4]))
    icon["PixelData"].is_undefined_length = True
    plain = made(ramp)
    ds = pydicom.dcmread(io.BytesIO(plain))
    ds.IconImageSequence = [icon]
    ds["IconImageSequence"].is_undefined_length = True
    ds.IconImageSequence[0].is_undefined_length_sequence_item = True
    file = io.BytesIO()
    ds.save_as(file)
    assert len(file.getvalue()) > len(plain) + 60
    assert probe(file.getvalue()) == probe(plain)


def test_a_manifest_of_dicom_images(ramp, tmp_path):
    (tmp_path / "ct.dcm").write_bytes(made(ramp))
    (tmp_path / "turned").write_bytes(made(np.roll(ramp, 5), PhotometricInterpretation="MONOCHROME1"))
    (tmp_path / "us.dcm").write_bytes(stored("SC_rgb_rle").read_bytes())
    (tmp_path / "report.dcm").write_bytes(stored("test-SR").read_bytes())
    rows = [f"{name},a caption {name}" for name in ("ct.dcm", "turned", "us.dcm")]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,caption", *rows]), encoding="utf-8")
    found = pairs.load(tmp_path)
    assert len(found) == 3
    assert [(one.row, one.kind) for one in found.problems if one.row] == [(2, "odd_mode")]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,caption", *rows, "report.dcm,a report"]), encoding="utf-8")
    with pytest.raises(DataError, match=r"(?s)1 of 4 rows .*report\.dcm.*no pixel data"):
        pairs.load(tmp_path)
    bad = [one for one in pairs.read(tmp_path).problems if one.kind == "broken"]
    assert [one.row for one in bad] == [4]


def test_pydicom_is_imported_for_dicom_only():
    code = (
        "import sys; from honeclip.preprocess import images; "
        "assert not {'pydicom', 'imagecodecs'} & set(sys.modules); "
        f"images.probe(__import__('pathlib').Path({str(stored('CT_small'))!r})); assert 'pydicom' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
