"""What looks sick in a run, in words, with the setting to try: rules over its events.

A rule is a function of the events that a run kept and gives a finding or None. Thresholds are constants beside their rule, and
docs/watching.md says where they come from. A rule that needs what a run does not tell (an older one, or one without a val
split) says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from honeclip.monitoring import learning_rules, machine_rules
from honeclip.monitoring.events import course
from honeclip.monitoring.finding import Event, Finding, Told, is_number

__all__ = ["RULES", "Finding", "findings"]

RULES: tuple[Callable[[Told], Finding | None], ...] = (
    learning_rules.collapse,
    learning_rules.diverging,
    learning_rules.scale_pinned,
    learning_rules.overfitting,
    learning_rules.plateau,
    learning_rules.forgetting,
    machine_rules.leaking,
    machine_rules.data_bound,
    machine_rules.thrashing,
)


def findings(events: Sequence[Event]) -> list[Finding]:
    """Everything that looks sick in a run, in the order of `RULES`; [] where nothing does.

    The time that it takes grows with the events, about half a second for 300,000 steps: who watches a run asks now and then.

    Args:
        events: of events.jsonl in their order, as `monitoring.events.read` gives them. Fields that older runs do not write
            are missing, and a rule that needs them says nothing.
    """
    kept = course(events)
    looks = [one for one in kept if one.get("event") == "evaluation" and is_number(one.get("score"))]
    told = Told(
        steps=[one for one in kept if one.get("event") == "step" and is_number(one.get("loss"))],
        looks=[one for one in looks if one.get("size_px") == looks[-1].get("size_px")],
        events=events,
    )
    return [found for rule in RULES if (found := rule(told)) is not None]
