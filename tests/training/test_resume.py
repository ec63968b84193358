"""A run that was killed, damaged or moved goes on as if nothing had happened, and only as the same run."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import tiny_runs
from safetensors.torch import load_file

from honeclip.checkpoint.save import named
from honeclip.errors import BadInput, ConfigError, DataError, RunError
from honeclip.monitoring import events
from honeclip.training import folder as folders
from honeclip.training import run as training

SCRIPT = Path(__file__).with_name("die_in_a_run.py")


def steps(out: Path) -> list[tuple[int, float]]:
    return [(one["step"], one["loss"]) for one in events.read(out / "events.jsonl") if one["event"] == "step"]


def files(out: Path) -> dict[str, str]:
    """Hashes of the tensors in the last checkpoint."""
    last = out / "checkpoints" / named(out / "checkpoints", "LATEST")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in last.glob("*.safetensors")}


FORGETS = {
    "train": {"lr": 1e-3, "batch": 72},
    "evaluate": {"every": 1, "max_forgetting": 0.1, "on_forgetting": "rewind"},
}

CASES = {
    "vit": ({}, ["before", "step", "files", "name", "pointers", "finish"]),
    # heads with dropout first, then all of it: the deaths lie in both stages
    "two_towers": ({"model": {"freeze": "none"}}, ["step", "files", "old"]),
    # what it learns is what it must not forget under other names: it goes back as often as it may, and ends
    "knowing": (FORGETS, ["start", "step", "back", "pointers", "old", "finish"]),
}


@pytest.fixture
def deaths(name, data, vit, two_towers, knowing, known, renamed, session_home, tmp_path) -> dict:
    """What die_in_a_run.py prints of a case."""
    if sys.platform == "win32":
        pytest.skip("forks and kills the POSIX way")
    FORGETS["evaluate"]["forgetting_data"] = str(known)
    sources = {"vit": (vit, data), "two_towers": (two_towers, data), "knowing": (knowing, renamed)}
    command = [
        sys.executable,
        str(SCRIPT),
        str(tmp_path / "deaths"),
        json.dumps([*map(str, sources[name]), *CASES[name]]),
    ]
    env = tiny_runs.environment(session_home)
    done = subprocess.run(command, capture_output=True, text=True, timeout=840, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(900)  # it waits for all runs that are killed
@pytest.mark.parametrize("name", tiny_runs.tiers(CASES))
def test_killed_at_any_moment_and_resumed_it_is_the_run_that_was_never_killed(name, deaths):
    whole, places = deaths["whole"], CASES[name][1]
    if "back" in places:
        assert len(whole["rewinds"]) == 3
        assert whole["between"]
    else:
        assert [step for step, *_ in whole["steps"]] == [1, 2, 3, 4, 5, 6]
    assert {"weights.safetensors", "optimizer.safetensors", "open_clip_model.safetensors"} <= whole["files"].keys()
    assert [death["place"] for death in deaths["deaths"]] == places
    for death in deaths["deaths"]:
        assert (death["killed"], death["resumed"]) == (9, 0), death["at"]
        assert {key: death[key] for key in whole} == whole, death["at"]


@pytest.fixture(scope="module")
def finished(data, vit, tmp_path_factory) -> Path:
    """A finished run with checkpoints of steps 4 and 6; tests copy it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    training.fit(data=data, out=out, model=vit, config=tiny_runs.settings(), device="cpu", report=lambda text: None)
    return out


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run, under a name of its own."""
    return copytree(finished, tmp_path / "run")


def test_a_finished_run_resumed_returns_at_once_and_changes_nothing(run, finished, quick):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"}
    again = quick(out=run, resume=True)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"} == before
    assert any("is finished: 6 steps" in text for text in quick.said)
    stored = json.loads((finished / "result.json").read_text())["result"]
    assert again.to_json() == {**stored, "run": str(run), "model": str(run / "model")}


def test_a_flipped_byte_is_named_and_the_checkpoint_before_is_used(run, finished, quick):
    last = run / "checkpoints" / "step-000006"
    weights = bytearray((last / "weights.safetensors").read_bytes())
    weights[-5] ^= 1
    (last / "weights.safetensors").write_bytes(weights)
    (run / "result.json").unlink()  # as if it had been killed before its end
    quick(out=run, resume=True)
    said = "\n".join(quick.said)
    assert "checkpoint step-000006 is damaged: weights.safetensors was changed or damaged" in said
    assert "going on with checkpoint step-000004" in said
    assert "going on after step 4 of 6" in said
    assert files(run) == files(finished)
    assert steps(run) == steps(finished)


def test_every_checkpoint_damaged_is_bad_input(run, quick):
    (run / "result.json").unlink()
    for last in (run / "checkpoints").glob("step-*"):
        (last / "state.json").write_text("{}")
    with pytest.raises(RunError, match="every checkpoint is damaged"):
        quick(out=run, resume=True)


@pytest.mark.parametrize(
    ("sets", "key", "was", "now"),
    [
        (["train.batch=4"], "train.batch", "8", "4"),
        (["train.seed=1"], "train.seed", "0", "1"),
        (["loss.kind=siglip"], "loss.kind", "'infonce'", "'siglip'"),
        (["checkpoint.keep_last=5"], "checkpoint.keep_last", "2", "5"),
    ],
)
def test_resumed_with_another_key_it_would_be_another_run(run, quick, sets, key, was, now):
    with pytest.raises(RunError, match="begun with other settings") as caught:
        quick(out=run, resume=True, sets=sets)
    assert f"{key}: the run has {was}, this call says {now}" in str(caught.value)
    assert caught.value.exit_code == 2


def test_every_difference_is_named_at_once(run, quick):
    with pytest.raises(RunError) as caught:
        quick(out=run, resume=True, sets=["train.batch=4", "model.freeze=image", "train.length=9"])
    assert "train.batch" in str(caught.value)
    assert "model.freeze" in str(caught.value)
    assert "train.length" not in str(caught.value)


def test_what_is_given_again_and_is_the_same_is_no_difference(run, quick, data, vit):
    quick(out=run, resume=True, sets=["train.batch=8", f"data.path={data}", f"model.source={vit}"])
    assert any("is finished" in text for text in quick.said)


def test_memory_may_change_and_the_length_may_grow(run, finished, quick):
    again = quick(out=run, resume=True, sets=["train.length=9", "memory.micro_batch=2", "memory.keep=1"])
    assert again.steps == 9
    assert [step for step, _ in steps(run)] == list(range(1, 10))
    assert steps(run)[:6] == steps(finished)
    cuts = [(one["micro_batch"], one["kept"]) for one in events.read(run / "events.jsonl") if one["event"] == "step"]
    assert cuts == [(8, 1)] * 6 + [(2, 1)] * 3
    assert "length = 9" in (run / "run.toml").read_text()
    assert quick(out=run, resume=True).steps == 9


def test_a_length_that_is_shorter_than_what_was_done_ends_where_it_is(run, quick):
    assert quick(out=run, resume=True, sets=["train.length=4"]).steps == 6
    assert [step for step, _ in steps(run)] == [1, 2, 3, 4, 5, 6]


def test_bad_input_on_the_way_leaves_the_run_as_it_was(run, quick):
    config = (run / "run.toml").read_text()
    with pytest.raises(BadInput, match="is too little"):
        quick(out=run, resume=True, sets=["train.length=9", "memory.budget_gb=0.001"])
    assert (run / "run.toml").read_text() == config
    assert quick(out=run, resume=True).steps == 6


def test_towers_that_have_learned_are_not_frozen_again_when_the_length_grows(quick, two_towers, tmp_path):
    """After growing from 6 to 12 steps, 80 % of the run would be heads first again, on features of the old towers."""
    out = tmp_path / "run"
    quick(out=out, model=two_towers, train={"length": 6}, checkpoint={"every": 1}, sets=["model.freeze=none"])
    before = load_file(out / "checkpoints" / "step-000006" / "weights.safetensors")
    quick(out=out, resume=True, sets=["train.length=12"])
    after = load_file(out / "checkpoints" / "step-000012" / "weights.safetensors")
    body = [name for name in before if name.startswith("visual.trunk") and name.endswith("conv_stem.weight")]
    assert body
    assert all(not before[name].equal(after[name]) for name in body)
    assert sum("steps 7 to 12" in text for text in quick.said) == 1


def test_resume_needs_nothing_else_and_finds_relative_paths_from_anywhere(vit, tmp_path, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    tiny_runs.draw(here / "shapes", 20, tiny_runs.ALL_SPLITS)
    (here / "own.toml").write_text('title = "Own"\ntemplates = ["a {label}"]\n')
    elsewhere.mkdir()
    quiet = {"device": "cpu", "report": lambda text: None}
    monkeypatch.chdir(here)
    config = tiny_runs.settings(train={"length": 2})
    training.fit(data="shapes", out="run", model=vit, domain="own.toml", config=config, **quiet)
    monkeypatch.chdir(elsewhere)
    run = training.fit(out=here / "run", resume=True, sets=["train.length=4"], **quiet)
    assert run.steps == 4
    assert [step for step, _ in steps(here / "run")] == [1, 2, 3, 4]


def test_a_relative_path_given_again_means_the_folder_at_hand(run, quick, data, monkeypatch):
    monkeypatch.chdir(data.parent)
    quick(out=run, resume=True, sets=[f"data.path={data.name}"])
    monkeypatch.chdir(data)
    with pytest.raises(DataError, match=re.escape(str(data / data.name))):
        quick(out=run, resume=True, sets=[f"data.path={data.name}", "train.length=99"])


@pytest.mark.parametrize("content", [None, "train = [", "[train]\nlenght = 5\n"])
def test_nothing_to_resume_or_a_damaged_config_is_bad_input(tmp_path, quick, content):
    out = tmp_path / "run"
    if content is not None:
        out.mkdir()
        (out / "run.toml").write_text(content)
    with pytest.raises(BadInput, match=r"holds no run to resume|is damaged|train\.lenght: unknown key"):
        quick(out=out, resume=True)


def test_resume_and_overwrite_exclude_each_other(tmp_path, quick):
    with pytest.raises(RunError, match="give one of the two"):
        quick(out=tmp_path, resume=True, overwrite=True)


def test_faults_in_what_is_given_are_named(run, quick):
    with pytest.raises(ConfigError, match="nearest: train.length"):
        quick(out=run, resume=True, sets=["train.lenght=9"])


def test_a_run_that_another_process_is_writing_is_left_alone(run, quick):
    code = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(run / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match="another process is writing the run"):
            quick(out=run, resume=True, sets=["train.length=9"])
        other.stdin.close()
    assert "length = 6" in (run / "run.toml").read_text()
    assert quick(out=run, resume=True, sets=["train.length=7"]).steps == 7


def test_a_checkpoint_of_another_model_is_refused(vit, text, quick, tmp_path):
    """The folder that the run began with holds something else now."""
    model = copytree(vit, tmp_path / "model")
    quick(model=model)
    (tmp_path / "run" / "result.json").unlink()
    rmtree(model)
    wider = {**tiny_runs.VIT, "embed_dim": 24}
    tiny_runs.model_folder(model, text, wider)
    with pytest.raises(RunError, match="the checkpoint of step 6 does not fit the model of this run"):
        quick(resume=True)


def test_json_beside_the_run_is_written_whole_and_read_with_care(tmp_path):
    file = tmp_path / "folder" / "result.json"
    folders.write_json(file, {"a": [1, 2.5]})
    assert folders.read_json(file) == {"a": [1, 2.5]}
    assert [path.name for path in file.parent.iterdir()] == ["result.json"]
    file.write_text(file.read_text().replace("2.5", "2.6"))
    assert folders.read_json(file) is None, "it is no longer what was written"
    file.write_text('{"a": 1}')
    assert folders.read_json(file) == {"a": 1}, "of an older version, without a hash"
    file.write_text('{"a": ')
    assert folders.read_json(file) is None
    file.write_text("[1]")
    assert folders.read_json(file) is None
    assert folders.read_json(tmp_path / "none.json") is None
