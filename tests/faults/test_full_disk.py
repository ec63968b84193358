"""A disk that becomes full in the moment in which one file of a run is written, for each of them: a real disk, a small one."""

from __future__ import annotations

import pytest
from conftest import bits, steps
from faulty import FULL, fill
from moments import count

FILES = (
    "run.toml",
    "run.json",
    "events.jsonl",
    "before.json",
    "step-000003.partial",
    "step-000006.partial-",
    "weights.safetensors",
    "optimizer.safetensors",
    "rng.safetensors",
    "state.json",
    "manifest.json",
    "manifest.sha256",
    "BEST",
    "LATEST",
    "open_clip_model.safetensors",
    "tokenizer.json",
    "honeclip.json",
    "index.html",
    "report.json",
    "result.json",
)


@pytest.mark.parametrize("file", FILES)
def test_the_disk_is_full_in_each_file_and_with_room_the_run_goes_on(file, warm, new, whole, resumed, disk):
    out = disk / "run"
    done = warm.start(*new(out), full={"disk": str(disk), "at": [file]}).done()
    assert (disk / FULL).exists(), f"no file like {file} is written"
    said = done.failed_in_words(1)
    assert "No space left on device" in said
    assert str(out) in said
    (disk / FULL).unlink()
    if (out / "run.toml").exists():
        resumed(out)
    else:
        assert file == "run.toml"
        assert warm.start(*new(out)).done().code == 0
        assert bits(out) == bits(whole)


def test_events_are_what_fills_the_disk(warm, new, disk, tmp_path):
    """In the middle of a run, and without room for the last word either."""
    sets = ("checkpoint.every=0", "evaluate.every=0", "train.length=40")
    assert warm.start(*new(tmp_path / "whole", *sets)).done().code == 0
    out = disk / "run"
    command = warm.start(*new(out, *sets))
    command.until(lambda: count(out, "step") >= 3)
    fill(str(disk))
    said = command.done().failed_in_words(1)
    assert f"{out / 'events.jsonl'} cannot be written: No space left on device. Make room, then go on with" in said
    (disk / FULL).unlink()
    assert warm.start("fit", "--resume", "--out", out).done().code == 0
    assert bits(out) == bits(tmp_path / "whole")
    assert [step for step, _ in steps(out)] == list(range(1, 41))


def test_a_feature_cache_without_room_costs_the_cache_alone(warm, new, disk, tmp_path):
    sets = ("model.freeze=towers",)
    assert warm.start(*new(tmp_path / "whole", *sets)).done().code == 0
    home = {"HONECLIP_HOME": str(disk / "home")}
    full = {"disk": str(disk), "at": ["features/"]}
    done = warm.start(*new(tmp_path / "run", *sets), environment=home, full=full).done()
    assert done.code == 0, done.err
    assert (disk / FULL).exists()
    assert "features are not kept" in done.err
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
