"""Which lever moves when: the autopilot driven by readings of memory, as between the steps of a run."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from honeclip.stepping import autopilot
from honeclip.stepping.autopilot import EMERGENCY_SLICE, QUIET_STEPS, ROOM, Autopilot
from honeclip.stepping.plan import Plan

EACH, STEP = 100, 1000
PLAN = Plan((8, 16), (8, 4), False, 0, EACH, STEP, 5000, 0.1, "planned")
"""Eight kept graphs of 100 bytes in a step of 1000."""


def pilot(**other) -> Autopilot:
    return Autopilot(PLAN, PLAN, **other)


def driven(one: Autopilot, readings: list[int], swapped: bool = False) -> list[Autopilot]:
    """The states after each reading."""
    found = []
    for available in readings:
        one, _ = autopilot.after(one, 0, available, swapped)
        found.append(one)
    return found


def rung(plan: Plan) -> tuple:
    return plan.micro_batch, plan.recompute, plan.keep


def test_with_room_nothing_moves():
    one, why = autopilot.after(pilot(), 0, STEP)
    assert (one.plan, why) == (PLAN, "")
    assert {state.plan for state in driven(pilot(), [10**12] * 100)} == {PLAN}


def test_only_as_many_graphs_go_as_do_not_fit():
    one, why = autopilot.after(pilot(), 0, STEP - 250)
    assert one.plan.keep == (5, 2), "three graphs of the images, and the same share of the texts"
    assert one.plan.step_bytes <= STEP - 250
    assert rung(one.plan)[:2] == rung(PLAN)[:2]
    assert why == one.plan.reason
    assert "0.00 GB are free" in why
    assert "micro-batch 8, 5 of them with their graphs kept" in why


def test_pressure_takes_graphs_first_then_blocks_then_pieces():
    found = [rung(state.plan) for state in driven(pilot(), [1] * 6)]
    assert found[0] == ((8, 16), False, (0, 0))
    assert found[1] == ((8, 16), True, (0, 0))
    assert found[2:] == [((4, 8), True, (0, 0)), ((2, 4), True, (0, 0)), ((1, 2), True, (0, 0)), ((1, 1), True, (0, 0))]
    last = driven(pilot(), [1] * 6)[-1]
    assert autopilot.after(last, 0, 1) == (replace(last, quiet=0), ""), "there is nothing below"


def test_each_lever_is_reckoned_to_need_its_share():
    """1000 bytes, of which seven graphs beside that of every step take 700: what is left is in proportion to the pieces."""
    bare, recomputed = (state.plan for state in driven(pilot(), [200] * 2))
    assert rung(bare) == ((8, 16), False, (0, 0))
    assert (bare.step_bytes, bare.graph_bytes) == (300, 100)
    assert rung(recomputed) == ((8, 16), True, (0, 0))
    assert (recomputed.step_bytes, recomputed.graph_bytes) == (150, 100)
    assert {state.plan for state in driven(pilot(), [200] * 50)[1:]} == {recomputed}, "that fits"
    halved, _ = autopilot.after(pilot(), 1, 10**12)
    assert (halved.plan.step_bytes, halved.plan.graph_bytes) == (150, 50)


def test_swapping_takes_half_also_where_a_step_just_fits():
    one, _ = autopilot.after(pilot(), 0, STEP, swapped=True)
    assert one.plan.keep == (4, 2)


def test_swapping_takes_half_of_the_graphs_each_time_and_no_pieces():
    kept = [state.plan.keep[0] for state in driven(pilot(), [10**12] * 8, swapped=True)]
    assert kept == [4, 2, 1, 0, 0, 0, 0, 0]
    last = driven(pilot(), [10**12] * 8, swapped=True)[-1].plan
    assert (last.recompute, last.micro_batch) == (True, PLAN.micro_batch)
    assert "the machine swaps" in autopilot.after(pilot(), 0, 10**12, True)[1]


def test_what_the_user_fixed_is_not_moved():
    fixed = [rung(state.plan) for state in driven(pilot(moves_keep=False), [1] * 3)]
    assert fixed == [((8, 16), True, (8, 4)), ((4, 8), True, (8, 4)), ((2, 4), True, (8, 4))]
    fixed = [rung(state.plan) for state in driven(pilot(moves_recompute=False), [1] * 3)]
    assert fixed == [((8, 16), False, (0, 0)), ((4, 8), False, (0, 0)), ((2, 4), False, (0, 0))]


def test_it_comes_back_in_the_reverse_order_and_to_the_plan_itself():
    low = driven(pilot(), [1] * 6)[-1]
    states = [low, *driven(low, [10**12] * (QUIET_STEPS * 12))]
    changes = [b for a, b in pairwise(states) if a.plan != b.plan]
    climbed = [rung(state.plan) for state in changes]
    assert climbed[:4] == [
        ((2, 2), True, (0, 0)),
        ((4, 4), True, (0, 0)),
        ((8, 8), True, (0, 0)),
        ((8, 16), True, (0, 0)),
    ]
    assert climbed[4] == ((8, 16), False, (0, 0))
    kept = [keep for _, _, keep in climbed[5:]]
    assert kept == [(2, 1), (4, 2), (6, 3), (8, 4)]
    assert rung(states[-1].plan) == rung(PLAN)
    for state in states:
        assert state.plan.micro_batch <= PLAN.micro_batch
        assert state.plan.keep <= PLAN.keep
    places = [number for number, (a, b) in enumerate(pairwise(states), 1) if a.plan != b.plan]
    assert places == [QUIET_STEPS * (number + 1) for number in range(len(places))], "each waits for a quiet while"
    assert "are free for 20 steps" in changes[0].plan.reason


@pytest.mark.parametrize("available", range(0, STEP + 1, 50))
def test_at_no_border_does_it_flap(available):
    """With a reading that stays, the levers come to rest, and never come back what was just taken."""
    states = driven(pilot(), [available] * (QUIET_STEPS * 10))
    changes = [(a.plan, b.plan) for a, b in pairwise([pilot(), *states]) if a.plan != b.plan]
    assert all(b.keep <= a.keep and b.micro_batch <= a.micro_batch for a, b in changes), "only ever down"
    assert len({state.plan for state in states[10:]}) == 1
    assert states[-1].plan.step_bytes <= available or states[-1].plan.micro_batch == (1, 1)


def test_growing_asks_for_more_room_than_lowering_left():
    low, _ = autopilot.after(pilot(), 0, STEP - 200)
    assert (low.plan.keep, low.plan.step_bytes) == ((6, 3), STEP - 200)
    enough = int(ROOM * STEP)
    assert {state.plan for state in driven(low, [enough - 1] * 100)} == {low.plan}
    grown = driven(low, [enough] * QUIET_STEPS)
    assert [state.plan.keep for state in grown] == [(6, 3)] * (QUIET_STEPS - 1) + [(8, 4)]


def test_one_scarce_reading_begins_the_quiet_while_anew():
    low, _ = autopilot.after(pilot(), 0, STEP - 200)
    almost = driven(low, [10**12] * (QUIET_STEPS - 1))[-1]
    scarce, _ = autopilot.after(almost, 0, STEP - 200)
    assert scarce.quiet == 0
    assert {state.plan.keep for state in driven(scarce, [10**12] * (QUIET_STEPS - 1))} == {(6, 3)}


@pytest.mark.parametrize("retries", [1, 2, 5])
def test_out_of_memory_halves_the_pieces_and_doubles_the_patience(retries):
    one, why = autopilot.after(pilot(), retries, 10**12)
    sizes = tuple(max(1, size // 2**retries) for size in PLAN.micro_batch)
    assert rung(one.plan) == (sizes, False, (0, 0))
    assert one.patience == 2 * QUIET_STEPS
    assert why.startswith("out of memory in a step: ")
    still = driven(one, [10**12] * (2 * QUIET_STEPS - 1))
    assert {state.plan for state in still} == {one.plan}
    assert driven(one, [10**12] * 2 * QUIET_STEPS)[-1].plan.micro_batch > sizes
    again, _ = autopilot.after(one, 1, 10**12)
    assert again.patience == 4 * QUIET_STEPS


def test_after_running_out_of_memory_it_grows_back_to_what_the_plan_needs_and_no_further():
    """The graphs that were given up are not counted as if they were still there."""
    one, _ = autopilot.after(pilot(), 1, 10**12)
    states = driven(one, [int(ROOM * STEP)] * (2 * QUIET_STEPS * 12))
    assert rung(states[-1].plan) == rung(PLAN)
    assert max(state.plan.step_bytes for state in states) <= STEP


def test_the_bytes_of_a_plan_that_went_down_and_came_back_are_those_of_the_plan():
    low = driven(pilot(), [1] * 6)[-1]
    back = driven(low, [10**12] * (QUIET_STEPS * 12))[-1].plan
    assert (back.step_bytes, back.graph_bytes) == (STEP, EACH)


def test_the_ladder_of_a_step_in_which_not_one_sample_fits():
    first = autopilot.escalate(pilot())
    assert first is not None
    one, why = first
    assert rung(one.plan) == ((1, 1), True, (0, 0))
    assert why.startswith("out of memory with one sample at a time: micro-batch 1")
    assert "blocks recomputed" in why
    second = autopilot.escalate(one)
    assert second is not None
    two, why = second
    assert (two.plan.recompute, two.plan.attention_slice) == (True, EMERGENCY_SLICE)
    assert f"attention in slices of {EMERGENCY_SLICE}" in why
    assert autopilot.escalate(two) is None
    assert {state.plan for state in driven(two, [10**12] * 200)} == {two.plan}, "what was planned is out of reach"


def test_the_ladder_goes_on_from_where_the_plan_stands():
    again = replace(PLAN, recompute=True)
    found = autopilot.escalate(Autopilot(again, again))
    assert found is not None
    assert (found[0].plan.recompute, found[0].plan.attention_slice) == (True, EMERGENCY_SLICE)
    sliced = replace(PLAN, recompute=True, attention_slice=16)
    assert autopilot.escalate(Autopilot(sliced, sliced)) is None
