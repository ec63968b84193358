"""Rows on disk by key: what was written comes back, damage costs only what was damaged, and nobody waits."""

from __future__ import annotations

import hashlib
import multiprocessing

import numpy as np
import pytest
import torch

from honeclip.embedding import store


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def row(number: int, width: int = 5) -> torch.Tensor:
    return torch.full((width,), float(number)) + torch.arange(width) / 10


def put(folder, numbers) -> None:
    store.write(folder, [key(number) for number in numbers], torch.stack([row(number) for number in numbers]))


def held(folder, numbers) -> dict[int, torch.Tensor]:
    found = {}
    for places, rows in store.read(folder, {key(number): number for number in numbers}):
        assert places.dtype == np.int64
        found.update(zip(places.tolist(), rows, strict=True))
    return found


def parts(folder):
    return sorted(folder.glob("part-*.safetensors"))


def test_what_is_written_comes_back(tmp_path):
    put(tmp_path / "new" / "folder", range(10))
    found = held(tmp_path / "new" / "folder", [3, 7, 99])
    assert sorted(found) == [3, 7]
    assert all(torch.equal(values, row(number)) for number, values in found.items())


def test_an_empty_or_missing_folder_holds_nothing(tmp_path):
    assert held(tmp_path / "missing", range(5)) == {}
    assert held(tmp_path, range(5)) == {}


def test_several_parts_are_all_read(tmp_path):
    for start in range(0, 30, 10):
        put(tmp_path, range(start, start + 10))
    assert len(parts(tmp_path)) == 3
    assert sorted(held(tmp_path, range(30))) == list(range(30))


def test_the_same_rows_make_the_same_part(tmp_path):
    put(tmp_path, range(4))
    before = parts(tmp_path)[0].read_bytes()
    put(tmp_path, range(4))
    assert [part.read_bytes() for part in parts(tmp_path)] == [before]
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == [], "nothing is left aside"


def test_rows_that_lie_elsewhere_in_memory_are_stored_as_they_are(tmp_path):
    wide = torch.arange(24.0).reshape(4, 6).T
    store.write(tmp_path, [key(number) for number in range(6)], wide)
    assert torch.equal(torch.stack([held(tmp_path, range(6))[number] for number in range(6)]), wide)


def flip(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize(
    "damage",
    [flip, lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"\xff" * 200],
    ids=["one bit", "cut", "empty", "noise"],
)
def test_a_damaged_part_is_removed_and_the_others_serve(tmp_path, caplog, damage):
    put(tmp_path, range(10))
    (whole,) = parts(tmp_path)
    put(tmp_path, range(10, 20))
    (other,) = set(parts(tmp_path)) - {whole}
    other.write_bytes(damage(other.read_bytes()))
    assert sorted(held(tmp_path, range(20))) == list(range(10))
    assert parts(tmp_path) == [whole]
    assert "damaged part of the feature cache" in caplog.text
    put(tmp_path, range(10, 20))
    assert sorted(held(tmp_path, range(20))) == list(range(20))


def test_what_a_killed_process_left_aside_is_never_read(tmp_path):
    put(tmp_path, range(3))
    (part,) = parts(tmp_path)
    (tmp_path / f".{part.name}.123-abcd").write_bytes(part.read_bytes()[:50])
    assert sorted(held(tmp_path, range(3))) == [0, 1, 2]


def test_a_place_that_cannot_be_written_costs_only_the_cache(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    put(tmp_path / "file", range(3))
    assert "features are not kept" in caplog.text
    assert held(tmp_path / "file", range(3)) == {}


def _writer(folder, start) -> None:
    for first in range(start, start + 60, 10):
        put(folder, range(first, first + 10))


def test_two_processes_write_into_one_folder(tmp_path):
    """Half of what they write is the same."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_writer, args=(tmp_path, start)) for start in (0, 30)]
    for one in writers:
        one.start()
    for one in writers:
        one.join(timeout=120)
        assert one.exitcode == 0
    found = held(tmp_path, range(90))
    assert sorted(found) == list(range(90))
    assert all(torch.equal(values, row(number)) for number, values in found.items())
    assert len(parts(tmp_path)) == 9, "equal parts have equal names"
    assert len(list(tmp_path.iterdir())) == 9
