"""DICOM files that cannot be used are refused in words, and no text of a header comes out anywhere."""

from __future__ import annotations

import io
import logging
import random
import struct
import traceback
import warnings
import zlib

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import GOOD, NAME, TEXTS, element, group, made, number, planted, stored, written
from pydicom import uid

from honeclip.errors import DataError
from honeclip.preprocess.images import Limits, decode, probe


@pytest.fixture(scope="module")
def grey():
    return np.random.default_rng(0).integers(0, 4096, (24, 32)).astype(np.uint16)


def sequence(tag_values):
    body = b"".join(element(tag, *one) for tag, one in sorted(tag_values.items()))
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body


def lut(**change):
    parts = {0x00283002: ("US", number(4) + number(0) + number(16)), 0x00283006: ("OW", bytes(8))}
    return ("SQ", sequence(parts | {int(tag[1:], 16): one for tag, one in change.items()}))


BAD = {
    # what is changed -> words of the message
    "no pixel data": ({0x7FE00010: None}, "no pixel data"),
    "floating point": ({0x7FE00010: None, 0x7FE00008: ("OF", bytes(96))}, "floating point"),
    "no rows": ({0x00280010: None}, r"no Rows \(0028,0010\)"),
    "rows are 0": ({0x00280010: ("US", number(0))}, "impossible Rows"),
    "rows are a text": ({0x00280010: ("US", NAME)}, r"Rows \(0028,0010\) is no number of 16 bits"),
    "samples": ({0x00280002: ("US", number(3))}, "impossible Samples per Pixel"),
    "bits allocated": ({0x00280100: ("US", number(12))}, "impossible Bits Allocated"),
    "bits stored": ({0x00280101: ("US", number(17))}, "impossible Bits Stored"),
    "photometric": ({0x00280004: ("CS", NAME)}, "Photometric Interpretation .*none of MONOCHROME1"),
    "frames": ({0x00280008: ("IS", b"0")}, "impossible Number of Frames"),
    "frames are a name": ({0x00280008: ("IS", NAME)}, "Number of Frames .*no number"),
    "more frames than pixels": ({0x00280008: ("IS", b"9")}, "cut off.*fewer pixels"),
    "more rows than pixels": ({0x00280010: ("US", number(5))}, "cut off.*fewer pixels"),
    "slope 0": ({0x00281053: ("DS", b"0.0"), 0x00281052: ("DS", b"1")}, r"Rescale Slope \(0028,1053\).* is 0"),
    "slope is a name": ({0x00281053: ("DS", NAME), 0x00281052: ("DS", b"1")}, "Rescale Slope .*no number"),
    "slope is infinite": ({0x00281053: ("DS", b"1e999"), 0x00281052: ("DS", b"1")}, "Rescale Slope .*no number"),
    "intercept is a name": ({0x00281052: ("DS", NAME)}, "Rescale Intercept .*no number"),
    "width 0": ({0x00281050: ("DS", b"5"), 0x00281051: ("DS", b"0")}, r"Window Width .*1 or more.*C\.11\.2\.1\.2"),
    "width 0.5": ({0x00281050: ("DS", b"5"), 0x00281051: ("DS", b"0.5")}, "Window Width .*1 or more"),
    "width < 0": (
        {0x00281050: ("DS", b"5"), 0x00281051: ("DS", b"-3"), 0x00281056: ("CS", b"SIGMOID")},
        "Window Width .*above 0 for LINEAR_EXACT and SIGMOID",
    ),
    "width is a name": ({0x00281050: ("DS", b"5"), 0x00281051: ("DS", NAME)}, "Window Width .*no number"),
    "centre is a name": ({0x00281050: ("DS", NAME), 0x00281051: ("DS", b"5")}, "Window Center .*no number"),
    "table too short": ({0x00283010: lut(t00283006=("OW", bytes(2)))}, "LUT Data .*does not have the entries"),
    "table of a name": ({0x00283000: lut(t00283002=("LO", NAME))}, "LUT Descriptor .*not three numbers"),
    "table of 0 bits": ({0x00283010: lut(t00283002=("US", number(4) + bytes(4)))}, "LUT Data .*does not have"),
    "sequence of a name": ({0x00283010: ("SQ", NAME)}, "a sequence does not hold its items"),
    "palette without table": ({0x00280004: ("CS", b"PALETTE COLOR")}, "Red Palette .*not three numbers"),
    "segmented palette": (
        {0x00280004: ("CS", b"PALETTE COLOR"), 0x00281221: ("OW", NAME)},
        r"segmented palette \(PS3\.3 C\.7\.9\.2\)",
    ),
}


