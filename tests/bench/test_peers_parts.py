"""bench/peers/all.py, evaluation.py and loading.py, and bench/memory/grid.py: what they make of figures, and what they refuse."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tiny_runs

BENCH = Path(__file__).parents[2] / "bench"


def imported(folder, name):
    sys.path.insert(0, str(BENCH / folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCH / folder))


@pytest.fixture(scope="module")
def parts():
    return imported("peers", "all")


@pytest.fixture(scope="module")
def grid():
    return imported("memory", "grid")


def svg_words(text):
    return " ".join(
        "".join(one.itertext()) for one in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")
    )


TRAINING = {
    "ratios": {"over_cached": {"median": 1.1, "rounds": [1.0, 1.3, 1.1], "goal": 1.15}},
    "contestants": {
        "plain": {"rounds": [{"peak_bytes": 400}, {"peak_bytes": 440}, {"peak_bytes": 400}]},
        "honeclip_all": {"rounds": [{"peak_bytes": 400}, {"peak_bytes": 400}, {"peak_bytes": 200}]},
    },
}


def test_rows_have_the_spread_of_their_rounds_and_above_one_is_better(parts):
    time, memory = parts.training(TRAINING)
    assert (time.part, time.ratio, time.low, time.high, time.wanted) == ("training", 1.1, 1.0, 1.3, 1.15)
    assert (memory.part, memory.ratio, memory.low, memory.high) == ("memory", pytest.approx(1.1), 1.0, 2.0)
    lines = parts.table([time, memory]).splitlines()
    assert "1.15: not met" in lines[2]
    assert "not met" not in lines[3]


def test_a_written_report_has_its_ratios_and_a_picture_that_stands_alone(parts, tmp_path):
    rows = list(parts.training(TRAINING))
    parts.write(tmp_path, rows, {"training": TRAINING}, ["serving"])
    found = json.loads((tmp_path / "peers.json").read_text())
    assert [row["ratio"] for row in found["ratios"]] == [row.ratio for row in rows]
    assert found["failed"] == ["serving"]
    assert {"machine", "versions", "figures"} <= found.keys()
    picture = (tmp_path / "peers.svg").read_text()
    assert "var(--" not in picture
    assert "training: over_cached" in svg_words(picture)


def test_the_command_of_a_part_passes_on_what_it_knows(parts):
    asked = Namespace(rounds=7, small=False, threads=1, model="random:ViT-S-32-alt")
    assert parts.command("evaluation", asked)[2:] == [
        "--rounds",
        "7",
        "--threads",
        "1",
        "--model",
        "random:ViT-S-32-alt",
    ]
    assert parts.command("serving", asked)[2:] == ["--rounds", "7"]


def test_a_part_that_is_none_is_refused(parts, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["all.py", "--only", "nothing"])
    with pytest.raises(SystemExit):
        parts.main()
    assert "evaluation" in capsys.readouterr().err


def test_times_are_told_only_where_scores_are_equal():
    evaluation = imported("peers", "evaluation")
    evaluation.equal({"accuracy": 0.125}, {"accuracy": 0.125})
    with pytest.raises(SystemExit, match="score differently"):
        evaluation.equal({"accuracy": 0.125}, {"accuracy": 0.13})


def test_the_grid_has_every_point_that_can_be_and_compares_medians(grid):
    asked = Namespace(models=["m"], batches=[16, 64], pieces=[(32, 1), (8, 0)], precisions=["fp32", "bf16"])
    points = grid.grid(asked)
    assert len(points) == 6
    assert all(one["micro_batch"] <= one["batch"] for one in points)
    rounds = [
        {"peak_memory_bytes": peak, "predicted_peak_bytes": 90, "seconds_per_step": 1.0} for peak in (100, 80, 120)
    ]
    row = grid.compared(points[0], rounds)
    assert row["off"] == pytest.approx(-0.1)
    assert (row["measured_low"], row["measured_high"]) == (80, 120)
    other = {**row, "precision": "bf16", "off": 0.3, "measured_bytes": 2e9, "predicted_bytes": 2.6e9}
    assert grid.summary([row, other]) == {"largest_off": 0.3, "median_off": pytest.approx(0.2)}
    assert "measured, GB" in svg_words(grid.picture([row, other]))
    assert "+30.0%" in grid.table({"rows": [other], **grid.summary([other])})


@pytest.mark.slow
def test_the_grid_measures_a_point_in_a_process_and_names_one_that_fails(tmp_path, session_home):
    text = tiny_runs.text_files(tmp_path / "files")
    model = tiny_runs.model_folder(tmp_path / "model", text)
    command = [sys.executable, str(BENCH / "memory" / "grid.py"), "--models", f"{model},nowhere", "--batches", "8"]
    options = [
        "--pieces",
        "4:0",
        "--precisions",
        "fp32",
        "--steps",
        "1",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=tiny_runs.environment(session_home), check=False
    )
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "out" / "memory.json").read_text())
    assert len(found["rows"]) == len(found["faults"]) == 1
    assert "nowhere" in found["faults"][0]
    assert found["rows"][0]["measured_bytes"] > 0
    assert (tmp_path / "out" / "memory.svg").is_file()
