"""Where words go: results to standard output, everything said on the way to standard error.

So `honeclip evaluate ... --json | jq` works, and a log of standard error is a log of the run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from honeclip.monitoring.events import plain

if TYPE_CHECKING:
    from rich.console import Console

LOG_WIDTH = 160
"""Characters of a table where nobody says how wide the paper is."""


def emit(result: Mapping[str, Any]) -> None:
    """Prints one JSON object on standard output, the only thing that a command with `--json` may print there.

    JSON knows no NaN and no infinity: they become null. Paths and numpy numbers become text and numbers.
    """
    print(json.dumps(plain(result), indent=2, allow_nan=False), flush=True)


def show(text: str) -> None:
    """Prints a result for people on standard output."""
    print(text, flush=True)


def console(*, soft_wrap: bool = False) -> Console:
    """Standard output for tables, `LOG_WIDTH` wide where it is no terminal.

    Args:
        soft_wrap: long lines are left to the terminal.
    """
    from rich.console import Console

    made = Console(highlight=False, markup=False, soft_wrap=soft_wrap)
    if not made.is_terminal:
        made.width = LOG_WIDTH
    return made


def print_figures(
    columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], *, wraps_names: bool = True
) -> None:
    """Prints a table on standard output: a name a row, and figures in columns aligned at the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=not wraps_names)
    for name in columns:
        table.add_column(name, justify="right")
    for name, cells in rows:
        table.add_row(name, *cells)
    console().print(table)


def say(text: str) -> None:
    """Prints a line on standard error: what is being done, warnings, where a file was written."""
    print(text, file=sys.stderr, flush=True)
