"""Watches memory between steps and moves the levers of a plan: pure functions of readings, one small state.

Under pressure fewer graphs are kept, then blocks are recomputed: neither changes a bit. Only where not even that fits, or
after a step ran out of memory, micro-batches shrink, which changes rounding and nothing else. After a quiet while with room
to spare each comes back in the reverse order, and every time that memory ran out doubles what counts as a while.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from honeclip.stepping.plan import Plan

QUIET_STEPS = 20
"""Steps in a row with room for the next lever before it is moved back."""

ROOM = 1.25
"""Room that growing asks for, in terms of what the grown step would need: what is lowered at 1 comes back at this."""

RECOMPUTED = 0.5
"""What a step needs where blocks are recomputed under pressure, as a share of what it needs without, until it is planned
anew: graphs shrink to the blocks' inputs, gradients and one block's inside stay."""

EMERGENCY_SLICE = 64
"""Queries of a slice when everything else has failed: on a ViT-L/14 at 336 px a ninth of the scores at once."""


@dataclass(frozen=True)
class Autopilot:
    """What was planned and what holds.

    Attributes:
        planned: the plan with all the memory that was counted on.
        plan: the one that holds now; it never exceeds the planned one.
        moves_keep: whether kept graphs may be moved; not where the user fixed them.
        moves_recompute: whether recomputation may be moved.
        quiet: steps since the last change with room to spare.
        patience: quiet steps that growing waits for.
    """

    planned: Plan
    plan: Plan
    moves_keep: bool = True
    moves_recompute: bool = True
    quiet: int = 0
    patience: int = QUIET_STEPS


def after(pilot: Autopilot, retries: int, available_bytes: int, swapped: bool = False) -> tuple[Autopilot, str]:
    """The state for the next step, and why the plan changed ("" where it did not).

    Args:
        pilot: as it was for the step that is done.
        retries: how often the step halved its micro-batches after running out of memory.
        available_bytes: free for this process now, between two steps.
        swapped: whether the machine has begun to swap since the last step.
    """
    if retries:
        return _lowered(replace(pilot, patience=2 * pilot.patience), _halved(pilot, retries), "out of memory in a step")
    if swapped or available_bytes < pilot.plan.step_bytes:
        why = "the machine swaps" if swapped else f"{available_bytes / 1e9:.2f} GB are free"
        return _lowered(pilot, _smaller(pilot, available_bytes), why)
    grown = _larger(pilot)
    if grown is None or available_bytes < ROOM * grown.step_bytes:
        return replace(pilot, quiet=0), ""
    if pilot.quiet + 1 < pilot.patience:
        return replace(pilot, quiet=pilot.quiet + 1), ""
    changed = replace(
        grown, reason=f"{available_bytes / 1e9:.2f} GB are free for {pilot.patience} steps: {_words(grown)}"
    )
    return replace(pilot, plan=changed, quiet=0), changed.reason


def escalate(pilot: Autopilot) -> tuple[Autopilot, str] | None:
    """After running out of memory with one sample at a time: recomputation, then slices, then None."""
    ones = (1,) * len(pilot.plan.micro_batch)
    plan = _at(pilot, replace(pilot.plan, micro_batch=ones, keep=(0,) * len(pilot.plan.keep)))
    if not plan.recompute:
        plan = replace(plan, recompute=True)
    elif not plan.attention_slice:
        plan = replace(plan, attention_slice=EMERGENCY_SLICE)
    else:
        return None
    # what was planned is out of reach: nothing grows back to it
    pilot = replace(pilot, planned=plan)
    return _lowered(pilot, plan, "out of memory with one sample at a time")


def _lowered(pilot: Autopilot, plan: Plan, why: str) -> tuple[Autopilot, str]:
    if plan == pilot.plan:
        return replace(pilot, quiet=0), ""
    changed = replace(plan, reason=f"{why}: {_words(plan)}")
    return replace(pilot, plan=changed, quiet=0), changed.reason


def _halved(pilot: Autopilot, times: int) -> Plan:
    """The plan that a step ended with after halving its micro-batches so often."""
    plan = pilot.plan
    sizes = tuple(max(1, one // 2**times) for one in plan.micro_batch)
    return _at(pilot, replace(plan, micro_batch=sizes, keep=(0,) * len(plan.keep)))


def _smaller(pilot: Autopilot, available_bytes: int) -> Plan:
    """Fewer graphs, as many as fit; then recomputation; then smaller pieces, where a step would not fit."""
    plan = pilot.plan
    if pilot.moves_keep and any(plan.keep):
        over = plan.step_bytes - available_bytes
        fewer = -(-over // max(1, plan.graph_bytes)) if over > 0 else max(1, plan.keep[0] // 2)
        left = max(0, plan.keep[0] - fewer)
        return _at(pilot, replace(plan, keep=tuple(one * left // max(1, plan.keep[0]) for one in plan.keep)))
    if pilot.moves_recompute and not plan.recompute:
        return _at(pilot, replace(plan, recompute=True))
    if any(one > 1 for one in plan.micro_batch) and available_bytes < plan.step_bytes:
        return _at(pilot, replace(plan, micro_batch=tuple(max(1, one // 2) for one in plan.micro_batch)))
    return plan


def _larger(pilot: Autopilot) -> Plan | None:
    """The next step back towards what was planned; None where it holds already."""
    plan, planned = pilot.plan, pilot.planned
    if plan.micro_batch != planned.micro_batch:
        sizes = tuple(min(2 * a, b) for a, b in zip(plan.micro_batch, planned.micro_batch, strict=True))
        return _at(pilot, replace(plan, micro_batch=sizes))
    if plan.recompute != planned.recompute:
        return _at(pilot, replace(plan, recompute=planned.recompute))
    if plan.keep != planned.keep:
        keep = tuple(min(b, a + max(1, b // 4)) if b else 0 for a, b in zip(plan.keep, planned.keep, strict=True))
        return _at(pilot, replace(plan, keep=keep))
    return None


def _at(pilot: Autopilot, plan: Plan) -> Plan:
    """The plan with what it needs by its micro-batches and kept graphs, reckoned from what was planned, so that a plan
    that went down and came back needs what it did."""
    planned = pilot.planned
    share = max(new / old for new, old in zip(plan.micro_batch, planned.micro_batch, strict=True))
    rest = planned.step_bytes - planned.graph_bytes * _more_graphs(planned)
    needs = share * (max(0, rest) + planned.graph_bytes * _more_graphs(plan))
    needs *= RECOMPUTED if plan.recompute and not planned.recompute else 1.0
    return replace(plan, graph_bytes=int(planned.graph_bytes * share), step_bytes=int(needs))


def _more_graphs(plan: Plan) -> int:
    """Graphs that are there at once beside the one that each step has, kept or built again."""
    return max(0, plan.keep[0] - 1)


def _words(plan: Plan) -> str:
    again = "".join(f", {one}" for one in plan.levers.words)
    return f"micro-batch {plan.micro_batch[0]}, {plan.keep[0]} of them with their graphs kept{again}"
