"""Cleaning of texts."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honeclip.preprocess.rules import clean


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \t\r\n\u3000\u00a0", ""),
        ("  two\t\n  words\u2003here ", "two words here"),
        ("e\u0301te\u0301", "été"),
        ("a\0b\x1bc\x7fd\x85e\x9ff", "a b c d e f"),
        ("CO₂ at 5 µm ± 0.1 °C, Part-No. AB/12_x", "CO₂ at 5 µm ± 0.1 °C, Part-No. AB/12_x"),
        ("👩\u200d🔬 and 🐝", "👩\u200d🔬 and 🐝"),
        ("ﬁ Å ½", "ﬁ Å ½"),
        ("half \ud83d here", "half \ufffd here"),
        ("whole \ud83d\udc1d", "whole 🐝"),
        ("\ufeffmarked", "\ufeffmarked"),
    ],
)
def test_examples(text, expected):
    assert clean(text) == expected


@given(st.text(st.characters(), max_size=60))
@settings(max_examples=300, deadline=None)
def test_what_holds_for_every_text(text):
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert cleaned == " ".join(cleaned.split())
    assert not any(unicodedata.category(one) in ("Cc", "Cs") for one in cleaned)
    cleaned.encode("utf-8")


def test_a_text_of_10_000_characters():
    assert clean("x" * 10_000) == "x" * 10_000
