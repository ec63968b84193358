"""What becomes of every kind of pixel, against formulas in numpy."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from honeclip.errors import DataError
from honeclip.preprocess.images import decode, probe


def shown(source):
    return np.asarray(decode(source))


def grey(values):
    """One channel as the three that it becomes."""
    return np.repeat(np.asarray(values)[..., None], 3, axis=-1)


def png(depth, colour, rows, transparent=b""):
    """A PNG of two rows at most, written by hand: Pillow does not write every kind that it reads."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    width = len(rows[0]) // channels
    data = b"".join(b"\0" + struct.pack(f">{len(row)}{'H' if depth == 16 else 'B'}", *row) for row in rows)
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    clear = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), clear, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    )


def test_lossless_formats_show_the_pixels_and_share_a_hash(files, pixels):
    names = ("png", "bmp", "webp-lossless", "tiff", "tiff-strips", "tiff-lzw", "tiff-deflate")
    assert all((shown(files[name]) == pixels).all() for name in names)
    assert len({probe(files[name]).pixels_sha256 for name in names}) == 1


def test_lossy_formats_come_close(files, pixels):
    for name in ("jpeg", "jpeg-progressive", "webp"):
        assert abs(shown(files[name]).astype(int) - pixels).mean() < 16, name


def test_of_animations_and_pages_the_first_is_taken(files):
    for name, plain in (
        ("png-animated", "png"),
        ("webp-animated", "png"),
        ("tiff-pages", "png"),
        ("gif-animated", "gif"),
    ):
        assert probe(files[name]).pixels_sha256 == probe(files[plain]).pixels_sha256, name


def test_facts(files, tmp_path, pixels):
    facts = probe(files["png-16"])
    assert (facts.size, facts.mode) == ((37, 23), "I;16")
    assert [probe(files[name]).mode for name in ("tiff-fax", "bmp-grey", "gif", "tiff-float", "png")] == [
        "1", "L", "P", "F", "RGB",
    ]  # fmt: skip
    (tmp_path / "named.jpg").write_bytes(files["bmp"])
    assert probe(tmp_path / "named.jpg") == probe(files["bmp"])
    # the shape counts: the same bytes in other rows are another picture
    other = Image.fromarray(pixels.reshape(37, 23, 3))
    file = io.BytesIO()
    other.save(file, "PNG")
    assert probe(file.getvalue()).pixels_sha256 != probe(files["png"]).pixels_sha256


def test_the_hash_of_a_large_image_is_that_of_its_bytes(encode):
    big = np.tile(np.arange(2100, dtype=np.uint16)[:, None, None] % 251, (1, 2100, 3)).astype(np.uint8)
    expected = sha256(b"2100x2100" + big.tobytes()).hexdigest()
    assert probe(encode(Image.fromarray(big), "BMP")).pixels_sha256 == expected


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_rgba_is_put_on_white(encode, pixels, kind):
    alpha = np.linspace(0, 255, pixels[..., 0].size).round().astype(np.uint8).reshape(pixels.shape[:2])
    image = Image.fromarray(np.dstack([pixels, alpha]))
    share = alpha[..., None] / 255
    expected = pixels * share + 255 * (1 - share)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert abs(shown(encode(image, kind, **options)) - expected).max() <= 1


def test_other_transparency_is_put_on_white(encode, pixels):
    half = np.full(pixels.shape[:2], 128, np.uint8)
    dark = Image.merge("LA", [Image.fromarray(pixels[..., 0]), Image.fromarray(half)])
    expected = grey(pixels[..., 0] * (128 / 255) + 127)
    assert abs(shown(encode(dark, "PNG")) - expected).max() <= 1
    assert abs(shown(dark.convert("La")) - expected).max() <= 2

    palette = Image.fromarray(pixels).quantize(64)
    plain, number = np.asarray(palette.convert("RGB")), int(np.asarray(palette)[3, 4])
    one_clear = np.where((np.asarray(palette) == number)[..., None], 255, plain)
    assert (shown(encode(palette, "PNG")) == plain).all()
    for kind in ("PNG", "GIF"):
        assert (shown(encode(palette, kind, transparency=number)) == one_clear).all(), kind
    each = bytes(range(0, 256, 4))
    share = np.frombuffer(each, np.uint8)[np.asarray(palette)][..., None] / 255
    assert abs(shown(encode(palette, "PNG", transparency=each)) - (plain * share + 255 * (1 - share))).max() <= 1
    with_alpha = palette.convert("PA")
    with_alpha.putalpha(128)
    assert abs(shown(with_alpha) - (plain * (128 / 255) + 127)).max() <= 1


def test_a_single_transparent_colour_is_put_on_white():
    assert shown(png(8, 0, [[16, 32]], b"\0\x10")).tolist() == [[[255] * 3, [32] * 3]]
    assert shown(png(8, 2, [[1, 2, 3, 4, 5, 6]], b"\0\1\0\2\0\3")).tolist() == [[[255] * 3, [4, 5, 6]]]
    assert shown(png(16, 0, [[1000, 514]], struct.pack(">H", 1000))).tolist() == [[[255] * 3, [2] * 3]]


