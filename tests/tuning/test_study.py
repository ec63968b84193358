"""A study: what its trials are, that it goes on, that two processes share it, and that its best is a config."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import optuna
import pytest
import receivers
import tiny_runs
from optuna.trial import TrialState

from honeclip import config as configs
from honeclip.errors import BadInput, ConfigError, RunError
from honeclip.monitoring import events
from honeclip.training.run import fit

PROCESS = Path(__file__).with_name("study_process.py")


def begin(home: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROCESS), *map(str, arguments)],
        env=tiny_runs.environment(home),
        stderr=subprocess.PIPE,
        text=True,
    )


def trials_of(storage: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{storage}").trials


def test_the_first_trial_is_the_config_as_given_and_the_best_is_never_worse(study, tmp_path):
    found = study(trials=6, pruner="none")
    trials = found.study.trials
    assert [trial.number for trial in trials] == list(range(6))
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    assert trials[0].params == {}
    assert all(trial.params for trial in trials[1:])
    assert found.best.value == max(trial.value for trial in trials) >= trials[0].value
    said = found.to_json()
    assert (said["trials"], said["complete"], said["pruned"], said["failed"]) == (6, 6, 0, 0)
    assert next(line for line in study.said if line.startswith("trial 0 ")).endswith("as given")


@pytest.mark.slow
def test_the_best_file_is_a_config_of_a_run_that_scores_the_same(study, tmp_path):
    """What a trial measured is what `fit` gets from the file, so the trial was a run and not something like one."""
    found = study("loss.kind=siglip", trials=5, pruner="none")
    kept = tomllib.loads(found.config_file.read_text())
    assert kept["loss"]["kind"] == "siglip"
    scored = {"best": found.best.value}
    if not found.overrides:  # the config as given was best; then another trial has to show it
        second = max(found.study.trials[1:], key=lambda trial: trial.value)
        kept = json.loads(json.dumps(kept))
        for section, table in second.user_attrs["overrides"].items():
            kept.setdefault(section, {}).update(table)
        scored["best"] = second.value
    run = fit(out=tmp_path / "run", config=kept, device="cpu", report=lambda text: None)

    scores = [one["score"] for one in events.read(run.folder / "events.jsonl") if one["event"] == "evaluation"]
    assert max(scores) == pytest.approx(scored["best"], abs=1e-12)


def test_what_was_set_is_in_no_trial(study):
    found = study("loss.temperature=fixed", "loss.kind=infonce", "train.lr=1e-4", "model.freeze=towers", trials=5)
    names = {name for trial in found.study.trials for name in trial.params}
    assert not names & {"loss.temperature", "loss.kind", "train.lr", "learns"}
    assert "loss.targets" in names


@pytest.mark.slow
def test_killed_in_a_trial_it_goes_on_with_the_next(data, vit, tmp_path):
    out = tmp_path / "tune"
    first = begin(tmp_path, data, vit, out, 6, "", "die", 3)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    before = trials_of(out / "study.db")
    assert [trial.state for trial in before[:3]] == [TrialState.COMPLETE] * 3
    assert before[3].state == TrialState.RUNNING
    assert tomllib.loads((out / "best.toml").read_text())["model"]["source"] == str(vit)

    again = begin(tmp_path, data, vit, out, 6, "", "none", 0)
    _, said = again.communicate()
    assert again.returncode == 0, said
    after = trials_of(out / "study.db")
    assert [trial.number for trial in after] == list(range(7))
    assert after[3].state == TrialState.FAIL
    assert [(one.number, one.params, one.value) for one in after[:3]] == [
        (one.number, one.params, one.value) for one in before[:3]
    ]
    assert "trial 4 (4 of 6)" in said
    # what the second process draws is not what the first one drew
    drawn = [json.dumps(trial.params, sort_keys=True) for trial in after if trial.params]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.slow
def test_two_processes_share_one_storage(data, vit, tmp_path):
    storage, pipe = tmp_path / "shared.db", tmp_path / "pipe"
    os.mkfifo(pipe)
    url = f"sqlite:///{storage}"
    waits = begin(tmp_path, data, vit, tmp_path / "a", 6, url, "wait", pipe)
    wakes = begin(tmp_path, data, vit, tmp_path / "b", 6, url, "wake", pipe)
    try:
        for process in (wakes, waits):
            _, said = process.communicate()
            assert process.returncode == 0, said
    finally:
        waits.kill()  # if the other one failed, nobody will open the pipe
    trials = trials_of(storage)
    done = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert 6 <= len(done) <= 7  # both may see the last place free at once
    assert sum(not trial.params for trial in done) == 1
    # the one that waited was in its first trial while the other one ended one: they were at it at the same time
    starts = sorted(trial.datetime_start for trial in done)
    assert min(trial.datetime_complete for trial in done) > starts[1]
    for folder in ("a", "b"):
        assert configs.load(tmp_path / folder / "best.toml").model.source == str(vit)


@pytest.mark.slow
def test_more_trials_go_on_and_a_study_that_has_them_only_reports(study):
    first = study(trials=2)
    second = study(trials=4)
    assert len(second.study.trials) == 4
    assert second.study.trials[1].params == first.study.trials[1].params
    study.said.clear()
    assert study(trials=4).best.number == second.best.number
    assert not [line for line in study.said if line.startswith("trial ")]


def test_the_folder_of_another_config_is_refused(study):
    study(trials=1)
    with pytest.raises(RunError, match=r"train\.seed \(0 there, 5 now\)"):
        study("train.seed=5", trials=1)


def test_a_storage_that_does_not_answer_is_named_without_its_password(study, tmp_path):
    with pytest.raises(BadInput, match=r"does not answer") as raised:
        study(storage=f"sqlite:///{tmp_path}/no/such/folder.db", trials=1)
    assert "no/such/folder.db" in str(raised.value)
    with pytest.raises(BadInput, match="does not answer") as raised:
        study(storage="mysql+nodriver://somebody:secret@127.0.0.1:1/none", trials=1)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"trials": 0}, "at least one"), ({"pruner": "best"}, "median, hyperband, none"), ({"data": None}, "--data")],
)
def test_what_cannot_be_is_refused(options, said, study):
    with pytest.raises((ConfigError, RunError), match=said):
        study(**options)


def test_without_a_val_split_there_is_nothing_to_compare_by(study, tmp_path):
    folder = tiny_runs.draw(tmp_path / "one", 12, ("train",))
    head, *rows = (folder / "pairs.csv").read_text().splitlines()
    # all rows are of one part, so that none can be taken for val
    (folder / "pairs.csv").write_text("\n".join([f"{head},group", *(f"{row},a" for row in rows)]) + "\n")
    with pytest.raises(BadInput, match="val"):
        study(data=folder, trials=1)


@pytest.mark.slow
def test_a_weak_trial_ends_early(study, tmp_path):
    """Against the median of the trials before it, which here somebody else has made and which are hard to match."""
    first = study("train.length=6", trials=1, pruner="median")
    values = dict.fromkeys(range(6), 1.0)
    strong = optuna.trial.create_trial(value=1.0, params={}, distributions={}, intermediate_values=values)
    first.study.add_trials([strong] * 6)
    found = study("train.length=6", trials=9, pruner="median")
    states = [trial.state for trial in found.study.trials]
    assert states == [TrialState.COMPLETE] * 7 + [TrialState.PRUNED] * 2
    assert all(len(trial.intermediate_values) < 6 for trial in found.study.trials[7:])


@pytest.mark.slow
def test_the_best_and_the_given_meet_on_the_test_split(study):
    found = study(trials=5, pruner="none")
    assert found.given is not None
    assert found.tuned is not None
    both = found.to_json()
    name = ("retrieval", "image_to_text", "R@1")

    def at(tree, names=name):
        for one in names:
            tree = tree[one]
        return tree["value"]

    assert at(both["difference"]) == pytest.approx(at(both["tuned"]) - at(both["given"]), abs=1e-12)


@pytest.mark.slow
def test_trials_are_compared_by_what_the_domain_selects_by(study, tmp_path):
    """1 / median rank alone: each score is the mean of two of them, whatever R@k and the labels say."""
    field = tmp_path / "field.toml"
    field.write_text('title = "S"\ntemplates = ["{label}"]\nselection = "metrics"\n[metrics]\nmedian_rank = 1.0\n')
    found = study(trials=2, pruner="none", domain=str(field))
    possible = {(2 / one + 2 / other) / 2 for one in range(2, 17) for other in range(2, 17)}  # medians in halves
    assert all(min(abs(trial.value - value) for value in possible) < 1e-9 for trial in found.study.trials)
    as_always = study(trials=2, pruner="none", out=tmp_path / "other")
    assert as_always.study.trials[0].intermediate_values != found.study.trials[0].intermediate_values


@pytest.mark.slow
def test_a_new_best_and_the_end_of_a_study_are_told_once_and_not_of_each_trial(study, tmp_path):
    with receivers.http() as http:
        sets = (f"notify.urls=['json://{http.address}/hook']", "notify.when=['first', 'best', 'failed', 'done']")
        found = study(*sets, trials=4, pruner="none")
        messages = []
        while not messages or not messages[-1]["title"].endswith(": done"):
            messages.append(http.next())
        assert http.rest() == []
        lines = "\n".join(one["message"] for one in messages).splitlines()
        best = found.best
        assert messages[-1]["title"] == "honeclip, tune: done"
        assert lines[-1].startswith(f"done after 4 trials: the best is trial {best.number} (")
        scores = [trial.value for trial in found.study.trials]
        risen = [number for number in range(1, 4) if scores[number] > max(scores[:number])]
        assert len(lines) - 1 <= len(risen), "of those that wait together the newest is told"
        assert all(line.startswith("new best of ") for line in lines[:-1])
        assert bool(lines[:-1]) == bool(risen)
        if risen:
            assert f"trial {risen[-1]} (" in lines[-2]
            assert f"{scores[risen[-1]]:.4f} on val instead of " in lines[-2]
        # nothing is tried that was tried: the end alone is told
        study(*sets, trials=4, pruner="none")
        assert http.next()["message"].startswith("done after 4 trials: ")
        assert http.rest() == []


@pytest.mark.slow
def test_a_study_keeps_no_address_of_those_who_are_told(study, tmp_path):
    secret = "t0psecret"
    urls = f"notify.urls=['json://127.0.0.1:1/{secret}', 'env:SOMEBODY']"
    study(urls, trials=1)
    assert any(one.startswith("told of best, failed, done: notify.urls[0], json://***") for one in study.said)
    files = [path for path in (tmp_path / "tune").rglob("*") if path.is_file()]
    assert {"study.db", "best.toml"} <= {path.name for path in files}
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
    assert tomllib.loads((tmp_path / "tune" / "best.toml").read_text())["notify"]["urls"] == [
        "json://***",
        "env:SOMEBODY",
    ]
    study(urls.replace(secret, "another"), trials=1)  # whom to tell makes no other study
