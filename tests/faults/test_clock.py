"""The clock of the machine is set back by an hour in the middle of a run."""

from __future__ import annotations

import json
from itertools import pairwise

from conftest import bits

from honeclip.monitoring import events, milestones


def negative(value: object) -> list[object]:
    """Numbers below zero in what is a duration or a speed."""
    if isinstance(value, dict):
        return [one for key, item in value.items() for one in negative(item)]
    return [value] if isinstance(value, int | float) and value < 0 else []


def test_a_clock_that_is_set_back_changes_no_bit_and_no_duration(warm, new, whole, tmp_path):
    out = tmp_path / "run"
    clock = {"folder": str(out), "at": ["step-000006.partial"], "back_s": 3600}
    done = warm.start(*new(out), clock=clock).done()
    assert done.code == 0, done.err
    assert bits(out) == bits(whole)
    told = events.read(out / "events.jsonl")
    times = [one["time"] for one in told]
    assert sum(late < early - 3000 for early, late in pairwise(times)) == 1, "it was set back once"
    for one in told:
        spent = {key: one.get(key) for key in ("seconds", "samples_per_second", "busy", "flops_per_second")}
        assert not negative(spent), one
    seen = milestones.Seen()
    for one in told:
        seen, _ = milestones.after(seen, one)
        assert seen.pause_s >= 0
        assert all(duration >= 0 for duration in seen.durations_s)
    assert json.loads(done.out)["samples_per_second"] > 0
    checked = json.loads(warm.start("check", out, "--json").done().out)
    usual = json.loads(warm.start("check", whole, "--json").done().out)
    assert checked["passed"]
    assert [one["rule"] for one in checked["sick"]] == [one["rule"] for one in usual["sick"]]
