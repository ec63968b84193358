"""Contact sheets, thumbnails and pages: one file, everything escaped, every picture small."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import numpy as np
import pytest
from PIL import Image

from honeclip.errors import DataError
from honeclip.pictures.contact import EDGE_PX, Line, contact_sheet, thumbnail
from honeclip.pictures.html import render, trusted

HOSTILE = '<script>alert("x")</script> & <img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """What a browser would find: the tags with their attributes, and the text outside of them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def noise(size: tuple[int, int] = (600, 400)) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8), "RGB")


def drawing(size: tuple[int, int] = (600, 400)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    image.paste((0, 0, 0), (100, 100, 300, 110))
    return image


def shown(uri: str) -> Image.Image:
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.+)", uri).groups()
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format == kind.upper()
    return image


# --- thumbnails ---------------------------------------------------------------------------------------------------


def test_a_thumbnail_keeps_the_proportions():
    assert shown(thumbnail(noise((600, 300)))).size == (EDGE_PX, EDGE_PX // 2)
    assert shown(thumbnail(noise((100, 400)), edge_px=64)).size == (16, 64)


def test_a_small_picture_is_never_enlarged():
    assert shown(thumbnail(noise((20, 30)))).size == (20, 30)


def test_a_photograph_becomes_jpeg_and_a_drawing_png():
    assert shown(thumbnail(noise())).format == "JPEG"
    assert shown(thumbnail(drawing())).format == "PNG"


def test_a_drawing_looks_as_before():
    small = np.asarray(shown(thumbnail(drawing(), edge_px=600)).convert("RGB"), dtype=int)
    assert np.abs(small - np.asarray(drawing(), dtype=int)).max() <= 8


def test_any_form_of_a_picture_gives_the_same_thumbnail(tmp_path):
    file = tmp_path / "a.png"
    drawing().save(file)

    class Archived:
        def read(self) -> bytes:
            return file.read_bytes()

    found = {thumbnail(one) for one in (drawing(), file, file.read_bytes(), Archived())}
    assert len(found) == 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_every_mode_can_be_shown(mode):
    image = Image.new("I;16", (40, 30), 900) if mode == "I;16" else drawing((400, 300)).convert(mode)
    assert shown(thumbnail(image)).size[0] > 0


def test_what_cannot_be_read_gives_none(tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert thumbnail(tmp_path / "cut.png") is None
    assert thumbnail(tmp_path / "missing.png") is None
    assert thumbnail(b"no picture") is None


def test_the_callers_own_decoder_is_used():
    assert shown(thumbnail(b"anything", decode=lambda _: noise((8, 4)))).size == (8, 4)

    def fails(_: object) -> Image.Image:
        raise DataError("too many pixels")

    assert thumbnail(b"anything", decode=fails) is None


# --- contact sheets -----------------------------------------------------------------------------------------------


def test_a_contact_sheet_shows_every_picture_with_its_lines():
    lines = ["a caption", Line("the right one", "right"), Line("a wrong one", "wrong"), Line("0.31", "note")]
    html = contact_sheet([(noise(), lines), (b"broken", ["another"])], "Worst pairs", intro="The lowest cosines.")
    page = Page(html)
    for text in ("Worst pairs", "The lowest cosines.", "a caption", "the right one", "a wrong one", "0.31", "another"):
        assert text in page.text
    (image,) = page.of("img")
    assert shown(image["src"]).size == (EDGE_PX, round(EDGE_PX * 400 / 600))
    assert "cannot be shown" in page.text, "the broken one leaves a frame that says so"
    assert [one.get("title") for one in page.of("span") if "mark" in (one.get("class") or "")] == ["right", "wrong"]


def test_nothing_that_was_given_becomes_markup():
    page = Page(contact_sheet([(noise(), [HOSTILE, Line(HOSTILE, "note")])], HOSTILE, intro=HOSTILE))
    assert page.of("script") == []
    assert len(page.of("img")) == 1
    assert page.text.count(HOSTILE) == 5, "title and heading, intro, two lines"


def test_a_long_line_folds_and_loses_nothing():
    text = " ".join(f"word{number}" for number in range(200))
    page = Page(contact_sheet([(noise(), [text])], "t"))
    assert len(page.of("details")) == 1
    assert text in page.text.replace(" more", "")
    assert page.text.index("more") < page.text.index("word100")


def test_a_sheet_is_one_file_that_loads_nothing():
    html = contact_sheet([(noise(), ["see https://example.org/a.png"])], "t")
    page = Page(html)
    assert not page.of("link")
    assert not page.of("script")
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "data"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert not re.findall(r"url\((?!#)|@import", html)
    policy = next(one["content"] for one in page.of("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_a_sheet_fits_a_phone_and_knows_the_dark():
    html = contact_sheet([], "t")
    assert 'name="viewport" content="width=device-width' in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


# --- pages --------------------------------------------------------------------------------------------------------


def test_a_template_that_is_not_given_something_says_so():
    with pytest.raises(jinja2.UndefinedError, match="title"):
        render("contact.html", intro="", cards=[])


def test_only_what_is_trusted_stays_markup():
    assert "&lt;b&gt;" in render("contact.html", title="<b>", intro="", cards=[])
    assert "<b>" in render("contact.html", title=trusted("<b>"), intro="", cards=[])


def test_every_template_is_in_the_package():
    from honeclip.pictures.html import TEMPLATES

    assert {path.name for path in Path(TEMPLATES).iterdir()} >= {
        "base.html",
        "card.html",
        "contact.html",
        "report.html",
    }
