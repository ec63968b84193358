"""docs/mps.md: 26 rules, each with code and tests that are there; and the rules that are words that the source lacks."""

from __future__ import annotations

import ast
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "honeclip"
PAGE = (ROOT / "docs" / "mps.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE))
NAMED = re.compile(r"`([\w/]+\.py)`(?: \(((?:`\w+`(?:, )?)+)\))?")

FORBIDDEN = {
    6: r"non_blocking\s*=\s*True",
    8: r"pin_memory",
    9: r"channels_last",
    21: r"torch\.compile|_dynamo",
    22: r"torch\.distributed|all_gather|all_reduce",
    26: r"[=!]=\s*torch\.device|\bmps:0\b|\.device\s*[=!]=",
}
"""Rule -> what no line of code says, but the mode that looks for it."""

EXPECTS = {"device/rules.py": {8, 9}, "device/world.py": {22}}
"""Files that must name what they refuse."""


@cache
def defined(path: Path) -> frozenset[str]:
    """Names of the functions, classes, methods and constants of a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {one.id for one in targets if isinstance(one, ast.Name)}
    return frozenset(found)


def file(name: str) -> Path:
    return ROOT / name if name.startswith("tests/") else SRC / name


def code(path: Path) -> list[str]:
    """A file's lines of code, without comments and strings."""
    lines: dict[int, list[str]] = {}
    with tokenize.open(path) as source:
        for token in tokenize.generate_tokens(source.readline):
            if token.type not in (tokenize.COMMENT, tokenize.STRING):
                lines.setdefault(token.start[0], []).append(token.string)
    return ["".join(parts) for parts in lines.values()]


def test_there_are_the_26_rules_in_order():
    assert list(map(int, ROWS)) == list(range(1, 27))
    assert [row for row in PAGE.splitlines() if row.startswith("|")][2:] == [
        f"| {n} | {row} |" for n, row in ROWS.items()
    ]


def test_whatever_the_page_names_is_there():
    named = NAMED.findall(PAGE)
    assert len(named) > 60
    for path, names in named:
        assert file(path).is_file(), path
        for name in re.findall(r"\w+", names):
            assert name in defined(file(path)), f"{path}: {name}"


@pytest.mark.parametrize("number", ROWS)
def test_each_rule_is_shown_by_a_test_and_says_what_it_asks(number):
    asks, kept, shown = ROWS[number].split(" | ")
    assert len(asks) > 15
    assert kept
    tests = [name for path, names in NAMED.findall(shown) for name in re.findall(r"\w+", names)]
    assert any(name.startswith("test_") for name in tests)


def test_numbers_in_the_source_are_numbers_of_the_page():
    for path in SRC.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            for numbers in re.findall(r"\brules? (\d+(?:, \d+)*)\)", line):
                assert {one.strip() for one in numbers.split(",")} <= ROWS.keys(), f"{path.name}: {line.strip()}"


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_the_source_has_no_word_that_mps_forbids(rule):
    for path in SRC.rglob("*.py"):
        if rule in EXPECTS.get(path.relative_to(SRC).as_posix(), ()):
            continue
        for line in code(path):
            assert not re.search(FORBIDDEN[rule], line), f"rule {rule}: {path.name}: {line}"
