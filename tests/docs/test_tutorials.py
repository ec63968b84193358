"""The tutorials as their readers type them: every block of a page in order, and what the page says that one sees.

How a page is read: the blocks `console` (commands after `$ `, then what they say), `bash` and `python` are run in one shell, in a
folder of their own. A block with a title that ends in a suffix is a file of that name and is written. A block titled "On a Mac" or
"Yours" is not run. Lines of output are looked for in their order, figures apart; `...` stands for lines, or the end of a line,
that may be anything. `data/` is a folder with some rows of the real set that the page's head names. The port 8117 is another one.

All of them at once on two cores: `uv run pytest -m slow -n 2 --dist load tests/docs/test_tutorials.py`.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_runs

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "tutorials").glob("*.md"))

NOT_RUN = ("On a Mac", "Yours")

ROWS = {"train": 160, "val": 50, "test": 60}
"""Of a real set, so that all pages together take minutes on two cores."""

NUMBER = r"[-+−]?\d[\d.,:]*(?:e[-+]?\d+)?"


@dataclass(frozen=True)
class Block:
    kind: str
    title: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """What is typed, in which line of the page, and the lines that are said to follow."""

    text: str
    line: int
    says: tuple[str, ...] = ()


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(found[1], found[2] or "", found[3], text[: found.start()].count("\n") + 2)


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block that is run."""
    if re.search(r"\.\w+$", block.title):
        yield Command(f"cat > {shlex.quote(block.title)} <<'END OF FILE'\n{block.text}END OF FILE", block.line)
    elif block.kind == "bash":
        yield Command(block.text, block.line)
    elif block.kind == "python":
        yield Command(f"python - <<'END OF FILE'\n{block.text}END OF FILE", block.line)
    elif block.kind == "console":
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            typed = next(number for number, line in enumerate(lines, 1) if not line.endswith("\\"))
            yield Command("\n".join(lines[:typed]), block.line, tuple(lines[typed:]))


def typed(page: Path) -> list[Command]:
    return [one for block in blocks(page) if block.title not in NOT_RUN for one in commands(block)]


def matches(expected: str, line: str) -> bool:
    """Whether a line is what the page says, but for figures, the width of gaps, and what `...` leaves open."""
    wanted, open_end = re.subn(r"\s*\.\.\.$", "", " ".join(expected.split()))
    parts = [re.escape(part) for part in re.split(NUMBER, wanted)]
    return re.fullmatch(NUMBER.join(parts) + (".*" if open_end else ""), " ".join(line.split())) is not None


def first_missing(says: tuple[str, ...], output: str) -> str | None:
    """The first line that is not said, in its order."""
    lines = iter(re.split(r"[\r\n]+", output))
    for expected in says:
        if expected.strip() in ("", "..."):
            continue
        if not any(matches(expected, line) for line in lines):
            return expected
    return None


def real_rows(shared: Path, name: str, into: Path) -> None:
    """A folder like the real set, with the first rows of each split of every label in turn."""
    with (shared / name / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    queues: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        queues.setdefault((row["split"], row["label"]), []).append(row)
    chosen = []
    for split, count in ROWS.items():
        of = [queue for (where, _), queue in sorted(queues.items()) if where == split]
        turns = [queue[place] for place in range(max(map(len, of))) for queue in of if place < len(queue)]
        chosen += turns[:count]
    into.mkdir()
    (into / "images").symlink_to(shared / name / "images")
    with (into / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        out.writeheader()
        out.writerows(chosen)


def script(steps: list[Command], folder: Path) -> str:
    """One shell for a page: each command's words go to a file of their own, and the first that fails ends it."""
    lines = ["set -o pipefail", "trap 'kill $(jobs -p) 2>/dev/null' EXIT"]
    for number, step in enumerate(steps):
        # a page may leave a server running: then the shell must not wait for it
        lines.append(f"{{ {step.text}\n}} >{folder}/{number}.txt 2>&1 || {{ echo {number} >{folder}/failed; exit 1; }}")
    return "\n".join(lines) + "\n"


def test_the_pages_are_there_and_each_runs_something():
    assert {page.stem for page in PAGES} >= {
        "mac", "own-data", "medical", "industrial", "scientific", "memory", "mac-mini", "report",
    }  # fmt: skip
    for page in PAGES:
        assert len(typed(page)) >= 3, page.name
        for block in blocks(page):
            assert block.kind in ("console", "bash", "python", "toml", "text", "csv", "xml"), (
                f"{page.name}: {block.line}"
            )
            assert not block.title or block.title in NOT_RUN or "." in block.title, f"{page.name}: {block.title}"


def test_what_is_said_is_compared():
    assert matches("429 pairs, R@10 0.5 ...", "17 pairs,  R@10 −1.25 [0.1, 0.2]")
    assert not matches("429 pairs", "17 pears")
    assert not matches("done", "done, nearly")
    assert first_missing(("a 1", "...", "c"), "a 2\nb\nc\n") is None
    assert first_missing(("c", "a 1"), "a 2\nb\nc\n") == "a 1"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page, request, tmp_path, session_home):
    desk, said = tmp_path / "desk", tmp_path / "said"
    desk.mkdir()
    said.mkdir()
    head = re.match(r"---\ndata: (\w+)\n---\n", page.read_text(encoding="utf-8"))
    if head:
        real_rows(request.getfixturevalue("shared_data"), head[1], desk / "data")
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    steps = typed(page)
    environment = {**tiny_runs.environment(session_home), "HOME": str(desk)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    code = script(steps, said).replace("8117", port)
    done = subprocess.run(
        ["bash", "-c", code], cwd=desk, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    output = {int(file.stem): file.read_text(encoding="utf-8") for file in said.glob("*.txt")}
    failed = said / "failed"
    if failed.exists():
        number = int(failed.read_text())
        pytest.fail(f"{page.name}, line {steps[number].line}: {steps[number].text}\n{output[number][-3000:]}")
    assert done.returncode == 0, done.stderr
    missing = [
        f"{page.name}, line {step.line}: no line {line!r} after {step.text}\n{output[number][-3000:]}"
        for number, step in enumerate(steps)
        if (line := first_missing(step.says, output[number])) is not None
    ]
    assert not missing, "\n".join(missing)
