"""docs/security.md: every line names tests that are there, and the source has none of what the page says it lacks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
LINES = [line for line in PAGE.splitlines() if line.startswith("| ") and "Threat" not in line]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip())
def test_a_line_names_tests_that_are_there(line):
    named = re.findall(r"`(tests/[\w/]+\.py)` \(((?:`test_\w+`(?:, )?)+)\)", line)
    assert named
    for file, tests in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        for test in re.findall(r"`(\w+)`", tests):
            assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), f"{file} has no {test}"


def test_nothing_in_the_source_unpickles():
    for file in (ROOT / "src").rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        assert not re.search(
            r"^\s*(import|from) (pickle|dill|cloudpickle|joblib)\b(?! import UnpicklingError$)", source, re.MULTILINE
        ), file
        assert "trust_remote_code=True" not in source, file
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                kept = {one.arg: one.value for one in node.keywords}
                assert ast.unparse(kept["weights_only"]) == "True", f"{file}: {ast.unparse(node)}"
