"""A run that others watch: who is told of it, what its events say of its end, and that no address is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import receivers
import tiny_runs
import tomli_w

from honeclip.errors import BadInput, ConfigError, Interrupted, NonFiniteError
from honeclip.monitoring import events
from honeclip.training import finish, setup

SECRET = "t0psecret"


@pytest.fixture
def http():
    with receivers.http() as received:
        yield received


def told(http: receivers.Received) -> list[str]:
    return [line for message in http.rest() for line in message["message"].splitlines()]


def last(out: Path) -> dict:
    return events.read(out / "events.jsonl")[-1]


def test_a_run_is_told_of_and_leaves_no_address_anywhere(quick, tmp_path, http):
    out = tmp_path / "run"
    url = f"json://me:{SECRET}@{http.address}/{SECRET}"
    quick(page=True, notify={"urls": [url], "when": ["first", "best", "score>0.01", "done"]})
    lines = told(http)
    assert lines[0].startswith("first evaluation, after step 2: zero-shot balanced accuracy on val is 0.")
    assert any(line.startswith("score>0.01 is reached after step 2") for line in lines)
    assert lines[-1].startswith("done after step 6: ")
    assert " on 8 held-out pairs of shapes" in lines[-1]
    written = [path for path in out.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert written == []
    assert SECRET not in "".join(quick.said)
    assert "told of first, best, score>0.01, done: notify.urls[0], json://***" in quick.said
    assert tomllib.loads((out / "run.toml").read_text())["notify"]["urls"] == ["json://***"]
    assert [event["event"] for event in events.read(out / "events.jsonl")][-2:] == ["finishing", "end"]
    assert last(out)["status"] == "done"


def test_the_addresses_of_a_resumed_run_are_given_again_or_missed(quick, tmp_path, http, monkeypatch):
    urls = [f"json://{http.address}/{SECRET}", "env:HONECLIP_TEST_ADDRESS"]
    monkeypatch.setenv("HONECLIP_TEST_ADDRESS", f"json://{http.address}/by-name")
    quick(train={"length": 2}, notify={"urls": urls, "when": ["done"]})
    assert sorted(message["path"] for message in http.rest()) == ["/by-name", f"/{SECRET}"]
    quick.said.clear()
    quick(resume=True, sets=["train.length=4"])
    assert [message["path"] for message in http.rest()] == ["/by-name"]
    (missed,) = [one for one in quick.said if one.startswith("notify.urls[0]")]
    assert "notify.urls[0], json://***: addresses are not stored with what they hide" in missed
    quick(resume=True, sets=["train.length=6", f"notify.urls=json://{http.address}/again", "notify.when=best"])
    stored = tomllib.loads((tmp_path / "run" / "run.toml").read_text())["notify"]
    assert stored == {"urls": ["json://***"], "when": ["best"]}


def test_a_run_that_is_older_than_notifications_can_be_given_them(quick, tmp_path, http):
    quick(train={"length": 2})
    file = tmp_path / "run" / "run.toml"
    stored = tomllib.loads(file.read_text())
    del stored["notify"]
    file.write_text(tomli_w.dumps(stored))
    assert quick(resume=True, sets=["train.length=4", f"notify.urls=json://{http.address}"]).steps == 4
    assert told(http)[-1].startswith("done after step 4")


def test_a_wrong_moment_ends_it_before_anything_is_written(quick, tmp_path):
    with pytest.raises(ConfigError, match="nearest: best"):
        quick(notify={"when": ["bets"]})
    assert not (tmp_path / "run").exists()


def test_a_failure_is_the_last_event_and_is_told(quick, tmp_path, http):
    with pytest.raises(NonFiniteError):
        quick(train={"lr": 1e30}, evaluate={"every": 0}, notify={"urls": f"json://{http.address}"})
    found = last(tmp_path / "run")
    assert (found["event"], found["status"]) == ("end", "failed")
    assert "is not finite" in found["words"]
    (line,) = told(http)
    assert line.startswith("failed after step ")
    assert found["words"] in line


def test_bad_input_is_told_and_leaves_the_run_as_it_was(quick, tmp_path, http, monkeypatch):
    quick(train={"length": 2})
    before = (tmp_path / "run" / "events.jsonl").read_bytes()

    def refuses(*_: object) -> None:
        raise BadInput("no such thing")

    monkeypatch.setattr("honeclip.training.setup.score_before", refuses)
    with pytest.raises(BadInput):
        quick(resume=True, sets=["train.length=4", f"notify.urls=json://{http.address}"])
    assert (tmp_path / "run" / "events.jsonl").read_bytes() == before
    assert told(http) == ["failed after step 2: no such thing"]


def test_the_end_is_cut_off_by_the_run_that_goes_on(quick, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(finish.model_folder, "save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            quick()
    assert last(tmp_path / "run")["words"] == "ZeroDivisionError: division by zero"
    quick(resume=True)
    names = [event["event"] for event in events.read(tmp_path / "run" / "events.jsonl")]
    assert (names.count("finishing"), names.count("end")) == (1, 1)


needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="signals the POSIX way")


@needs_signals
def test_a_run_that_is_stopped_says_so_at_its_end(quick, tmp_path, http, monkeypatch):
    real = setup.loader.batches

    def batches(*arguments, **options):
        for batch in real(*arguments, **options):
            if batch.draw.step + 1 == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(setup.loader, "batches", batches)
    with pytest.raises(Interrupted):
        quick(notify={"urls": f"json://{http.address}", "when": "interrupted"})
    assert told(http) == ["interrupted after step 3: stopped and saved after step 3; go on with --resume"]
    assert last(tmp_path / "run")["status"] == "interrupted"


@pytest.mark.slow
@needs_signals
def test_the_command_that_is_killed_from_outside_is_told_of(vit, data, tmp_path, session_home, http):
    sets = ["train.length=100000", "train.batch=8", "train.precision=fp32", "evaluate.every=0", "checkpoint.every=0"]
    sets += [f"notify.urls=json://{http.address}"]
    command = [sys.executable, "-m", "honeclip", "fit", "--data", str(data), "--model", str(vit), "--device", "cpu"]
    command += ["--out", str(tmp_path / "run"), *(text for one in sets for text in ("--set", one))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=tiny_runs.environment(session_home), **pipes) as process:
        for line in process.stderr:
            if line.startswith("training "):
                break
        process.kill()
        process.communicate()
    message = http.next()
    assert message["title"] == "honeclip, run: failed"
    assert "its process ended without a word" in message["message"]
    assert http.rest() == []
