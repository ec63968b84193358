"""docs/reliability.md: every line says what happens and what is lost, and names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
LINES = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| Fault |")]


def test_there_are_lines_and_none_is_there_twice():
    faults = [line.split("|")[1].strip() for line in LINES]
    assert len(set(faults)) == len(faults) > 30


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip())
def test_a_fault_has_what_happens_and_what_is_lost_and_tests_that_are_there(line):
    _, *cells, tests, end = (cell.strip() for cell in line.split("|"))
    assert (len(cells), end) == (3, "")
    assert all(cells)
    named = re.findall(r"`(tests/[\w/]+\.py)` \(((?:`test_\w+`(?:, )?)+)\)", tests)
    assert named
    assert ", ".join(f"`{file}` ({names})" for file, names in named) == tests, "the cell holds nothing else"
    for file, names in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        for test in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^def {test}\(", source, re.MULTILINE), f"{file} has no {test}"


def test_what_is_not_tested_yet_stands_at_the_end():
    *_, last = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    assert last.startswith("Not tested yet\n")
