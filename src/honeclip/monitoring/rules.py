"""What looks sick in a run, in words, with the setting to try: rules over its events, documented in docs/watching.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that looks sick.

    Attributes:
        rule: its name in docs/watching.md, such as "collapse".
        says: what is wrong, in a sentence with the figures that it was seen in.
        advice: which setting to try, in a sentence.
        step: the step from which on it was seen.
    """

    rule: str
    says: str
    advice: str
    step: int = 0

    def to_json(self) -> dict[str, Any]:
        """As `check --json` lists it under "sick"."""
        return {"rule": self.rule, "says": self.says, "try": self.advice, "step": self.step}


def findings(events: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Everything that looks sick in a run, in the order of the rules; [] where nothing does.

    Args:
        events: of events.jsonl in their order, as `monitoring.events.read` gives them. Fields that older runs do not write
            are missing, and a rule that needs them says nothing.
    """
    return []
