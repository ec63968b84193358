"""bench/regressions: what moved by more than its spread is named, the rest is not, and only --strict fails."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "bench" / "regressions"
MEMORY = "loss_memory"


@pytest.fixture(scope="module")
def regressions():
    sys.path.insert(0, str(FOLDER))
    before = {name: sys.modules.pop(name, None) for name in ("run", "ratios")}  # another bench has a run.py as well
    try:
        yield importlib.import_module("run")
    finally:
        sys.path.remove(str(FOLDER))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


@pytest.fixture
def asked(regressions, monkeypatch, capsys, tmp_path):
    """Runs the script with a baseline of one ratio: (exit code, standard output)."""

    def run(stored, *options):
        path = tmp_path / "baseline.json"
        path.write_text(json.dumps({"ratios": stored}))
        monkeypatch.setattr(
            sys, "argv", ["run.py", "--baseline", str(path), "--only", MEMORY, "--rounds", "2", *options]
        )
        code = regressions.main()
        return code, capsys.readouterr().out

    return run


def test_a_ratio_has_moved_when_it_lies_further_off_than_the_baselines_rounds(regressions):
    known = {"step_seconds": {"median": 1.0, "low": 0.9, "high": 1.2}}
    for now, moved, worse in ((1.29, False, False), (1.31, True, True), (0.71, False, False), (0.69, True, False)):
        (verdict,) = regressions.judged({"step_seconds": [now, now, 9.0, now]}, known)
        assert (verdict.now, verdict.moved, verdict.worse) == (now, moved, worse)
    (quiet,) = regressions.judged({"step_memory": [1.019]}, {"step_memory": {"median": 1.0, "low": 1.0, "high": 1.0}})
    assert not quiet.moved


def test_a_warning_is_one_line_that_githubs_runner_reads(regressions):
    known = {"step_seconds": {"median": 1.0, "low": 1.0, "high": 1.0}}
    found = {"step_seconds": [2.0], "loss_memory": [0.5]}
    worse, unknown = regressions.warnings(regressions.judged(found, known))
    assert worse.startswith("::warning title=slower or larger than the baseline::step_seconds (")
    assert "2.000" in worse
    assert "1.000" in worse
    assert "no such ratio" in unknown
    assert regressions.warnings(regressions.judged({"step_seconds": [1.01]}, known)) == []


def test_the_stored_baseline_has_every_ratio_and_memory_is_as_stored(regressions, asked):
    stored = json.loads((FOLDER / "baseline.json").read_text())["ratios"]
    assert stored.keys() == sys.modules["ratios"].RATIOS.keys()
    assert all(one["low"] <= one["median"] <= one["high"] for one in stored.values())
    code, out = asked(stored, "--strict")
    assert code == 0
    assert "as before" in out
    assert "::warning" not in out


def test_what_got_worse_warns_and_fails_when_strict(asked):
    before = {MEMORY: {"median": 0.01, "low": 0.01, "high": 0.01}}
    code, out = asked(before, "--strict")
    assert code == 1
    assert "::warning" in out


@pytest.mark.slow
def test_without_strict_it_only_warns_and_what_got_better_never_fails(asked):
    code, out = asked({MEMORY: {"median": 0.01, "low": 0.01, "high": 0.01}})
    assert code == 0
    assert "::warning" in out
    code, out = asked({MEMORY: {"median": 5.0, "low": 5.0, "high": 5.0}}, "--strict")
    assert code == 0
    assert "better" in out
    assert "::warning" in out


def test_a_name_that_is_none_is_refused(regressions, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "nothing"])
    with pytest.raises(SystemExit):
        regressions.main()
    assert "step_seconds" in capsys.readouterr().err


@pytest.mark.slow
def test_a_new_baseline_is_that_of_the_processes_that_it_started(regressions, monkeypatch, tmp_path):
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({"ratios": {"other": {"median": 1.0, "low": 1.0, "high": 1.0}}}))
    options = ["--baseline", str(path), "--only", MEMORY, "--rounds", "2", "--runs", "2", "--write"]
    monkeypatch.setattr(sys, "argv", ["run.py", *options])
    assert regressions.main() == 0
    found = json.loads(path.read_text())
    assert found["ratios"].keys() == {"other", MEMORY}
    assert 0 < found["ratios"][MEMORY]["low"] == found["ratios"][MEMORY]["high"] < 1
    assert {"machine", "versions", "rounds", "runs"} <= found.keys()
