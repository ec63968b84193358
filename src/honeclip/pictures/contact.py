"""Contact sheets: small pictures with lines of text under each, in one file that can be mailed."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from markupsafe import Markup
from PIL import Image

from honeclip.errors import HoneclipError
from honeclip.pictures.html import render, trusted

EDGE_PX = 256
QUALITY = 80


class Readable(Protocol):
    """A picture inside an archive."""

    def read(self) -> bytes:
        """The bytes of the file."""
        ...


Picture = Image.Image | Path | bytes | Readable


@dataclass(frozen=True)
class Line:
    """A line under a picture. `kind` is "", "right", "wrong" or "note" and says how it is marked."""

    text: str
    kind: str = ""


def opened(picture: Picture) -> Image.Image:
    """A picture as RGB, by Pillow alone. Callers with stranger files (16 bit, DICOM) give an own `decode` instead."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    source = (
        picture if isinstance(picture, Path) else io.BytesIO(picture if isinstance(picture, bytes) else picture.read())
    )
    with Image.open(source) as image:
        return image.convert("RGB")


def thumbnail(picture: Picture, edge_px: int = EDGE_PX, decode: Callable[[Any], Image.Image] = opened) -> Markup | None:
    """A data URI of at most `edge_px` on its longer side (never enlarged); None where the picture cannot be read.

    Photographs become JPEG; where PNG is smaller (drawings, molecules) that.
    """
    try:
        image = picture if isinstance(picture, Image.Image) else decode(picture)
        small = image.convert("RGB")
        small.thumbnail((edge_px, edge_px), Image.Resampling.LANCZOS)
    except (HoneclipError, OSError, ValueError, Image.DecompressionBombError):
        return None
    jpeg, png = io.BytesIO(), io.BytesIO()
    small.save(jpeg, "JPEG", quality=QUALITY)
    small.quantize(64).save(png, "PNG", optimize=True)
    kind, data = min((("jpeg", jpeg.getvalue()), ("png", png.getvalue())), key=lambda one: len(one[1]))
    return trusted(f"data:image/{kind};base64,{base64.b64encode(data).decode()}")


def contact_sheet(
    items: Sequence[tuple[Picture, Sequence[str | Line]]],
    title: str,
    *,
    intro: str = "",
    decode: Callable[[Any], Image.Image] = opened,
) -> str:
    """A page of small pictures, each with its lines.

    Args:
        items: a picture (Pillow image, path, bytes, or anything with `read()`) and its lines.
        title: of the page.
        intro: a paragraph under the title.
        decode: makes a Pillow image of what is not one yet; a picture that it cannot read leaves an empty frame.
    """
    cards = [
        {"source": thumbnail(picture, decode=decode), "lines": [_line(line) for line in lines]}
        for picture, lines in items
    ]
    return render("contact.html", title=title, intro=intro, cards=cards)


def _line(line: str | Line) -> Line:
    return line if isinstance(line, Line) else Line(line)
