"""What looks sick in what a run works with: rules over its data and its machine. docs/watching.md has the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from honeclip.monitoring.finding import Event, Finding, Told, is_number

WAITING, LATELY, LEAST_STEPS = 0.3, 200, 20
"""Share of the last steps' time that was spent waiting for data, of how many, and how many there must be."""


def data_bound(told: Told) -> Finding | None:
    """The device waits for pictures."""
    last = [one for one in told.steps[-LATELY:] if isinstance(one.get("seconds"), Mapping) and "wait" in one["seconds"]]
    last = last[1:]  # the first batch of a stage has nobody who made it meanwhile
    if len(last) < LEAST_STEPS:
        return None
    waited = sum(one["seconds"]["wait"] or 0.0 for one in last)
    share = waited / max(sum(sum(value or 0.0 for value in one["seconds"].values()) for one in last), 1e-9)
    if share <= WAITING:
        return None
    return Finding(
        "data-bound",
        f"{share:.0%} of the last {len(last)} steps' time went into waiting for pictures ({waited / len(last):.2g} s a step)",
        "more data.workers (each decodes on a core of its own); pictures no larger than the model sees them; or "
        "model.freeze=towers, which looks at each picture once",
        last[0]["step"],
    )


NEAR_SHARE = 0.05
"""Of the held-out pictures that were compared: below it near duplicates move a score by less than its interval is wide."""


def leaking(told: Told) -> Finding | None:
    """Pictures of val or test stand in train as well, or nearly, so that scores reward learning by heart."""
    data = next((one for one in told.events if one.get("event") == "data"), None)
    leaks = data.get("leaks") if data is not None else None
    if not isinstance(leaks, Mapping):
        return None
    words = {"pixels": "the same picture", "group": "the same group"}
    counted = {word: leaks[kind] for kind, word in words.items() if is_number(leaks.get(kind)) and leaks[kind] > 0}
    said = [f"{count} row{'s' if count > 1 else ''} by {word}" for word, count in counted.items()]
    near, compared = (leaks[kind] if is_number(leaks.get(kind)) else 0 for kind in ("near", "near_of"))
    if near > NEAR_SHARE * compared:
        said.append(f"{near} of {compared} that were compared by nearly the same picture")
    if not said:
        return None
    return Finding(
        "leaking",
        f"held-out rows stand in train as well ({', '.join(said)}): scores reward what was learned by heart",
        "`honeclip check DATA` names the rows; "
        + ("leave the split column out, and honeclip divides by content; or " if counted else "")
        + "give what belongs together one `group`",
    )


REVERSALS = 3
"""How often the plan went the other way, or a step began again. A stage plans anew, which turns it twice at most."""


def thrashing(told: Told) -> Finding | None:
    """Memory is so short now and then that the plan goes down and up again, which costs time."""
    plans = [one for one in told.events if one.get("event") == "memory"]
    retries = sum(one["retries"] for one in told.steps if is_number(one.get("retries")))
    sizes = [_room(one) for one in plans]
    ways = [now > before for before, now in pairwise(sizes) if now != before]
    turns = sum(now != before for before, now in pairwise(ways))
    if turns < REVERSALS and retries < REVERSALS:
        return None
    again = f", and {retries} times a step began again after memory ran out" if retries else ""
    return Finding(
        "thrashing",
        f"the plan of memory changed {len(plans)} times in {len(told.steps)} steps and turned round {turns} times{again}",
        "a memory.budget_gb below what is free when other programs run, or a fixed memory.micro_batch and memory.keep=0",
        (plans[0] if plans else told.steps[0])["step"],
    )


def _room(plan: Event) -> tuple[float, bool, float]:
    """What a plan takes of memory, for comparison: micro-batch, no recomputation, kept graphs."""
    return (plan.get("micro_batch") or 0, not plan.get("recompute"), plan.get("kept") or 0)
