"""Where words go: results to standard output, everything said on the way to standard error.

So `honeclip evaluate ... --json | jq` works, and a log of standard error is a log of the run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from honeclip.monitoring.events import plain

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


def say(text: str) -> None:
    """Prints a line on standard error: what is being done, warnings, where a file was written."""
    print(text, file=sys.stderr, flush=True)
