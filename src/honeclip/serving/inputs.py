"""From a request's body to images as bytes and texts as strings, each judged by itself and named by its place."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from honeclip.serving import refusals
from honeclip.serving.fetch import Fetch
from honeclip.serving.refusals import Refused
from honeclip.serving.settings import Settings

LISTS = frozenset({"images", "texts", "labels"})
"""Fields of a form that may stand there several times."""

FAULTS = 3
"""Faults of a body's shape that are named."""

_DATA_URI = re.compile(r"data:[^,;]*(?:;[^,;]*)*;base64,", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

M = TypeVar("M", bound=BaseModel)


async def read(request: Request, kind: type[M], *, forms: bool = False) -> M:
    """The body of a request, checked.

    Args:
        request: JSON, or a form where `forms` allows it.
        kind: its schema.
        forms: whether images may be uploaded as multipart/form-data.

    Raises:
        Refused: another content type (415), or another shape (422), with the first faults by name.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if content_type == "multipart/form-data" and forms:
            return kind.model_validate(await _form(request))
        if content_type == "application/json" or content_type.endswith("+json"):
            return kind.model_validate_json(await request.body())
    except ValidationError as error:
        raise Refused(422, "shape", _faults(error)) from None
    also = " or multipart/form-data" if forms else ""
    raise Refused(415, "content_type", f"the body is sent as application/json{also}")


async def images(given: Sequence[str], settings: Settings, fetch: Fetch) -> list[bytes | Refused]:
    """The bytes of each image, or what is wrong with it."""
    return [await _image(one, settings, fetch) for one in given]


def texts(given: Sequence[str], settings: Settings) -> list[str | Refused]:
    """Each text, or what is wrong with it."""
    return [_text(one, settings) for one in given]


async def _image(given: str, settings: Settings, fetch: Fetch) -> bytes | Refused:
    try:
        if _URL.match(given):
            content = await fetch(given)
        else:
            head = _DATA_URI.match(given[:200])
            if given[:5].lower() == "data:" and head is None:
                return refusals.bad_item("a data URI of an image is data:TYPE;base64,DATA")
            content = base64.b64decode("".join(given[head.end() if head else 0 :].split()), validate=True)
    except Refused as error:
        return error
    except (binascii.Error, ValueError):
        return refusals.bad_item("this is not base64: send the bytes of the image file as base64, or as a data URI")
    if not content:
        return refusals.bad_item("the image is empty")
    if len(content) > settings.image_bytes:
        return refusals.too_large(
            f"the file has {len(content) / 2**20:.1f} MiB, and the limit is {settings.image_bytes / 2**20:g}: make it smaller",
            "image",
        )
    return content


def _text(given: str, settings: Settings) -> str | Refused:
    if not given.strip():
        return refusals.bad_item("the text is empty")
    if len(given) > settings.text_characters:
        return refusals.too_large(
            f"the text has {len(given):,} characters, and the limit is {settings.text_characters:,}: cut it", "text"
        )
    return given


async def _form(request: Request) -> dict[str, object]:
    """A form as JSON would be: files as base64, which is what the schema says."""
    try:
        form = await request.form(max_files=1000, max_fields=11_000, max_part_size=2**20)
    except HTTPException as error:
        raise Refused(422, "shape", f"the form cannot be read: {error.detail}") from None
    found: dict[str, object] = {}
    for name in form:
        values = [
            base64.b64encode(await one.read()).decode() if isinstance(one, UploadFile) else one
            for one in form.getlist(name)
        ]
        if name in LISTS:
            found[name] = values
        else:
            last = values[-1]
            found[name] = int(last) if name == "top" and last.isascii() and last.isdigit() and len(last) < 9 else last
    await form.close()
    return found


def _faults(error: ValidationError) -> str:
    """The first faults by place, without what was sent."""
    named = []
    for one in error.errors(include_url=False, include_context=False, include_input=False)[:FAULTS]:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in one["loc"]).lstrip(".")
        named.append(f"{place}: {one['msg']}" if place else one["msg"])
    more = error.error_count() - len(named)
    return "; ".join(named) + (f"; and {more} more" if more > 0 else "")
