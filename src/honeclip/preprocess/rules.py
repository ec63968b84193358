"""The cleaning that every caption, prompt and query goes through before any tokenizer's own. Imports no torch."""

from __future__ import annotations

import re
import unicodedata

RULES = 2
"""Raised when `clean` would give another text."""

_GAPS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_HALVES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """One line of text in Unicode's composed form (NFC); a cleaned text stays as it is.

    Runs of white space and control characters become one space, and none stands at the ends. Half of a surrogate pair,
    which no encoding can write and every tokenizer stumbles over, becomes U+FFFD; two halves become their character.
    Case, symbols, units, formulas and the joiners inside emoji stay: µm is not um, and CO is not Co.
    """
    if _HALVES.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _GAPS.sub(" ", unicodedata.normalize("NFC", text)).strip(" ")
