"""Files that are cut off, damaged, too large or no image at all: refused in words, never padded."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image

from honeclip.errors import DataError
from honeclip.preprocess.images import LIMITS, Limits, decode, probe


def patched(file, start, fmt, *values):
    data = bytearray(file)
    struct.pack_into(fmt, data, start, *values)
    return bytes(data)


def frame(file):
    """Where a JPEG's start of frame has its height."""
    return file.index(b"\xff\xc0") + 5


def tag(file, number):
    """Where the value of a tag stands in a little-endian TIFF."""
    start = struct.unpack_from("<I", file, 4)[0] + 2
    entries = struct.unpack_from("<H", file, start - 2)[0]
    return next(
        at + 8 for at in range(start, start + 12 * entries, 12) if struct.unpack_from("<H", file, at)[0] == number
    )


@pytest.mark.parametrize("cuts", ["all", "path"])
def test_no_cut_gives_other_pixels(files, tmp_path, cuts):
    """Wherever a file ends, it is refused, or all of its pixels were there."""
    for name, file in files.items():
        whole = probe(file)
        refused = 0
        for end in range(0, len(file), 1 if cuts == "all" else 97):
            source = file[:end]
            if cuts == "path":
                source = tmp_path / "cut"
                source.write_bytes(file[:end])
            try:
                assert probe(source).pixels_sha256 == whole.pixels_sha256, (name, end)
            except DataError:
                refused = end
        several = name.endswith(("animated", "pages"))
        assert refused >= len(file) * (0.3 if several else 0.9), name


@pytest.mark.filterwarnings("ignore")
def test_any_damage_ends_with_pixels_or_a_sentence(files):
    draw = random.Random(0)
    for file in files.values():
        for _ in range(150):
            data = bytearray(file)
            for _ in range(draw.randint(1, 6)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            try:
                decode(bytes(data), Limits(200_000))
            except DataError as error:
                assert str(error)  # noqa: PT017


def test_too_large_is_refused_by_the_header(files, encode, pixels):
    """No pixel of these sizes is there: what is refused was not decoded."""
    side = 20_000
    still = encode(Image.fromarray(pixels).convert("RGBA"), "WEBP", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")
    assert still[12:16] == b"VP8X"
    png = patched(files["png"], 16, ">II", side, side)
    large = {
        "png": patched(png, 29, ">I", zlib.crc32(png[12:29])),
        "bmp": patched(files["bmp"], 18, "<ii", side, side),
        "gif": patched(files["gif"], 6, "<HH", side, side),
        "jpeg": patched(files["jpeg"], frame(files["jpeg"]), ">HH", side, side),
        "tiff": patched(
            patched(files["tiff"], tag(files["tiff"], 256), "<I", side), tag(files["tiff"], 257), "<I", side
        ),
    }
    for name, file in large.items():
        for call in (probe, decode):
            with pytest.raises(DataError) as caught:
                call(file)
            said = str(caught.value)
            assert all(words in said for words in ("20000x20000", "400.0", "250", "make the image smaller")), (
                name,
                said,
            )
    # the canvas of WebP in each of its three kinds of header
    for file in (files["webp"], files["webp-lossless"], still):
        with pytest.raises(DataError, match=r"37x23 pixels are 0\.0 megapixels, and the limit is 0\.0005"):
            decode(file, Limits(500))
    with pytest.raises(DataError, match="16384x16384"):
        decode(still[:24] + (16383).to_bytes(3, "little") * 2 + still[30:])


def test_the_limit_is_the_callers(files, pixels):
    exact = Limits(37 * 23)
    for name, file in files.items():
        assert decode(file, exact).size == (37, 23), name
        for call in (probe, decode):
            with pytest.raises(DataError, match="37x23"):
                call(file, Limits(37 * 23 - 1))
    with pytest.raises(DataError, match="37x23"):
        decode(Image.fromarray(pixels), Limits(100))
    assert LIMITS.pixels == 250_000_000


def test_pillows_own_limit_is_neither_asked_nor_changed(files, monkeypatch):
    whole = {name: probe(file) for name, file in files.items()}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name, file in files.items():
        if name.startswith("webp"):  # Pillow asks it before it makes room for a WebP: said in the same words
            with pytest.raises(DataError, match="37x23 pixels are"):
                decode(file)
        else:
            assert probe(file) == whole[name]
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"not an image at all\n", "this is a text"),
        (("schöne Worte" * 60).encode(), "this is a text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b'<?xml version="1.0"?>\n<svg xmlns="">', "SVG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0" + b"\0" * 200, "DICOM"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
        (bytes(range(32)) * 9, "no image in a known format"),
        (b"\x89PNG\r\n\x1a\n", "damaged or cut off"),
        (b"BM", "damaged or cut off"),
        (b"RIFF\0\0\0\0WEBPVP8X", "damaged or cut off"),
        (b"II*\0\xff\xff\xff\xff", "damaged or cut off"),
    ],
)
def test_what_is_no_image(data, words, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(data)
    for source in (data, tmp_path / "photo.jpg"):
        with pytest.raises(DataError, match=words):
            probe(source)


def test_no_file(tmp_path):
    for path, words in (
        (tmp_path / "gone.png", "no such file"),
        (tmp_path, "a folder"),
        (tmp_path / "nul\0.png", "cannot be read"),
        (tmp_path / ("x" * 300), "cannot be read"),
    ):
        for call in (probe, decode):
            with pytest.raises(DataError, match=words):
                call(path)


def test_neither_torch_nor_open_clip_is_imported_for_decoding():
    code = (
        "import sys; from honeclip.preprocess import images, rules; "
        "assert not {'torch', 'open_clip', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