@pytest.fixture
def listen(capfd, caplog):
    """listen(read, file) -> (all that came out, the error). Also what C libraries write, every level of every logger, and errors behind the error."""

    def listened(read, file):
        caplog.set_level(logging.DEBUG)
        caplog.clear()
        said, message = [], ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = read(file)
                said += [repr(result), repr(getattr(result, "info", ""))]
            except Exception as error:
                message = str(error)
                behind = error
                while behind is not None:
                    said += [str(behind), repr(behind), repr(behind.args), *traceback.format_exception(behind)]
                    behind = behind.__context__
        out, err = capfd.readouterr()
        said += [out, err, caplog.text, *(str(one.message) for one in caught)]
        return "\n".join(said), message

    return listened


def test_the_name_would_be_heard(listen):
    """pydicom itself gives it away, in a warning, a log line and an error: the test below is able to fail."""
    file = written(planted() | GOOD | {0x00281053: ("DS", NAME)})
    heard, _ = listen(lambda data: pydicom.dcmread(io.BytesIO(data)).RescaleSlope, file)
    assert heard.count(NAME.decode().strip()) >= 2


@pytest.mark.parametrize("before", [b"\0" * 128, NAME * 8])
def test_no_text_of_a_good_header_is_heard(listen, before):
    texts = planted()
    assert {vr for vr, _ in texts.values()} >= set(TEXTS)
    assert len(texts) > 1500
    file = written(texts | GOOD, before=before, after=element(0xFFFCFFFC, "OB", NAME))
    for read in (decode, probe):
        heard, message = listen(read, file)
        assert (message, heard.count("\n")) == ("", 4)  # what it gave, its `info`, and nothing else
        assert "PLANTED" not in heard
    assert probe(file) == probe(written(GOOD))


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_said_without_the_header(listen, what):
    change, words = BAD[what]
    elements = {tag: one for tag, one in (planted() | GOOD | change).items() if one is not None}
    heard, message = listen(decode, written(elements))
    assert message
    assert "PLANTED" not in heard
    with pytest.raises(DataError, match=words):
        decode(written({tag: one for tag, one in (GOOD | change).items() if one is not None}))
    with pytest.raises(DataError, match=words):
        probe(written(elements))


@pytest.mark.parametrize(
    ("syntax", "words"),
    [
        (uid.MPEG2MPML, r"MPEG2 Main Profile / Main Level \(1\.2\.840\.10008\.1\.2\.4\.100\) is not read"),
        ("1.2.840.113619.5.2", r"1\.2\.840\.113619\.5\.2 is not read"),
        (b"", "names no transfer syntax"),
        (NAME, "without a valid UID is not read"),
        (b"12.04.1950", "without a valid UID is not read"),
        (uid.JPEG2000, "are not stored as JPEG 2000"),
        (uid.RLELossless, "are not stored as RLE"),
        (uid.DeflatedExplicitVRLittleEndian, "damaged, or not decodable as Deflated"),
    ],
)
def test_a_syntax_is_named_if_it_is_one(listen, syntax, words):
    file = written(planted() | GOOD, syntax)
    with pytest.raises(DataError, match=words):
        decode(file)
    heard, _ = listen(decode, file)
    assert "PLANTED" not in heard
    assert "1950" not in heard


