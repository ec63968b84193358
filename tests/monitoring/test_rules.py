"""What looks sick: each rule on a run that was driven into it, all of them on healthy runs, and on what a run does not tell."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from honeclip.monitoring import events
from honeclip.monitoring.reader import Reader
from honeclip.monitoring.rules import RULES, findings

RECORDED = Path(__file__).parent / "sick"
RULE_OF = {
    "collapse": "collapse",
    "diverging": "diverging",
    "scale_pinned": "scale pinned",
    "overfitting": "overfitting",
    "plateau": "plateau",
    "forgetting": "forgetting",
    "leaking": "leaking",
    "data_bound": "data-bound",
    "thrashing": "thrashing",
}
HEALTHY = sorted(path.stem for path in RECORDED.glob("healthy_*.jsonl"))


def recorded(name: str) -> list[dict]:
    found = events.read(RECORDED / f"{name}.jsonl")
    assert found, f"{name} is recorded: tests/monitoring/sick/README.md"
    return found


def rules(told: list[dict]) -> list[str]:
    return [one.rule for one in findings(told)]


def test_there_is_a_sick_run_for_each_rule_and_there_are_five_healthy_ones():
    assert set(RULE_OF) == {rule.__name__ for rule in RULES}
    assert len(HEALTHY) >= 5


@pytest.mark.parametrize("name", RULE_OF)
def test_a_rule_fires_on_its_sick_run(name):
    found = {one.rule: one for one in findings(recorded(name))}
    assert RULE_OF[name] in found
    one = found[RULE_OF[name]]
    assert any(digit.isdigit() for digit in one.says), "it says the figures"
    assert one.advice
    assert one.to_json() == {"rule": one.rule, "says": one.says, "try": one.advice, "step": one.step}


STRETCHED = 20_000
"""Steps of a run of which a dashboard keeps every twentieth or so."""


def thinned(told: list[dict], folder: Path) -> list[dict]:
    """A recorded run as if it had taken 20,000 steps, as a dashboard keeps it. A step's figures are those of a recorded one
    near its place, not the same for neighbours, so that losses jitter."""
    steps = [one for one in told if one["event"] == "step"]
    factor = STRETCHED / steps[-1]["step"]
    lines = [{**one, "step": round(one.get("step", 0) * factor)} for one in told if one["event"] != "step"]
    for number in range(1, STRETCHED + 1):
        place = (number - 1) * len(steps) // STRETCHED + number * 7919 % 3 - 1
        lines.append({**steps[min(max(place, 0), len(steps) - 1)], "step": number, "time": float(number)})
    lines.sort(key=lambda one: (one["step"], one["event"] != "step"))
    log = folder / "events.jsonl"
    log.write_text("".join(json.dumps(one) + "\n" for one in lines))
    reader = Reader(log)
    while reader.read():
        pass
    assert reader.seen.steps.count == STRETCHED
    kept = reader.seen.events()
    assert 500 < len([one for one in kept if one["event"] == "step"]) <= 1025
    return kept


@pytest.mark.parametrize("name", RULE_OF)
def test_a_rule_fires_on_its_sick_run_where_only_some_steps_of_many_are_kept(name, tmp_path):
    assert RULE_OF[name] in rules(thinned(recorded(name), tmp_path))


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_looks_sick_in_a_healthy_run_where_only_some_steps_of_many_are_kept(name, tmp_path):
    """But that it could have been shorter, which is true of twenty thousand steps with ten evaluations."""
    assert set(rules(thinned(recorded(name), tmp_path))) <= {"plateau"}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_looks_sick_in_a_healthy_run(name):
    told = recorded(name)
    assert len([one for one in told if one["event"] == "step"]) >= 60
    assert findings(told) == []


def test_pictures_that_are_nearly_those_of_train_leak_as_well():
    """Where no two have equal pixels."""
    told = recorded("leaking_near")
    (data,) = [one for one in told if one["event"] == "data"]
    assert (data["leaks"]["pixels"], data["leaks"]["group"]) == (0, 0)
    found = {one.rule: one for one in findings(told)}["leaking"]
    assert f"{data['leaks']['near']} of {data['leaks']['near_of']} that were compared" in found.says


@pytest.mark.parametrize(("near", "sick"), [(15, False), (16, True)])
def test_a_few_near_duplicates_of_many_pictures_are_no_leak(near, sick):
    leaks = {"pixels": 0, "group": 0, "near": near, "near_of": 300}
    assert (rules([{"event": "data", "step": 0, "leaks": leaks}]) == ["leaking"]) == sick


@pytest.mark.parametrize("name", HEALTHY)
def test_nor_at_any_moment_of_it(name):
    """The dashboard asks while a run goes on."""
    told = recorded(name)
    for stop in range(0, len(told), 7):
        assert findings(told[:stop]) == []


@pytest.mark.parametrize("name", [*RULE_OF, HEALTHY[0] if HEALTHY else "none"])
@pytest.mark.parametrize(
    "without", ["seconds", "health", "metrics", "pairs", "logit_scale", "time", "retries", "size_px"]
)
def test_fields_that_an_older_run_does_not_tell_are_no_error(name, without):
    told = [{key: value for key, value in one.items() if key != without} for one in recorded(name)]
    assert set(rules(told)) <= set(rules(recorded(name)))


@pytest.mark.parametrize("name", RULE_OF)
def test_nulls_and_what_a_newer_version_writes_are_no_error(name):
    told = copy.deepcopy(recorded(name))
    for one in told[::5]:
        for key in [key for key in one if key not in ("event", "step")]:
            one[key] = None
    told += [{"event": "of a newer version", "what": [1]}, {"no": "event"}]
    findings(told)


def test_a_run_that_has_told_nothing_is_not_sick():
    assert findings([]) == []
    assert findings([{"event": "data", "leaks": {"pixels": 0, "group": 0}}]) == []


# --- near the thresholds, by hand ----------------------------------------------------------------------------------


def step(number: int, **fields) -> dict:
    return {"event": "step", "step": number, "loss": 1.0, "pairs": 64, **fields}


def look(number: int, score: float, **fields) -> dict:
    return {
        "event": "evaluation",
        "step": number,
        "time": float(number),
        "score": score,
        "metrics": {"pairs": 400},
        **fields,
    }


@pytest.mark.parametrize(("wait", "sick"), [(0.2, False), (0.4, True)])
def test_data_bound_is_the_share_of_the_time_that_was_waited(wait, sick):
    told = [
        step(n, seconds={"wait": wait, "first": 0.4 - wait / 4, "second": 0.6 - 3 * wait / 4}) for n in range(1, 60)
    ]
    assert (rules(told) == ["data-bound"]) == sick


def test_the_first_batch_of_a_run_is_no_waiting():
    told = [step(n, seconds={"wait": 100.0 if n == 1 else 0.0, "first": 1.0}) for n in range(1, 60)]
    assert rules(told) == []


def test_a_scale_that_was_at_its_limit_from_the_start_is_the_models_own():
    assert rules([step(n, logit_scale=100.0) for n in range(1, 80)]) == []
    arrived = [step(n, logit_scale=min(100.0, 60.0 + n)) for n in range(1, 80)]
    assert rules(arrived) == ["scale pinned"]
    assert findings(arrived)[0].step == 40
    assert rules(arrived[:55]) == []


def test_a_larger_batch_has_a_larger_loss_and_that_is_no_diverging():
    falls = [step(n, loss=4.0 / n) for n in range(1, 100)]
    assert rules(falls + [step(n, loss=2.0, pairs=512) for n in range(100, 200)]) == []
    assert rules(falls + [step(n, loss=2.0) for n in range(100, 200)]) == ["diverging"]


def test_so_has_another_size_of_the_images():
    falls = [step(n, loss=4.0 / n) for n in range(1, 100)]
    stage = {"event": "stage", "step": 99, "size_px": 224}
    assert rules([*falls, stage, *(step(n, loss=2.0) for n in range(100, 200))]) == []


def test_a_scaler_that_skips_now_and_then_is_well_and_one_that_skips_a_fifth_is_not():
    assert rules([step(n, skipped=n % 50 == 0) for n in range(1, 150)]) == []
    assert rules([step(n, skipped=n % 5 == 0) for n in range(1, 150)]) == ["diverging"]


def test_what_a_run_took_back_is_not_looked_at():
    risen = [step(n, loss=4.0 / n if n < 100 else 2.0) for n in range(1, 200)]
    back = [*risen, {"event": "rewind", "step": 99, "from_step": 199}, *(step(n, loss=0.03) for n in range(100, 200))]
    assert rules(risen) == ["diverging"]
    assert rules(back) == []


def test_scores_at_another_size_are_not_compared():
    """Overfitting at one size would be a better score at the size before."""
    steps = [step(n, loss=1 / n) for n in range(1, 101)]
    looks = [look(n, 0.9 if n <= 50 else 0.6, size_px=160 if n <= 50 else 224) for n in range(10, 101, 10)]
    assert rules(steps + looks) == []
    assert rules(steps + [{**one, "size_px": 224} for one in looks]) == ["overfitting"]


def test_a_score_that_falls_within_its_error_is_no_overfitting():
    steps = [step(n, loss=1 / n) for n in range(1, 101)]
    few = [look(n, 0.70 if n == 30 else 0.66, metrics={"pairs": 60}) for n in range(10, 101, 10)]
    many = [{**one, "metrics": {"pairs": 6000}} for one in few]
    assert rules(steps + few) == []
    assert rules(steps + many) == ["overfitting"]


def test_the_plateau_names_a_length_that_would_have_done():
    looks = [look(n, min(0.8, n / 125)) for n in range(0, 601, 50)]
    (found,) = findings(looks)
    assert (found.rule, found.step) == ("plateau", 100)
    assert "train.length=150" in found.advice
    assert rules([one for one in looks if one["step"] <= 250]) == []


def test_a_plan_that_goes_down_and_comes_back_once_is_no_thrashing():
    def plan(number: int, kept: int) -> dict:
        return {"event": "memory", "step": number, "micro_batch": 8, "kept": kept, "recompute": False}

    steps = [step(n, retries=0) for n in range(1, 100)]
    assert rules([*steps, plan(10, 2), plan(20, 1), plan(50, 2), plan(70, 4)]) == []
    assert rules([*steps, plan(10, 2), plan(20, 1), plan(50, 2), plan(70, 1)]) == []
    assert rules([*steps, plan(10, 2), plan(20, 1), plan(50, 2), plan(70, 1), plan(90, 2)]) == ["thrashing"]
    assert rules([*steps, *(step(n, retries=1) for n in range(100, 103))]) == ["thrashing"]
