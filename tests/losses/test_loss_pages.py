"""Every loss has a page, and all pages have the same headings in the same order."""

from __future__ import annotations

from pathlib import Path

import pytest

PAGES = Path(__file__).resolve().parents[2] / "docs" / "losses"
NAMES = [
    "balance",
    "hard-captions",
    "hard-negatives",
    "infonce",
    "labels-supcon",
    "multi-positive",
    "multi-scale",
    "siglip",
    "soft-targets",
    "temperature",
]
HEADINGS = [
    "Idea",
    "Formula",
    "Inputs and shapes",
    "Requirements",
    "When to use it",
    "Cost",
    "Relations",
    "Source",
]


def test_these_are_the_pages():
    assert sorted(page.stem for page in PAGES.glob("*.md")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_the_headings_in_order_and_something_under_each(name):
    lines = (PAGES / f"{name}.md").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == HEADINGS
    sections = "\n".join(lines).split("\n## ")[1:]
    for section in sections:
        assert section.split("\n", 1)[1].strip(), section