COMPRESSED = {
    uid.JPEGBaseline8Bit: lambda a: imagecodecs.jpeg8_encode((a >> 4).astype(np.uint8)),
    uid.JPEGLosslessSV1: lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=16),
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEG2000Lossless: lambda a: imagecodecs.jpeg2k_encode(a, codecformat="J2K", reversible=True, level=0),
    uid.HTJ2KLossless: imagecodecs.htj2k_encode,
}


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_a_stream_of_another_size_is_not_decoded(grey, syntax):
    large = COMPRESSED[syntax](np.zeros((400, 300), np.uint16))
    own = COMPRESSED[syntax](grey)
    small = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7} if syntax == uid.JPEGBaseline8Bit else {}
    assert decode(made(grey, syntax, [own], **small)).size == (32, 24)
    with pytest.raises(DataError, match="another size than its header says"):
        decode(made(grey, syntax, [large], **small))
    for frame in (NAME * 9, own[: len(own) // 2], b"\xff\xd8\xff\xd9", b"\0\0"):
        with pytest.raises(DataError, match="damaged"):
            decode(made(grey, syntax, [frame], **small))


def test_too_large_is_refused_by_the_header(grey):
    """No pixel of these sizes is there."""
    for change in ({}, {0x7FE00010: ("OW", b"")}):
        file = written(GOOD | {0x00280010: ("US", number(20000)), 0x00280011: ("US", number(20000))} | change)
        for call in (decode, probe):
            with pytest.raises(DataError, match=r"20000x20000 pixels are 400\.0 megapixels, and the limit is 250"):
                call(file)
    assert decode(made(grey), Limits(24 * 32)).size == (32, 24)
    with pytest.raises(DataError, match="32x24"):
        decode(made(grey), Limits(24 * 32 - 1))


def test_a_deflated_file_does_not_fill_the_memory():
    bomb = zlib.compressobj(wbits=-15)
    body = bomb.compress(bytes(200_000_000)) + bomb.flush()
    file = bytes(128) + b"DICM" + element(0x00020010, "UI", uid.DeflatedExplicitVRLittleEndian.encode()) + body
    with pytest.raises(DataError, match="has more than 17177216 bytes"):
        decode(file, Limits(25_000))


CUT = ("MR_small_implicit", "MR_small_RLE", "MR_small_jpeg_ls_lossless", "SC_rgb_jpeg_gdcm", "SC_rgb_rle_2frame")


@pytest.mark.parametrize("name", [*CUT, "SC_rgb_small_odd_jpeg", "JPEG2000", "image_dfl", "rtdose"])
def test_no_cut_gives_other_pixels(name):
    data = stored(name).read_bytes()
    whole, refused = probe(data), 0
    for end in [*range(0, len(data), max(1, len(data) // 150)), len(data) - 9, len(data) - 1]:
        try:
            assert probe(data[:end]).pixels_sha256 == whole.pixels_sha256, end
        except DataError:
            refused = end
    assert refused > len(data) * 0.55  # some have a trailer of padding


@pytest.mark.parametrize("name", [*CUT, "CT_small", "JPEG2000", "JPGExtended", "SC_rgb_jpeg_dcmtk", "GDCMJ2K_TextGBR"])
def test_any_damage_ends_with_pixels_or_a_sentence(name):
    """GDCM would end the process here, and pylibjpeg-rle raise what is no Exception."""
    draw, good = random.Random(name), stored(name).read_bytes()
    for at in range(60):
        data = bytearray(good)
        for _ in range(draw.randint(1, 6)):
            data[draw.randrange(132 if at % 2 else len(data) // 2, len(data))] = draw.randrange(256)
        try:
            decode(bytes(data), Limits(2_000_000))
        except DataError as error:
            assert str(error)  # noqa: PT017
            assert error.__context__ is None  # noqa: PT017


@pytest.mark.parametrize("name", ["test-SR", "rtplan", "waveform_ecg", "UN_sequence", "reportsi"])
def test_pydicoms_files_without_pixels(name):
    with pytest.raises(DataError, match="no pixel data.*leave its row out"):
        probe(stored(name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MR_truncated", "cut off.*fewer pixels"),
        ("rtplan_truncated", "cut off"),
        ("badVR", "Number of Frames .*no number"),
        ("meta_missing_tsyntax", "no transfer syntax"),
        ("JPEG2000-embedded-sequence-delimiter", "another size"),
        ("no_meta", "no image in a known format"),
    ],
)
def test_pydicoms_broken_files(name, words):
    with pytest.raises(DataError, match=words):
        probe(stored(name))


def test_an_own_group_of_a_frame_counts(grey):
    """A width that is wrong is wrong for its frame only."""
    windows = [group(FrameVOILUTSequence=[group(WindowCenter=9, WindowWidth=width)]) for width in (0, 10, 0)]
    frames = np.stack([grey] * 3)
    assert decode(made(frames, NumberOfFrames=3, PerFrameFunctionalGroupsSequence=windows)).size == (32, 24)
    with pytest.raises(DataError, match="Window Width"):
        decode(made(frames, NumberOfFrames=3, PerFrameFunctionalGroupsSequence=windows[::2] + windows[1:2]))
