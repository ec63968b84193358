"""A run folder that may not be written: from the start, from a moment on, and when the run shall go on."""

from __future__ import annotations

import subprocess
from shutil import copytree

import pytest
from conftest import bits
from moments import count


@pytest.fixture
def shut():
    """shut(folder): nothing can be made in it any more; all are opened at the end."""
    closed = []

    def close(*folders) -> None:
        for folder in folders:
            folder.chmod(0o555)
            closed.append(folder)

    def reopen() -> None:
        while closed:
            closed.pop().chmod(0o755)

    close.reopen = reopen
    yield close
    reopen()


def test_where_no_folder_can_be_made_it_is_said(warm, new, whole, shut, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    shut(there)
    said = warm.start(*new(there / "run"), powerless=True).done().failed_in_words(1)
    assert f"{there / 'run'}: Permission denied" in said
    assert list(there.iterdir()) == []
    shut.reopen()
    assert warm.start(*new(there / "run"), powerless=True).done().code == 0
    assert bits(there / "run") == bits(whole)


@pytest.mark.parametrize("place", ["run", "checkpoints"])
def test_a_folder_that_becomes_read_only_ends_the_run_in_words(place, warm, new, resumed, shut, tmp_path):
    out = tmp_path / "run"
    command = warm.start(*new(out), powerless=True)
    command.until(lambda: count(out, "step") >= 4)
    shut({"run": out, "checkpoints": out / "checkpoints"}[place])
    said = command.done().failed_in_words(1)
    assert "Permission denied" in said
    assert str(out) in said
    shut.reopen()
    resumed(out)


def test_a_run_on_a_disk_that_is_read_only_goes_on_when_it_can_be_written(warm, half, resumed, disk):
    out = copytree(half, disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    said = warm.start("fit", "--resume", "--out", out).done().failed_in_words(1)
    assert "Read-only file system" in said
    assert warm.start("check", out).done().code == 0, "looking needs no right to write"
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    resumed(out)
