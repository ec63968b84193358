"""Contestants in rounds, each a process of its own that prints its figures as JSON in its last line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def said(name: str, command: Sequence[str]) -> str:
    """What a command prints; ends the benchmark where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr[-4000:]}\n{name} failed")
    return done.stdout


def in_rounds(commands: Mapping[str, Sequence[str]], numbers: range) -> Iterator[dict[str, Any]]:
    """The figures of each contestant, round by round, every second round in the other order; also said on standard error.

    Args:
        commands: of the contestants, by name.
        numbers: of the rounds, for people.
    """
    for turn, number in enumerate(numbers):
        found = {}
        for name in list(commands) if turn % 2 == 0 else list(commands)[::-1]:
            found[name] = json.loads(said(name, commands[name]).splitlines()[-1])
            print(f"round {number}, {name}: {found[name]}", file=sys.stderr, flush=True)
        yield found
