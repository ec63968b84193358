"""Text rule of figure captions: panel letters and sides in brackets, written one way. Imports no torch."""

from __future__ import annotations

import re
import string

_SIDES = "left|right|top|bottom|upper|lower|middle|center|centre"
_SIDE = re.compile(
    rf"[(\[]\s?(?P<side>(?:(?:top|bottom|upper|lower|middle|far)[\s-])?(?:{_SIDES}))\s?[)\]]", re.IGNORECASE
)
_LETTER = re.compile(r"\(\s?([A-Za-z])\s?\)")
_HALF = re.compile(r"(?<![\w(])(?P<letter>[A-Za-z])\)(?=\s|$)")
_SEVERAL = re.compile(r"\(\s?(?P<inside>[A-Za-z](?:\s?(?:,|&|–|-|(?<=\s)and(?=\s))\s?[A-Za-z]){1,7})\s?\)")
_JOINT = re.compile(r"\s?(,|&|–|-|and)\s?")
_JOINTS = {",": ", ", "&": " and ", "and": " and ", "–": "-", "-": "-"}


def one_way(text: str) -> str:
    """Panels as "(a)", "(a, b)", "(a-c)" and sides as "(left)", whatever the brackets and the case; none is lost.

    A letter is a panel where the caption has panels a and b: the (C) of "temperature (C)" and the (K) of "flux (K)" stay.
    """
    if ")" not in text and "]" not in text:
        return text
    text = _SIDE.sub(lambda found: f"({found['side'].lower()})", text)
    panels = _panels({*_LETTER.findall(text), *_halves(text)})
    if not panels:
        return text
    if text.count(")") > text.count("("):
        text = _HALF.sub(lambda found: _opened(found, panels), text)
    text = _LETTER.sub(lambda found: f"({found[1].lower()})" if found[1] in panels else found[0], text)
    return _SEVERAL.sub(lambda found: _joined(found, panels), text)


def _panels(letters: set[str]) -> set[str]:
    """The letters from a on without a gap, or else those from A on; none where there is no second one."""
    for alphabet in (string.ascii_lowercase, string.ascii_uppercase):
        count = next((place for place, letter in enumerate(alphabet) if letter not in letters), len(alphabet))
        if count > 1:
            return set(alphabet[:count])
    return set()


def _halves(text: str) -> set[str]:
    if text.count(")") <= text.count("("):
        return set()
    return {found["letter"] for found in _HALF.finditer(text) if _is_closed_before(found)}


def _is_closed_before(found: re.Match[str]) -> bool:
    return found.string.count("(", 0, found.start()) <= found.string.count(")", 0, found.start())


def _opened(found: re.Match[str], panels: set[str]) -> str:
    letter = found["letter"]
    return f"({letter.lower()})" if letter in panels and _is_closed_before(found) else found[0]


def _joined(found: re.Match[str], panels: set[str]) -> str:
    parts = _JOINT.split(found["inside"])
    letters, joints = parts[::2], parts[1::2]
    if not set(letters) <= panels:
        return found[0]
    rest = "".join(_JOINTS[joint] + letter for joint, letter in zip(joints, letters[1:], strict=True))
    return f"({letters[0]}{rest})".lower()
