"""`honeclip embed` by several processes: the parts are those of one process, each row once, whoever is killed."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from honeclip.cli import several
from honeclip.embedding import parts
from honeclip.embedding.index import Index
from honeclip.embedding.to_parts import embed_to_parts
from honeclip.errors import BadInput
from honeclip.model.load import load

ROWS = 72


def arguments(model: Path, data: Path, out: Path, part_rows: int = 5) -> list[str]:
    return ["embed", str(model), "--data", str(data), "--out", str(out), f"--part-rows={part_rows}", "--device=cpu"]


def table(folder: Path):
    return pq.read_table(sorted(folder.glob("part-*.parquet")))


def rank_of(process: psutil.Process) -> str:
    return process.environ().get("RANK", "")


@pytest.mark.slow
def test_two_processes_write_what_one_does(stamps, reader, tmp_path, started_torchrun):
    embed_to_parts(load(str(reader), device="cpu"), stamps, tmp_path / "one", part_rows=5)
    process = started_torchrun(2, "-m", "honeclip", *arguments(reader, stamps, tmp_path / "two"), "--json")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    said = json.loads(out)  # one object: printed once
    assert (said["rows"], said["parts"], said["computed"], said["left_out"]) == (ROWS, 15, 15, [])
    assert err.count("15 of 15 parts computed now") == 1
    assert table(tmp_path / "two").equals(table(tmp_path / "one")), "the same batches, so the same bits"
    assert table(tmp_path / "two")["id"].to_pylist() == list(range(1, ROWS + 1))
    again = embed_to_parts(load(str(reader), device="cpu"), stamps, tmp_path / "two", part_rows=5)
    assert again.computed == 0
    assert Index.open(tmp_path / "two").rows == ROWS


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_killed_and_started_again_by_another_number(rank, shared_data, reader, tmp_path, started_torchrun):
    """Of all stamps, so that much is left to do when the first parts are there."""
    data, out = shared_data / "tuxpaint_stamps", tmp_path / "emb"
    with (data / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = len(list(csv.DictReader(file)))
    process = started_torchrun(2, "-m", "honeclip", *arguments(reader, data, out, 8))
    with process.stdout, process.stderr:
        for line in process.stderr:
            if "embedding rows" in line and int(line.split()[2].split("/")[0]) >= 40:
                (one,) = (one for one in psutil.Process(process.pid).children(recursive=True) if rank_of(one) == rank)
                one.send_signal(signal.SIGKILL)
                break
        err = process.stderr.read()
    assert process.wait() == 1
    assert "honeclip/embedding/ranks.py" not in err, "no traceback of honeclip; torchrun prints its own"
    other = {"0": "1", "1": "0"}[rank]
    assert f"error: rank {other} was stopped by SIGTERM" in err or "another process of this run is gone" in err
    assert "Signal 9 (SIGKILL)" in err, "torchrun says who"
    header = parts.read_header(out)
    whole = [number for number in range(header.parts) if parts.is_whole(out, header, number)]
    assert 0 < len(whole) < header.parts
    before = {parts.path(out, number): parts.path(out, number).stat().st_mtime_ns for number in whole}

    process = started_torchrun(3, "-m", "honeclip", *arguments(reader, data, out, 8), "--json")
    said, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert json.loads(said)["computed"] == header.parts - len(whole)
    assert all(part.stat().st_mtime_ns == then for part, then in before.items())
    assert not list(out.glob(".part*"))
    embed_to_parts(load(str(reader), device="cpu"), data, tmp_path / "one", part_rows=8)
    assert table(out).equals(table(tmp_path / "one"))
    assert len(table(out)) == rows


ELSEWHERE = """
import os, sys
if os.environ["RANK"] == "1":
    os.chdir(sys.argv.pop(1))
else:
    del sys.argv[1]
from honeclip.__main__ import main
main()
"""
"""As `python -m honeclip`, but rank 1 begins in another folder: a machine that does not share the disk."""


@pytest.mark.slow
def test_a_process_that_cannot_do_its_part_ends_all_in_its_words(stamps, reader, tmp_path, started_torchrun):
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    out = Path("emb-of-rank-0")
    process = started_torchrun(2, script, tmp_path, *arguments(reader, stamps, out))
    try:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 1
        assert "error: rank 1: emb-of-rank-0/index.json, which rank 0 has written, is not there" in err
        assert "--out has to be a folder that all machines share" in err
    finally:
        for file in out.glob("*") if out.is_dir() else ():
            file.unlink()


@pytest.mark.slow
def test_what_rank_0_refuses_it_says_alone_and_first(stamps, reader, tmp_path, started_torchrun):
    (tmp_path / "emb").mkdir()
    (tmp_path / "emb" / "letter.txt").write_text("dear")
    process = started_torchrun(2, "-m", "honeclip", *arguments(reader, stamps, tmp_path / "emb"))
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "error: " in err
    assert "no folder of embeddings: name another --out" in err
    assert "exitcode  : 2" in err


@pytest.mark.parametrize("rank", ["0", "1"])
def test_commands_that_cannot_share_their_work_are_refused(rank, monkeypatch):
    monkeypatch.setattr(several, "PATIENCE_S", 0.0)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in ("evaluate", "tune", "serve", "bench"):
        with pytest.raises(BadInput, match=f"honeclip {command} under torchrun.*honeclip fit and honeclip embed share"):
            several.check(command)
    several.check("fit")
    several.check("embed")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    several.check("evaluate")


@pytest.mark.slow
def test_the_refusal_is_said_once(reader, stamps, started_torchrun):
    process = started_torchrun(2, "-m", "honeclip", "evaluate", reader, "--data", stamps)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (1, "")
    assert err.count("honeclip evaluate under torchrun (WORLD_SIZE=2)") == 1
    assert "exitcode  : 2" in err
