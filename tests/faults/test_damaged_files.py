"""Each file of a run with one byte changed, cut in half, or gone: of a run that was stopped, and of one that has ended.

What must come out again are the same bits. A file that the run needs for that is refused in words that say what to do.
"""

from __future__ import annotations

import random
from pathlib import Path
from shutil import copytree

import pytest
from conftest import bits

FAULTS = ("changed", "cut", "gone")


def damage(file: Path, fault: str) -> None:
    content = bytearray(file.read_bytes())
    if fault == "gone":
        file.unlink()
    elif fault == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        chance = random.Random(file.name)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(content)


def compared(out: Path, file: str) -> dict[str, object]:
    """Events that are gone are gone: a checkpoint does not hold them."""
    lost = ("steps", "scores") if file == "events.jsonl" else ()
    return {key: one for key, one in bits(out).items() if key not in lost}


def ends_as(whole, warm, out, file):
    """The run goes on, after what it says to do where its settings were changed, and ends with the bits of the whole one."""
    done = warm.start("fit", "--resume", "--out", out).done()
    if done.code == 2:
        assert "Delete that file, and --resume goes on" in done.failed_in_words(2)
        assert file == "run.toml"
        (out / file).unlink()
        done = warm.start("fit", "--resume", "--out", out).done()
    assert done.code == 0, done.err
    assert compared(out, file) == compared(whole, file)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "file",
    [
        "run.toml",
        "run.json",
        "events.jsonl",
        "before.json",
        "checkpoints/LATEST",
        "checkpoints/BEST",
        *(
            f"checkpoints/LAST/{name}"
            for name in ("weights.safetensors", "state.json", "manifest.json", "manifest.sha256")
        ),
    ],
)
def test_a_stopped_run_with_a_damaged_file_ends_with_the_same_bits(file, fault, warm, half, whole, tmp_path):
    out = copytree(half, tmp_path / "run")
    last = (out / "checkpoints" / "LATEST").read_text().strip()
    damage(out / file.replace("LAST", last) if "LAST/" in file else out / file, fault)
    assert "Traceback" not in warm.start("check", out).done().err
    ends_as(whole, warm, out, file)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "file",
    [
        "model/open_clip_model.safetensors",
        "model/open_clip_config.json",
        "model/honeclip.json",
        "model/tokenizer.json",
        "report/index.html",
        "report/report.json",
        "result.json",
        "run.toml",
        "run.json",
        "events.jsonl",
        "before.json",
    ],
)
def test_a_finished_run_with_a_damaged_file_is_found_and_written_again(file, fault, warm, whole, tmp_path):
    out = copytree(whole, tmp_path / "run")
    damage(out / file, fault)
    checked = warm.start("check", out).done()
    assert "Traceback" not in checked.err
    if file.split("/")[0] in ("model", "report") or (file == "result.json" and fault != "gone"):
        assert file in checked.failed_in_words(2)
        assert "--resume writes it again" in checked.err
    ends_as(whole, warm, out, file)
    if file != "events.jsonl":
        assert warm.start("check", out).done().code == 0


def test_a_setting_that_was_edited_is_named_and_taken_back(warm, half, resumed, tmp_path):
    """A changed byte in run.toml may be a changed seed."""
    out = copytree(half, tmp_path / "run")
    file = out / "run.toml"
    file.write_text(file.read_text().replace("seed = 0", "seed = 4"))
    said = warm.start("fit", "--resume", "--out", out).done().failed_in_words(2)
    assert "train.seed: the run has 0, the file says 4" in said
    assert str(file) in warm.start("check", out).done().failed_in_words(2)
    file.unlink()
    assert "its copy run.json was taken" in resumed(out).err
