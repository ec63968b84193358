"""Every image is decoded once; the memory of it is right, shared, and never in the way."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys

import pytest

from honeclip import places
from honeclip.data import inspect_images
from honeclip.data.inspect_images import Fault, inspect
from honeclip.preprocess.images import probe


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HONECLIP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def stored():
    with sqlite3.connect(places.inspections() / "images.sqlite3") as memory:
        count = memory.execute("SELECT count(*) FROM pictures").fetchone()[0]
    memory.close()
    return count


def test_facts_are_those_of_probe_and_are_remembered(home, ten):
    refs = sorted(ten.glob("*.png"))
    found = inspect([*refs, refs[0]])
    assert list(found) == refs
    assert all(found[ref] == probe(ref) for ref in refs)
    assert stored() == 10
    # Same bytes, same time: what is remembered is taken, the file is not opened.
    size, stat = refs[0].stat().st_size, refs[0].stat()
    refs[0].write_bytes(b"x" * size)
    os.utime(refs[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert inspect(refs) == found


def test_a_changed_file_is_looked_at_again(home, ten, photo):
    path = ten / "0.png"
    before = inspect([path])[path]
    photo(path, seed=77, size=(20, 12))
    after = inspect([path])[path]
    assert after == probe(path) != before
    assert stored() == 1


def test_a_file_of_the_same_size_and_another_time_is_looked_at_again(home, tmp_path, photo):
    """Also where its time is earlier: a file copied over with its old date."""
    path = photo(tmp_path / "a.bmp", seed=1)
    inspect([path])
    size, stat = path.stat().st_size, path.stat()
    photo(path, seed=2)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 1_000_000_000))
    assert path.stat().st_size == size
    assert inspect([path])[path] == probe(path)


def test_faults_are_not_remembered(home, ten):
    path = ten / "0.png"
    good = path.read_bytes()
    path.write_bytes(good[:50])
    assert inspect([path])[path].kind == "broken"
    stat = path.stat()
    path.write_bytes(good)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert inspect([path])[path] == probe(path)
    assert isinstance(inspect([ten / "gone.png"])[ten / "gone.png"], Fault)


def test_a_damaged_or_forbidden_memory_is_gone_around(home, ten, monkeypatch):
    refs = sorted(ten.glob("*.png"))
    expected = inspect(refs)
    memory = places.inspections() / "images.sqlite3"
    memory.write_bytes(b"torn" + memory.read_bytes()[4:200])
    assert inspect(refs) == expected
    (ten / "file").write_text("a file where the home should be")
    monkeypatch.setenv("HONECLIP_HOME", str(ten / "file"))
    assert inspect(refs) == expected


def test_progress_counts_distinct_images(home, ten, monkeypatch):
    monkeypatch.setattr(inspect_images, "CHUNK", 4)
    seen = []
    refs = sorted(ten.glob("*.png"))
    inspect(refs + refs, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 10), (8, 10), (10, 10)]


SCRIPT = """
import pathlib, sys
from honeclip.data.inspect_images import inspect
found = inspect(sorted(pathlib.Path(sys.argv[1]).glob("*.png")), workers=2)
print(sum(hasattr(fact, "pixels_sha256") for fact in found.values()))
"""


def test_processes_at_the_same_time(home, ten, photo):
    for number in range(10, 60):
        photo(ten / f"{number}.png", seed=number)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(ten)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    ended = [process.communicate() for process in running]
    assert [out.strip() for out, _ in ended] == ["60"] * 3, ended
    assert stored() == 60
