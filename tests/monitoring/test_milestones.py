"""Milestones over events: each once, at its step, in words with figures; whatever else a file holds is passed over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from honeclip import notices
from honeclip.monitoring import milestones
from honeclip.monitoring.milestones import Milestone, Seen


def step(number: int, time: float, **more: Any) -> dict[str, Any]:
    return {"event": "step", "step": number, "time": time, "loss": 1.0, "micro_batch": 64, "retries": 0, **more}


def evaluation(number: int, score: float, best: bool | None = None, **more: Any) -> dict[str, Any]:
    said = {} if best is None else {"best": best}
    shape = {"event": "evaluation", "step": number, "words": "mean of both R@10", "size_px": 224}
    return {**shape, "time": 100.0 + number, "score": score, **said, **more}


def both(value: float) -> dict[str, Any]:
    return {"retrieval": {way: {"R@10": {"value": value}} for way in notices.DIRECTIONS}}


def told(events: Iterable[dict[str, Any]], *targets: str, seen: Seen | None = None) -> tuple[Seen, list[Milestone]]:
    seen, found = seen or Seen(), []
    for event in events:
        seen, new = milestones.after(seen, event, [notices.target(one) for one in targets])
        found += new
    return seen, found


def names(found: list[Milestone]) -> list[tuple[str, int]]:
    return [(one.name, one.step) for one in found]


def test_the_first_evaluation_is_the_first_after_a_step_and_says_what_the_start_had():
    _, found = told([evaluation(0, 0.1), step(4, 1.0), evaluation(4, 0.25, True), evaluation(8, 0.3, True)])
    assert names(found) == [("first", 4), ("best", 4), ("best", 8)]
    assert (
        found[0].words
        == "first evaluation, after step 4: mean of both R@10 on val is 0.250 instead of 0.100 at the start"
    )
    assert found[2].words == "new best after step 8: mean of both R@10 on val is 0.300 instead of 0.250 of step 4"
    assert found[2].time == 108.0


def test_without_an_evaluation_of_the_start_the_first_has_nothing_to_compare_with():
    _, found = told([evaluation(4, 0.25, True)])
    assert found[1].words == "new best after step 4: mean of both R@10 on val is 0.250"


def test_a_plateau_is_told_when_it_is_one_and_again_only_after_a_new_best():
    flags = [True, False, False, False, False, True, False, False, False]
    _, found = told(evaluation(n, 0.5, best) for n, best in enumerate(flags, 1))
    assert [one for one in names(found) if one[0] == "plateau"] == [("plateau", 4), ("plateau", 9)]
    assert milestones.PLATEAU_EVALUATIONS == 3
    assert "; the best is 0.500 of step 1" in next(one.words for one in found if one.name == "plateau")


def test_scores_of_another_size_are_not_compared_and_make_no_plateau():
    events = [evaluation(1, 0.5, True), evaluation(2, 0.4, False), evaluation(3, 0.4, False)]
    events += [evaluation(4, 0.2, True, size_px=288), evaluation(5, 0.1, False, size_px=288)]
    _, found = told(events)
    assert names(found)[-1] == ("best", 4)
    assert found[-1].words.endswith("on val is 0.200")


def test_a_target_is_told_once_when_it_is_reached():
    values = [0.5, 0.61, 0.5, 0.7]
    events = [evaluation(n, value, False, metrics=both(value)) for n, value in enumerate(values, 1)]
    seen, found = told(events, "R@10>0.6", "accuracy>0.1", "score>=0.7")
    assert [one for one in names(found) if ">" in one[0]] == [("R@10>0.6", 2), ("score>=0.7", 4)]
    assert "R@10 is 0.610 on val" in next(one.words for one in found if one.name == "R@10>0.6")
    assert [str(one) for one in seen.missing] == ["accuracy>0.1"], "this val split has no labels"


def test_a_target_that_the_start_has_reached_is_told_with_the_first_evaluation():
    _, found = told([evaluation(0, 0.9), evaluation(2, 0.9, True)], "score>0.8")
    assert ("score>0.8", 2) in names(found)


def test_out_of_memory_is_told_where_pieces_get_smaller_than_ever():
    events = [step(1, 1.0), step(2, 2.0, retries=1, micro_batch=32)]
    events += [{"event": "memory", "step": 2, "reason": "out of memory in a step: micro-batch 32", "micro_batch": 32}]
    events += [
        {"event": "memory", "step": 9, "reason": "9.00 GB are free for 40 steps: micro-batch 64", "micro_batch": 64}
    ]
    events += [step(10, 10.0, retries=1, micro_batch=32), step(11, 11.0, retries=2, micro_batch=8), step(12, 12.0)]
    reason = "out of memory with one sample at a time: micro-batch 1"
    events += [{"event": "memory", "step": 12, "reason": reason, "micro_batch": 1}]
    _, found = told(events)
    assert names(found) == [("memory", 2), ("memory", 11), ("memory", 12)]
    assert "step 2 ran out of memory and was done again with micro-batches of 32" in found[0].words


@pytest.mark.parametrize("status", ["done", "failed", "interrupted"])
def test_an_end_says_how_and_why(status):
    _, found = told([step(7, 1.0), {"event": "end", "time": 2.0, "status": status, "words": "because"}])
    assert names(found) == [(status, 7)]
    assert found[0].words == f"{status} after step 7: because"


def test_a_second_end_at_the_same_step_is_another_one_and_a_repeated_best_is_not():
    ends = [{"event": "end", "time": time, "status": "failed"} for time in (1.0, 2.0)]
    first, second = (told([step(7, 0.5), end])[1][0] for end in ends)
    assert first.key != second.key
    again = [evaluation(4, 0.5, True, time=time) for time in (1.0, 2.0)]
    assert told(again[:1])[1][1].key == told(again[1:])[1][1].key


def steady(seconds: float, count: int = 50) -> list[dict[str, Any]]:
    return [step(n, n * seconds) for n in range(1, count + 1)]


@pytest.mark.parametrize(
    ("seconds", "limit"), [(60.0, milestones.STALLED_MEDIANS * 60.0), (0.01, milestones.STALLED_LEAST_S)]
)
def test_a_run_has_stalled_after_many_times_its_step_but_never_at_once(seconds, limit):
    seen, _ = told(steady(seconds))
    assert milestones.stalled(seen, limit * 0.99) is None
    found = milestones.stalled(seen, limit * 1.01)
    assert found is not None
    assert (found.name, found.step) == ("stalled", 50)
    assert f"a step took {seconds:.2g} s" in found.words


def test_long_evaluations_are_waited_for_as_they_were_before():
    events = steady(1.0)
    events += [evaluation(50, 0.5, True, time=50.0 + 400.0), step(51, 451.0)]
    seen, _ = told(events)
    assert milestones.stalled(seen, 1100.0) is None
    assert milestones.stalled(seen, milestones.STALLED_PAUSES * 400.0 + 1) is not None


def test_a_machine_that_slept_does_not_make_the_run_be_waited_for_as_long():
    seen, _ = told([*steady(1.0), step(51, 50_000.0), step(52, 50_001.0), step(53, 4.0), step(54, 5.0)])
    assert milestones.stalled(seen, milestones.STALLED_LEAST_S + 1) is not None
    assert min(seen.durations_s) > 0, "a clock that is set back makes no step of negative length"


def test_nothing_stalls_before_the_first_steps_and_after_the_last():
    nothing, _ = told([evaluation(0, 0.1), {"event": "stage", "step": 0, "time": 1.0}])
    one, _ = told([step(1, 1.0)])
    finishing, _ = told([*steady(1.0), {"event": "finishing", "step": 50, "time": 51.0}])
    ended, _ = told([*steady(1.0), {"event": "end", "time": 51.0, "status": "interrupted"}])
    assert [milestones.patience_s(seen) for seen in (nothing, one, finishing, ended)] == [None] * 4
    going_on, _ = told([step(51, 60.0)], seen=ended)
    assert milestones.patience_s(going_on) == milestones.STALLED_LEAST_S


def test_what_is_unknown_or_of_another_kind_is_passed_over():
    seen, _ = told(steady(1.0))
    strange: list[dict[str, Any]] = [
        {},
        {"event": "of a newer version", "step": 99, "time": 60.0},
        {"event": 7},
        {"event": "step", "step": None, "time": "noon"},
        {"event": "evaluation", "step": 60, "score": None, "best": True, "metrics": None},
        {"event": "end", "status": "paused"},
        {"event": "memory", "reason": 5},
    ]
    after, found = told(strange, "R@10>0.6", seen=seen)
    assert names(found) == [("first", 60)]
    assert found[0].words == "first evaluation, after step 60: val was evaluated"
    assert replace(after, waits=True).durations_s == seen.durations_s
