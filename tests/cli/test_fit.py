"""`honeclip fit`: what it prints, what it takes from where, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import pytest
import tiny_runs

from honeclip import config as configs

QUICK = ["train.length=2", "train.batch=8", "train.precision=fp32", "evaluate.every=1", "report.pictures=false"]


def sets(*texts: str) -> list[str]:
    return [part for text in texts for part in ("--set", text)]


def test_json_is_the_only_thing_on_standard_output(command, shapes, tiny, tmp_path):
    out = tmp_path / "run"
    options = ["--data", shapes, "--model", tiny, "--out", out, "--device", "cpu", "--json", *sets(*QUICK)]
    code, printed, said = command("fit", *options)
    assert code == 0, said
    found = json.loads(printed)
    keys = ["run", "model", "steps", "samples_per_second", "peak_memory_bytes", "before", "after"]
    assert list(found) == keys
    assert (found["run"], found["model"], found["steps"]) == (str(out), str(out / "model"), 2)
    assert found["after"]["retrieval"]["image_to_text"]["R@1"].keys() == {"value", "low", "high"}
    assert found["before"]["pairs"] == found["after"]["pairs"] == 8
    assert "training 2/2" in said
    assert "samples/s" in said
    assert "precision fp32" in said

    code, printed, said = command("fit", "--resume", "--out", out, "--json")
    assert (code, json.loads(printed)) == (0, found)
    assert "is finished: 2 steps" in said

    code, printed, said = command("fit", *options)
    assert (code, printed) == (2, "")
    assert said.startswith("error: ")
    assert "--resume, replace it with --overwrite" in said

    code, printed, said = command("fit", "--resume", "--out", out, *sets("train.seed=3"))
    assert (code, printed) == (2, "")
    assert "train.seed: the run has 0, this call says 3" in said


def test_for_people_it_says_what_was_won_and_where_it_lies(command, shapes, tiny, tmp_path):
    out = tmp_path / "run"
    options = ["--data", shapes, "--model", tiny, "--out", out, "--device", "cpu", "--domain", "scientific"]
    code, printed, _ = command("fit", *options, *sets(*QUICK))
    assert code == 0
    assert f"report: {out / 'report' / 'index.html'}" in printed
    assert f"model:  {out / 'model'}" in printed
    assert "Traceback" not in printed


def test_a_set_goes_before_options_and_options_before_the_file(command, shapes, tiny, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text('[data]\npath = "nowhere"\n[train]\nlength = 9\nbatch = 5\nseed = 4\n[model]\nsource = "starter"\n')
    out = tmp_path / "run"
    options = ["--config", file, "--data", shapes, "--model", tiny, "--out", out, "--device", "cpu", "--json"]
    code, _, said = command("fit", *options, *sets(*QUICK, f"data.path={shapes / 'pairs.csv'}"))
    assert code == 0, said
    stored = tomllib.loads((out / "run.toml").read_text())
    assert stored["data"]["path"] == str(shapes / "pairs.csv")
    assert stored["model"]["source"] == str(tiny)
    assert (stored["train"]["length"], stored["train"]["batch"], stored["train"]["seed"]) == (2, 8, 4)


def test_every_fault_at_once_with_the_nearest_key_and_where_it_came_from(command, shapes, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[train]\nbatch = 0\nlenght = 5\n")
    out = tmp_path / "run"
    wrong = ["train.lr=abc", "trian.seed=1", "checkpoint.every=110%", "train.length=10%", "nonsense"]
    code, printed, said = command("fit", "--config", file, "--data", shapes, "--out", out, *sets(*wrong))
    assert (code, printed) == (2, "")
    assert f"train.lenght: unknown key (from {file}); nearest: train.length" in said
    assert f"train.batch = 0: Input should be greater than or equal to 1 (from {file})" in said
    assert "train.lr = 'abc'" in said
    assert "(from --set train.lr=abc)" in said
    assert "trian: no such section" in said
    assert "checkpoint.every = '110%'" in said
    assert "train.length = '10%'" in said
    assert "write section.key=value" in said
    assert "Traceback" not in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--model", "ViT-B-23:datacomp_xl"], "ViT-B-32"),
        (["--model", "ViT-B-32:datacomp_xl_s13b_b90k"], "starter"),
        (["--domain", "medcal"], "medical"),
        (["--device", "tpu"], "auto, cpu, mps, cuda"),
        (["--config", "gone.toml"], "gone.toml"),
        (["--resume"], "holds no run to resume"),
        (["--resume", "--overwrite"], "give one of the two"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2_and_leaves_no_folder(options, words, command, shapes, tiny, tmp_path):
    out = tmp_path / "run"
    given = [] if "--resume" in options else ["--data", shapes, "--model", tiny]
    code, printed, said = command("fit", *given, *options, "--out", out)
    assert (code, printed) == (2, "")
    assert said.splitlines()[-1].startswith("error: ") or "error: " in said
    assert words in said
    assert "Traceback" not in said
    assert not out.exists()


def test_a_run_that_cannot_go_on_exits_1(command, shapes, tiny, tmp_path):
    out = tmp_path / "run"
    options = ["--data", shapes, "--model", tiny, "--out", out, "--device", "cpu", "--json"]
    code, printed, said = command("fit", *options, *sets(*QUICK, "train.lr=1e30", "evaluate.every=0"))
    assert (code, printed) == (1, "")
    assert "error: step 2: the loss (infonce nan) is not finite" in said
    assert "Traceback" not in said


def test_help_lists_every_key_with_its_default_and_an_example(command):
    code, printed, _ = command("fit", "--help")
    assert code == 0
    lines = [line.strip() for line in printed.splitlines()]
    for key, default in configs.keys().items():
        shown = str(default).lower() if not isinstance(default, str | tuple) else json.dumps(default)
        line = next(line for line in lines if line.startswith(f"{key} = "))
        assert line.startswith(f"{key} = {shown}: "), line
    assert "Example: honeclip fit --data" in printed
    for option in ("--data", "--out", "--model", "--domain", "--config", "--set", "--resume", "--overwrite", "--json"):
        assert option in printed


def test_the_run_folder_must_be_named(command, shapes):
    code, printed, said = command("fit", "--data", shapes)
    assert (code, printed) == (2, "")
    assert "--out" in said


def test_the_command_in_a_process_of_its_own_with_relative_paths(shapes, tiny, tmp_path, session_home):
    options = ["--data", shapes.name, "--model", str(tiny), "--out", str(tmp_path / "run"), "--device", "cpu", "--json"]
    command = [sys.executable, "-m", "honeclip", "fit", *options, *sets(*QUICK)]
    env = tiny_runs.environment(session_home)
    done = subprocess.run(command, cwd=shapes.parent, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    assert "Warning" not in done.stderr
    assert "Traceback" not in done.stderr
    assert tomllib.loads((tmp_path / "run" / "run.toml").read_text())["data"]["path"] == str(shapes)
