"""What is said of a watched run: where it stands, what is left, its curves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import tiny_runs

from honeclip.errors import RunError
from honeclip.monitoring import curves, watched
from honeclip.monitoring.events import EventLog
from honeclip.monitoring.watched import Watched, open_runs

BEGAN = 1_790_000_000.0


def run_of(folder: Path, *events: dict[str, Any]) -> Watched:
    """A run whose events were read."""
    log = EventLog(folder / "events.jsonl")
    for one in events:
        log.append(**{"time": BEGAN, **one})
    log.close()
    (run,) = open_runs([folder])
    while run.look():
        pass
    return run


def steps(numbers: range, seconds: float, since: float = BEGAN, **more: Any) -> list[dict[str, Any]]:
    return [
        {"event": "step", "step": step, "time": since + seconds * nth, "loss": 1.0, **more}
        for nth, step in enumerate(numbers, start=1)
    ]


def test_time_left_is_that_of_this_process_with_its_evaluations(tmp_path):
    begin = {"event": "begin", "step": 0, "steps": 100}
    night = {"event": "begin", "step": 10, "steps": 100, "time": BEGAN + 30_000}
    run = run_of(tmp_path, begin, *steps(range(1, 11), 9.0), night, *steps(range(11, 31), 2.0, BEGAN + 30_000))
    assert watched.seconds_per_step(run) == pytest.approx(2.0)
    assert watched.seconds_left(run) == pytest.approx(70 * 2.0)
    figures = watched.figures(run)
    assert (figures["step"], figures["left"], figures["each"]) == ("30 / 100", "2 min 20 s", "2 s")


def test_a_run_of_an_older_version_has_a_speed_and_no_end(tmp_path):
    run = run_of(tmp_path, *steps(range(1, 11), 0.5))
    assert watched.seconds_per_step(run) == pytest.approx(0.5)
    assert watched.seconds_left(run) is None
    figures = watched.figures(run)
    assert (figures["step"], figures["left"], figures["memory"], figures["busy"]) == ("10", "-", "-", "-")


def test_where_a_run_stands(tmp_path):
    (tmp_path / "run.toml").touch()
    run = run_of(tmp_path)
    assert watched.state(run) == ("waiting", "waiting for the first step")
    run = run_of(tmp_path, *steps(range(1, 11), 10.0))
    last = BEGAN + 100
    assert watched.state(run, now=last + 150) == ("training", "training")
    assert watched.state(run, now=last + 250) == ("quiet", "no event for 4 min 10 s"), "20 steps of 10 s are over"
    run = run_of(tmp_path, {"event": "evaluation", "step": 10, "time": last + 200, "score": 0.5})
    assert watched.state(run, now=last + 250)[0] == "training", "an evaluation is a sign of life"
    ending = {"event": "begin", "step": 0, "steps": 10}
    run = run_of(tmp_path, ending)
    assert watched.state(run, now=last + 9999)[0] == "ending"
    run = run_of(tmp_path, {"event": "end", "time": last + 1, "status": "failed", "words": "out of memory"})
    assert watched.state(run, now=last + 2) == ("stopped", "failed: out of memory")
    (tmp_path / "result.json").write_text("{}")
    assert watched.state(run, now=last + 999) == ("finished", "finished")
    assert watched.seconds_left(run) is None


def test_folders_that_are_no_runs_are_named_with_exit_2(tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "run.toml").touch()
    with pytest.raises(RunError, match=r"no run folder: .*missing, .*empty\. A run folder holds run\.toml") as error:
        (tmp_path / "empty").mkdir()
        open_runs([tmp_path / "good", tmp_path / "missing", tmp_path / "empty"])
    assert "good" not in str(error.value)
    command = [sys.executable, "-m", "honeclip", "watch", str(tmp_path / "missing"), "--wait", "0"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=tiny_runs.environment(tmp_path / "home"), timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: no run folder: {tmp_path / 'missing'}.")


def test_a_run_that_fit_has_not_begun_yet_is_waited_for(tmp_path, session_home):
    run = tmp_path / "runs" / "w"
    command = [sys.executable, "-m", "honeclip", "watch", str(run), "--port", "0"]
    env = tiny_runs.environment(session_home)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stderr.readline() == f"not there yet: {run}; waiting up to 120 s for fit\n"
            run.mkdir(parents=True)
            (run / "run.toml").touch()
            (run / "events.jsonl").touch()
            assert process.stderr.readline() == f"watching {run}\n"
            (address,) = re.findall(r"^open (http://\S+)$", process.stderr.readline())
            with urlopen(address, timeout=60) as page:
                assert page.status == 200
        finally:
            process.terminate()
        assert process.wait(60) == 143


def test_watching_needs_no_torch():
    code = "import sys; import honeclip.monitoring.watch, honeclip.preprocess.images; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


def test_runs_are_told_apart_by_the_ends_of_their_paths_and_each_is_shown_once(tmp_path):
    folders = [tmp_path / name for name in ("a/x/run", "b/x/run", "a/other")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "events.jsonl").touch()
    assert [one.name for one in open_runs([*folders, folders[0]])] == ["a/x/run", "b/x/run", f"{tmp_path.name}/a/other"]
    assert [one.name for one in open_runs(folders[1:])] == ["run", "other"]


@pytest.mark.parametrize(
    "text", ["", "data = 5", "[data]\npath = 5", "not toml", "[data]\npath = '/nowhere/at/all'", "\0"]
)
def test_an_odd_config_has_no_data_folder(tmp_path, text):
    (tmp_path / "run.toml").write_text(text)
    assert run_of(tmp_path).data_folder is None


def test_data_inside_of_the_run_are_found_in_a_copy(tmp_path):
    (tmp_path / "copy" / "molecules").mkdir(parents=True)
    (tmp_path / "copy" / "run.toml").write_text("[data]\npath = '/elsewhere/run/molecules'")
    assert run_of(tmp_path / "copy").data_folder == tmp_path / "copy" / "molecules"
    (tmp_path / "copy" / "run.toml").write_text(f"[data]\npath = '{tmp_path}/pairs.csv'")
    (tmp_path / "pairs.csv").touch()
    assert run_of(tmp_path / "copy").data_folder == tmp_path


def test_smoothing_is_the_exponential_average_of_all_that_was_before():
    values = np.random.default_rng(0).normal(size=50)
    found = curves.smoothed([[step, value] for step, value in enumerate(values)], 0.9)
    for place, (step, value) in enumerate(found):
        weights = 0.9 ** np.arange(place, -1, -1)
        assert (step, value) == (place, pytest.approx(np.average(values[: place + 1], weights=weights), rel=1e-4))
    assert curves.smoothed([[1, None], [2, 3.0]], 0.5) == [[1, None], [2, 3.0]]
    assert curves.smoothed([[1, 2.0], [2, 3.0]], 0.0) == [[1, 2.0], [2, 3.0]]


GB = 10**9


@pytest.mark.parametrize(
    ("memory_bytes", "memory", "layers"),
    [
        (2 * GB, None, {"counts for the budget": 2}),
        (2 * GB, {"resident": 3 * GB, "swap": GB}, {"counts for the budget": 2, "rest of the process": 1, "swap": 1}),
        (
            2 * GB,
            {"allocated": 2 * GB, "driver": 5 * GB, "resident": GB},
            {"counts for the budget": 2, "kept by the driver": 3, "process": 1},
        ),
        (2 * GB, {"driver": None, "resident": "much"}, {"counts for the budget": 2}),
    ],
)
def test_kinds_of_memory_lie_upon_one_another_and_none_counts_twice(tmp_path, memory_bytes, memory, layers):
    begin = {"event": "begin", "step": 0, "steps": 2, "budget_bytes": 4 * GB}
    run = run_of(tmp_path, begin, *steps(range(1, 3), 1.0, memory_bytes=memory_bytes, memory=memory))
    series = curves.memory(curves.View([run], run))
    assert {one["name"]: one["data"][0][1] for one in series if one["name"] != "budget"} == layers
    assert series[0]["markLine"]["data"][0]["yAxis"] == 4


def test_every_chart_copes_with_events_that_say_nothing(tmp_path):
    odd = [None, "x", [], {}, {"a": "b"}, True]
    keys = ("loss", "lr", "lrs", "seconds", "memory", "grad_norms", "parts", "busy", "samples_per_second")
    lines = [{"event": "step", "step": step, **dict.fromkeys(keys, one)} for step, one in enumerate(odd, start=1)]
    names = ("metrics", "health", "examples", "score", "seconds")
    lines += [{"event": "evaluation", "step": 6, **dict.fromkeys(names, one)} for one in odd]
    lines += [
        {"event": kind, "size_px": one, "steps": one} for one in odd for kind in ("stage", "begin", "data", "what")
    ]
    run = run_of(tmp_path, *lines)
    view = curves.View([run], run)
    json.dumps([chart.series(view) for chart in curves.CHARTS], allow_nan=False)
    json.dumps([curves.histogram(view), watched.figures(run), watched.apart(run)])
    assert all(isinstance(watched.in_words(one), str) for one in run.reader.seen.events())


def test_an_end_is_said_in_words():
    assert (
        watched.in_words({"event": "end", "status": "failed", "words": "the disk is full"})
        == "failed: the disk is full"
    )
    assert watched.in_words({"event": "end", "status": "done", "words": ""}) == "done"
    assert "report" in watched.in_words({"event": "finishing", "step": 7})


def test_a_change_is_marked_where_it_was(tmp_path):
    changes = [
        {"event": "stage", "step": 3, "size_px": 160},
        {"event": "memory", "step": 3, "micro_batch": 8},
        {"event": "memory", "step": 5, "micro_batch": 4},
    ]
    run = run_of(tmp_path, *steps(range(1, 7), 1.0), *changes)
    marks = curves.loss(curves.View([run], run))[-1]["markLine"]["data"]
    assert [(one["xAxis"], one["label"]["formatter"]) for one in marks] == [
        (3, "160 px, micro-batch 8"),
        (5, "micro-batch 4"),
    ]
