"""`honeclip tune`: what it prints, what it leaves, and its exit codes."""

from __future__ import annotations

import json

import pytest

QUICK = ["train.length=2", "train.batch=8", "train.precision=fp32", "evaluate.every=1"]


def sets(*texts: str) -> list[str]:
    return [part for text in texts for part in ("--set", text)]


@pytest.fixture
def options(shapes, tiny, tmp_path) -> list[str]:
    out = tmp_path / "tune"
    return ["--data", str(shapes), "--model", str(tiny), "--out", str(out), "--device", "cpu", *sets(*QUICK)]


def test_json_is_the_only_thing_on_standard_output(command, options, tmp_path):
    code, printed, said = command("tune", *options, "--trials", "3", "--json")
    assert code == 0, said
    found = json.loads(printed)
    assert found["trials"] == found["complete"] + found["pruned"] == 3
    assert found["best_config"] == str(tmp_path / "tune" / "best.toml")
    assert "trial 0 (1 of 3)" in said
    assert (tmp_path / "tune" / "study.db").is_file()


@pytest.mark.slow
def test_for_people_it_says_what_the_best_was_worth(command, options, tmp_path):
    code, printed, said = command(
        "tune", *options, *sets("train.lr=0.02", "train.length=6"), "--trials", "7", "--pruner", "none"
    )
    assert code == 0, said
    assert "is the best with" in printed
    page = (tmp_path / "tune" / "index.html").read_text()
    assert "as given" in page
    assert page.count("<svg") >= 3, "scores, importances, and the way of each trial"
    assert "http://" not in page.replace("http://www.w3.org", "")
    code, printed, said = command("fit", "--config", tmp_path / "tune" / "best.toml", "--out", tmp_path / "run")
    assert code == 0, said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--trials", "0"], "--trials 0"),
        (["--pruner", "soon"], "median, hyperband, none"),
        (["--storage", "sqlite:////no/such/folder/study.db"], "does not answer"),
        (["--storage", "nonsense"], "does not answer"),
        (["--set", "loss.kind=clip"], "loss.kind"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(more, said, command, options):
    code, printed, complaint = command("tune", *options, *more)
    assert (code, printed) == (2, "")
    assert said in complaint
    assert "Traceback" not in complaint