def test_cmyk(encode, pixels):
    inks = Image.merge("CMYK", [Image.fromarray(pixels[..., one]) for one in (0, 1, 2, 0)])
    cyan, black = pixels.astype(float), pixels[..., :1].astype(float)
    expected = (255 - cyan) * (255 - black) / 255
    assert abs(shown(encode(inks, "TIFF")) - expected).max() <= 1
    assert abs(shown(encode(inks, "JPEG", quality=98)) - expected).mean() < 4
    assert probe(encode(inks, "JPEG")).mode == "CMYK"


def test_black_and_white_and_other_colours(encode, pixels):
    bits = pixels[..., 0] > 127
    for kind in ("PNG", "TIFF", "BMP"):
        assert (shown(encode(Image.fromarray(bits), kind)) == grey(bits * 255)).all(), kind
    rgb = Image.fromarray(pixels)
    assert abs(shown(rgb.convert("YCbCr")).astype(int) - pixels).max() <= 3
    # CIELAB of pure red is L* 53.24, a* 80.09, b* 67.20 (D50: 54.3, 80.8, 69.9); Pillow stores a and b with an offset
    red = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (138, 209, 198)])
    assert abs(shown(encode(red, "TIFF"))[0, 0].astype(int) - (255, 0, 0)).max() <= 12


def test_16_bits_of_grey_are_divided_by_257_whatever_the_image_holds(encode):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = grey(np.rint(values / 257))
    for kind in ("PNG", "TIFF"):
        assert (shown(encode(Image.fromarray(values), kind)) == expected).all()
        # a dark image stays dark: its own range does not decide
        assert (shown(encode(Image.fromarray(values[:1]), kind)) == expected[:1]).all()
    assert (shown(Image.fromarray(values.astype(">u2"))) == expected).all()


def test_16_bits_of_colour_keep_the_upper_8():
    assert shown(png(16, 2, [[0x1234, 0xFFFF, 0x00FF]])).tolist() == [[[0x12, 0xFF, 0]]]
    assert shown(png(16, 6, [[0x1234, 0xFFFF, 0x00FF, 0xFFFF]])).tolist() == [[[0x12, 0xFF, 0]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),
        (np.array([[-50, 0, 205]], np.int32), [0, 50, 255]),
        (np.array([[0, 1000, 100_000]], np.int32), [0, 3, 255]),
        (np.array([[7000, 7000]], np.int32), [0, 0]),
        (np.array([[0.4, 7.6, 255]], np.float32), [0, 8, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[-3, 1, np.nan, np.inf]], np.float32), [0, 255, 0, 0]),
        (np.array([[np.nan, np.nan]], np.float32), [0, 0]),
        (np.array([[1e30, 3e30]], np.float32), [0, 255]),
    ],
)
def test_grey_of_32_bits(encode, values, expected):
    assert shown(encode(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == expected


STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""How a camera stores an upright image under each orientation (JEITA CP-3451: where row 0 and column 0 are seen)."""


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG", {"quality": 98, "subsampling": 0}),
    ],
)
def test_orientation_is_applied_once(encode, pixels, kind, options, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encode(Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels))), kind, exif=exif, **options)
    upright = decode(file)
    assert abs(np.asarray(upright).astype(int) - pixels).mean() <= (3 if kind == "JPEG" else 0)
    assert probe(file).size == (37, 23)
    assert (shown(upright) == np.asarray(upright)).all(), "decoded again, nothing turns"
    with Image.open(io.BytesIO(file)) as opened:
        assert (shown(opened) == np.asarray(upright)).all(), "a Pillow image is turned as well"


@pytest.mark.filterwarnings("ignore")
def test_damaged_metadata_cost_no_pixels(encode, pixels):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words " * 20
    file = bytearray(encode(Image.fromarray(pixels), "PNG", exif=exif))
    start = file.index(b"eXIf") + 4
    length = struct.unpack(">I", file[start - 8 : start - 4])[0]
    file[start + 8 : start + length] = b"\xff" * (length - 8)
    file[start + length : start + length + 4] = struct.pack(">I", zlib.crc32(file[start - 4 : start + length]))
    assert (shown(bytes(file)) == pixels).all()


def test_one_pixel(encode):
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        assert probe(encode(Image.new("RGB", (1, 1), "white"), kind)).size == (1, 1)


def test_upright_rgb_is_not_copied(pixels):
    image = Image.fromarray(pixels)
    assert decode(image) is image


def test_a_given_image_is_left_as_it_is(pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(pixels).convert("RGBA")
    image.info["exif"] = exif.tobytes()
    before = image.copy()
    assert decode(image).size == (23, 37)
    assert (image.mode, image.info, image.tobytes()) == (before.mode, before.info, before.tobytes())


def test_threads_see_what_one_sees(files):
    given = list(files.values()) * 5
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(probe, given)) == [probe(file) for file in given]


def test_a_picture_that_cannot_be_loaded_is_named_broken(files, tmp_path):
    (tmp_path / "cut.png").write_bytes(files["png"][:400])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(DataError, match="damaged or cut off"):
        decode(image)
