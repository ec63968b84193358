"""Processes that decode are killed, and pictures whose drive does not answer."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from shutil import copytree

import pytest
from conftest import bits
from moments import count

from honeclip.data.reading import PATIENCE_S


def children(pid: int) -> list[int]:
    """Process numbers of the decoding processes of a run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            words = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in words:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("deaths", [1, 2])
def test_a_decoding_process_that_is_killed_is_replaced_and_no_bit_changes(deaths, warm, new, whole, tmp_path):
    out = tmp_path / "run"
    command = warm.start(*new(out, "data.workers=2"))
    command.until(lambda: count(out, "step") >= 1, 300)
    for pid in children(command.pid)[:deaths]:
        os.kill(pid, signal.SIGKILL)
    done = command.done(300)
    assert done.code == 0, done.err
    assert "a process that decodes pictures has ended" in done.err
    assert "Traceback" not in done.err
    assert bits(out) == bits(whole)


def silent(picture: Path) -> bytes:
    """Puts something in the place of a picture that can be opened and never answers; gives what was there."""
    content = picture.read_bytes()
    aside = picture.with_name("aside")
    os.mkfifo(aside)
    aside.replace(picture)
    return content


@pytest.mark.timeout(600)
def test_a_picture_whose_drive_is_gone_is_named_and_a_signal_ends_the_wait(
    warm, new, data, model, whole, resumed, tmp_path
):
    """In a step, in an evaluation, while data are looked at, and in a process that decodes: four runs side by side."""
    rows = [line.split(",") for line in (data / "pairs.csv").read_text().splitlines()[1:]]
    first = {split: next(row[0] for row in rows if row[-1] == split) for split in ("train", "val")}
    commands = {}
    for place, workers in (("step", 0), ("evaluation", 0), ("start", 0), ("worker", 1)):
        own = copytree(data, tmp_path / place / data.name)
        out = tmp_path / place / "run"
        arguments = [str(own) if one == data else one for one in new(out, f"data.workers={workers}")]
        picture = own / first["val" if place == "evaluation" else "train"]
        content = silent(picture) if place == "start" else b""
        command = warm.start(*arguments)
        if place != "start":
            assert command.until(lambda out=out: count(out, "step") >= 1, 300)
            content = silent(picture)
        commands[place] = (command, arguments, out, picture, content)
    for place, (command, arguments, out, picture, content) in commands.items():
        command.until(lambda command=command: "does not answer" in command.err, PATIENCE_S + 60)
        assert f"{picture} does not answer: it is being read for" in command.err
        command.send(signal.SIGTERM)
        said = command.done(60).failed_in_words(143)
        assert "--resume" in said
        picture.unlink()
        picture.write_bytes(content)
        if place == "start":
            assert not out.exists()
            assert warm.start(*arguments).done().code == 0
            assert bits(out) == bits(whole)
        else:
            resumed(out)
