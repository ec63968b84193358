"""A file of what figures must reach, and whether they do.

    [at_least]
    "images.ratio_to_bound" = 0.9
    [at_most]
    "images.clients.32.p99_ms" = 900

A name is that of a figure as it stands in the JSON, with a dot between the levels.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from honeclip.errors import BadInput

BOUNDS = ("at_least", "at_most")


def read(path: Path) -> dict[str, dict[str, float]]:
    """Bound -> name -> limit.

    Raises:
        BadInput: no such file, no TOML, another table, or a limit that is no number.
    """
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise BadInput(f"--slo {path}: {getattr(error, 'strerror', None) or error}") from None
    limits = [(name, limit) for table in found.values() if isinstance(table, dict) for name, limit in table.items()]
    unknown = sorted(name for name, table in found.items() if name not in BOUNDS or not isinstance(table, dict))
    wrong = [name for name, limit in limits if isinstance(limit, bool) or not isinstance(limit, int | float)]
    if unknown or wrong or not limits:
        raise BadInput(
            f"--slo {path}: {', '.join([*unknown, *wrong]) or 'it is empty'}: write tables [at_least] and [at_most] with a "
            'number for each figure, such as "images.ratio_to_bound" = 0.9 (quotes, for the name has dots)'
        )
    return found


def judged(figures: Mapping[str, Any], limits: Mapping[str, Mapping[str, float]], origin: Path) -> dict[str, Any]:
    """Pass or fail of each limit: {"passed", "checks": [{"figure", "bound", "limit", "value", "passed"}]}.

    Raises:
        BadInput: a figure that there is not, with the nearest that there are.
    """
    known = dict(_flat(figures))
    checks = []
    for bound, some in limits.items():
        for name, limit in some.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)[:5]
                raise BadInput(f"--slo {origin}: there is no figure {name}; nearest: {', '.join(near)}")
            value = known[name]
            passed = math.isfinite(value) and (value >= limit if bound == "at_least" else value <= limit)
            checks.append({"figure": name, "bound": bound, "limit": limit, "value": value, "passed": passed})
    return {"passed": all(one["passed"] for one in checks), "checks": checks}


def _flat(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, int | float):
            yield f"{before}{name}", float(value)
