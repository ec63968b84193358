"""An environment of its own for a peer, made by uv where it is not there, with the torch that honeclip has."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from honeclip.device.facts import versions


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """The Python of an environment with these packages.

    Args:
        folder: of the environment. One that was not finished is made anew.
        packages: as pip names them; torch is added in honeclip's version.
    """
    python, done = folder / "bin" / "python", folder / "honeclip-peer.txt"
    wanted = [*packages, f"torch=={versions()['torch'].partition('+')[0]}"]
    if not done.is_file() or done.read_text().split("\n") != wanted:
        subprocess.run(["uv", "venv", "--clear", "--python", sys.executable, folder], check=True, stdout=sys.stderr)
        # from outside of the project, whose constraints would hold for the peer too
        command = ["uv", "pip", "install", "--python", python.absolute(), *wanted]
        subprocess.run(command, check=True, stdout=sys.stderr, cwd=tempfile.gettempdir())
        done.write_text("\n".join(wanted))
    return python
