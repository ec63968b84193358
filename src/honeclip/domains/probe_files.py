"""Probes: what a model should understand of a field's language, as files of items that text alone can test.

A file is JSONL. Its first line says where the items come from, every other line is one item:

    {"about": "Findings and their denial", "source": "names of findings from MeSH", "licence": "CC0-1.0"}
    {"id": "neg-001", "kind": "negation", "anchor": "no effusion", "near": "effusion is absent", "far": "effusion is present"}
    {"id": "sev-001", "kind": "severity", "anchor": "large effusion", "ordered": ["moderate effusion", "small effusion"]}

An item is right where the model puts `near` nearer to `anchor` than `far`. `ordered` is the same for more than two texts,
the nearest first: near and far are an order of two. `source` and `note` may stand in an item too. Empty lines are passed
over. Files are read strictly: every fault of every file is reported at once, with its line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from honeclip.errors import DomainError

_STRICT = ConfigDict(extra="forbid")
_Text = Annotated[str, Field(min_length=1, pattern=r"\S")]


@dataclass(frozen=True)
class Item:
    """One question to a model.

    Attributes:
        id: no two items of a domain share it.
        kind: such as "negation"; figures are given by kind.
        anchor: the text that the others are compared with.
        ordered: two or more texts, the nearest to the anchor first.
        source: of this item, where it is not that of its file.
        note: what an expert should know of it.
    """

    id: str
    kind: str
    anchor: str
    ordered: tuple[str, ...]
    source: str = ""
    note: str = ""


@dataclass(frozen=True)
class ProbeFile:
    """The first line of a file, and its items.

    Attributes:
        name: of the file.
        about: what its items test and how they were made.
        source: where their facts come from.
        licence: of the file.
        items: at least one.
    """

    name: str
    about: str
    source: str
    licence: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class _Head:
    __pydantic_config__ = _STRICT

    about: _Text
    source: _Text
    licence: _Text


@dataclass(frozen=True)
class _Line:
    """An item as it is written."""

    __pydantic_config__ = _STRICT

    id: _Text
    kind: _Text
    anchor: _Text
    near: _Text | None = None
    far: _Text | None = None
    ordered: Annotated[tuple[_Text, ...], Field(min_length=2)] | None = None
    source: str = ""
    note: str = ""


_HEAD, _LINE = TypeAdapter(_Head), TypeAdapter(_Line)


def read(files: Iterable[Path]) -> tuple[ProbeFile, ...]:
    """The probes of several files.

    Raises:
        DomainError: every fault of every file, each with its line: what is no JSON, an unknown key (with the nearest known
            one), a missing or empty one, an item without an answer or with equal texts, an id or item that was there before.
    """
    faults: list[str] = []
    ids: dict[str, str] = {}
    seen: dict[tuple[str, tuple[str, ...]], str] = {}
    out = [_read(file, ids, seen, faults) for file in files]
    if faults:
        raise DomainError("probe files:\n" + "\n".join(faults))
    return tuple(one for one in out if one is not None)


def _read(
    file: Path, ids: dict[str, str], seen: dict[tuple[str, tuple[str, ...]], str], faults: list[str]
) -> ProbeFile | None:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{file}: {error}")
        return None
    # not splitlines(), which also splits at separators that JSON strings may hold
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if len(lines) < 2:
        faults.append(f'{file}: no items; the first line is {{"about", "source", "licence"}}, each other line an item')
        return None
    head = _parsed(_HEAD, _Head, *lines[0], file, faults)
    items = []
    for number, line in lines[1:]:
        where = f"{file}: line {number}"
        found = _parsed(_LINE, _Line, number, line, file, faults)
        if found is None:
            continue
        item, fault = _item(found)
        if item is None:
            faults.append(f"{where}: {fault}")
            continue
        same = (item.anchor, item.ordered)
        if item.id in ids:
            faults.append(f"{where}: id = {item.id!r}: {ids[item.id]} has it already; give each item its own")
        elif same in seen:
            faults.append(f"{where}: {item.id}: the same item stands at {seen[same]}; keep one")
        ids.setdefault(item.id, where)
        seen.setdefault(same, where)
        items.append(item)
    return head and ProbeFile(file.name, head.about, head.source, head.licence, tuple(items))


def _item(line: _Line) -> tuple[Item | None, str]:
    """The item of a line, or what is wrong with it."""
    if line.ordered is not None:
        if line.near is not None or line.far is not None:
            return None, "near and far beside ordered: an item has either"
        ordered = line.ordered
    elif line.near is None or line.far is None:
        return None, "an item has near and far, or ordered: two or more texts, the nearest to anchor first"
    else:
        ordered = (line.near, line.far)
    texts = [" ".join(text.split()) for text in (line.anchor, *ordered)]
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        return None, f"{twice!r} stands twice in one item; its texts must differ"
    return Item(line.id, line.kind, line.anchor, ordered, line.source, line.note), ""


def _parsed(adapter: TypeAdapter[Any], of: type, number: int, line: str, file: Path, faults: list[str]) -> Any:
    """What a line says; None, with its faults noted, where it is not what it should be."""
    try:
        return adapter.validate_json(line, strict=True)
    except ValidationError as error:
        faults += [f"{file}: line {number}: {_fault(of, one)}" for one in error.errors()]
        return None


def _fault(of: type, one: Any) -> str:
    key = ".".join(str(part) for part in one["loc"])
    if one["type"] == "unexpected_keyword_argument":
        known = [field.name for field in fields(of)]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        return f"{key}: unknown key; " + (f"nearest: {near[0]}" if near else f"known: {', '.join(known)}")
    if one["type"] == "missing":
        return f"{key}: missing"
    if one["type"] in ("string_pattern_mismatch", "string_too_short"):
        return f"{key}: it is empty"
    return f"{key} = {one['input']!r}: {one['msg']}" if key else one["msg"]
