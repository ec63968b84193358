"""Shards behind addresses, and what is remembered of shards anywhere."""

from __future__ import annotations

import os
import tarfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Thread

import fsspec
import numpy as np
import pytest
import s3fs
import tiny_runs
from s3_server import BUCKET, S3, add, pack

from honeclip import places
from honeclip.data import manifest, pairs, remote, shards
from honeclip.data.loader import batches
from honeclip.data.order import order
from honeclip.data.reading import Waiting, waits
from honeclip.device.world import World
from honeclip.embedding.to_parts import begin, described, write_parts
from honeclip.errors import DataError, Unreachable
from honeclip.preprocess.preprocess import Preprocess
from honeclip.training.ranks import Ranks

ROWS, A_SHARD = 40, 8


@pytest.fixture(scope="module")
def packed(shared_data, tmp_path_factory) -> Path:
    """Five shards of real pictures."""
    return pack(shared_data / "tuxpaint_stamps", tmp_path_factory.mktemp("packed") / "shards", ROWS, A_SHARD)


@pytest.fixture(scope="module")
def there(s3: S3, packed) -> str:
    return s3.put(packed, "whole")


@pytest.fixture(autouse=True)
def _own_memory(tmp_path, monkeypatch):
    """What one test remembers is nothing to another."""
    monkeypatch.setenv("HONECLIP_HOME", str(tmp_path / "home"))


def contents(folder: Path) -> list[bytes]:
    """The pictures, by Python's own reader of tar files."""
    out = []
    for file in sorted(folder.glob("*.tar")):
        with tarfile.open(file) as archive:
            out += [archive.extractfile(one).read() for one in archive if not one.name.endswith(".json")]
    return out


def test_rows_behind_an_address_are_those_of_the_same_shards_here(packed, there, s3):
    here, far = manifest.read(f"{packed}/s-{{000..004}}.tar"), manifest.read(there)
    assert str(far.source) == there
    assert [(one.file, one.caption, one.labels, one.split, one.more) for one in far.rows] == [
        (one.file, one.caption, one.labels, one.split, one.more) for one in here.rows
    ]
    assert len(far.rows) == ROWS
    assert [one.image.read() for one in far.rows] == contents(packed)
    assert manifest.read(f"file://{packed}/s-{{000..004}}.tar").rows == here.rows


def test_a_second_start_opens_no_shard_and_a_changed_one_is_gone_through_again(packed, s3, tmp_path):
    where = s3.put(packed, "changing")
    keys = [f"changing/s-{number:03d}.tar" for number in range(5)]
    s3.requests()
    first = manifest.read(where).rows
    asked = s3.requests()
    assert {key for verb, key in asked if verb == "GET"} == set(keys)
    assert manifest.read(where).rows == first
    assert sorted(s3.requests()) == [("HEAD", key) for key in keys]
    with tarfile.open(tmp_path / "new.tar", "w") as archive:
        add(archive, "a.png", b"no picture")
        add(archive, "a.txt", b"something else")
    s3.client.put_object(Bucket=BUCKET, Key=keys[2], Body=(tmp_path / "new.tar").read_bytes())
    s3.requests()
    again = manifest.read(where).rows
    assert {key for verb, key in s3.requests() if verb == "GET"} == {keys[2]}
    assert [one.caption for one in again] == [
        *(one.caption for one in first[:16]),
        "something else",
        *(one.caption for one in first[24:]),
    ]


def test_pictures_are_looked_at_once_and_again_where_their_shard_changed(packed, s3, tmp_path):
    where = s3.put(packed, "looked-at")
    first = pairs.load(where)
    s3.requests()
    assert pairs.load(where).image_sha == first.image_sha
    assert {verb for verb, _ in s3.requests()} == {"HEAD"}
    raw = (packed / "s-000.tar").read_bytes()
    one, other = first.images[0], first.images[2]
    assert one.length > other.length
    padded = raw[other.offset : other.offset + other.length].ljust(one.length, b"\0")  # the shard keeps its length
    changed = raw[: one.offset] + padded + raw[one.offset + one.length :]
    s3.client.put_object(Bucket=BUCKET, Key="looked-at/s-000.tar", Body=changed)
    again = pairs.load(where)
    assert again.image_sha[0] == first.image_sha[2]
    assert again.image_sha[1:] == first.image_sha[1:]


def test_fsspec_can_keep_shards_on_this_disk(packed, there, s3, tmp_path, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "filecache", {"cache_storage": str(tmp_path / "kept")})
    for times in range(2):
        rows = manifest.read(f"filecache::{there}").rows
        assert [one.image.read() for one in rows] == contents(packed)
        assert s3.requests() if times == 0 else not s3.requests()


def test_here_too_a_shard_is_gone_through_once(packed, tmp_path):
    file = tmp_path / "s.tar"
    file.write_bytes((packed / "s-000.tar").read_bytes())
    table = shards.read([file])
    stat = file.stat()
    file.write_bytes(b"\0" * stat.st_size)  # nobody can have read this
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert shards.read([file]) == table
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(DataError, match="no samples"):
        shards.read([file])


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda raw: b"{}", lambda raw: raw[:40] + b"?" + raw[41:]])
def test_a_damaged_index_costs_nothing_but_time(packed, damage):
    table = shards.read([packed / "s-000.tar"])
    (index,) = places.shards().iterdir()
    whole = index.read_bytes()
    index.write_bytes(damage(whole))
    assert shards.read([packed / "s-000.tar"]) == table
    assert index.read_bytes() == whole


def test_it_is_said_how_far_the_first_start_is(there, monkeypatch):
    monkeypatch.setattr(shards, "SAY_S", 0.0)
    said: list[str] = []
    with waits(Waiting(said.append)):
        manifest.read(there)
        manifest.read(there)
    assert said == [
        "going through 5 of 5 shards for the first time; later starts know what is in them",
        *(f"shards gone through: {done} of 5" for done in range(1, 6)),
    ]


def test_where_nothing_can_be_remembered_shards_are_read_all_the_same(packed, tmp_path):
    places.home().parent.mkdir(exist_ok=True)
    places.home().write_text("a file, not a folder")
    assert len(shards.read([packed / "s-000.tar"]).records) == A_SHARD


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://pictures/nothing/s-{0..3}.tar", r"s3://pictures/nothing/s-0\.tar: there is no such shard"),
        ("s3://no-such-bucket/s.tar", r"s3://no-such-bucket/s\.tar: there is no such shard"),
        ("s3://pictures/whole/pairs.csv", "only WebDataset shards are read"),
        ("memory://s.tar", "not there for those that decode"),
        ("nonsense://s.tar", "nonsense.*such as s3://"),
    ],
)
def test_addresses_that_cannot_be(s3, there, address, words):
    with pytest.raises(DataError, match=words):
        manifest.read(address)


@pytest.fixture
def gone(monkeypatch):
    """gone() lets the server vanish for the rest of a test."""

    def go() -> None:
        monkeypatch.setattr(remote, "WAITS_S", (0.0, 0.0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the port of "discard", where nobody listens
        s3fs.S3FileSystem.clear_instance_cache()

    yield go
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_server_that_is_not_there_is_named_after_some_tries(there, gone):
    gone()
    with pytest.raises(Unreachable, match=r"s3://pictures/whole/s-000\.tar cannot be read: .*AWS_ENDPOINT_URL"):
        manifest.read(there)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_server_that_goes_ends_a_run_and_not_its_pictures_one_by_one(there, gone, workers):
    found = pairs.load(there)
    gone()
    draws = islice(order(ROWS, 4, 0, size_px=32), 1)
    with pytest.raises(Unreachable, match=r"s3://pictures/whole/s-00\d\.tar cannot be read") as raised:
        list(batches(found, Preprocess.from_open_clip({}, 32, None), draws, with_tokens=False, workers=workers))
    assert "Traceback" not in str(raised.value)


def test_a_server_that_goes_leaves_no_part_of_embeddings_without_its_rows(there, gone, tmp_path):
    clip = tiny_runs.make_clip(tiny_runs.text_files(tmp_path / "text"))
    rows, header = described(clip, there, 16)
    (tmp_path / "emb").mkdir()
    missing = begin(tmp_path / "emb", header)
    gone()
    with pytest.raises(Unreachable, match=r"s-000\.tar cannot be read"):
        write_parts(clip, rows, tmp_path / "emb", header, missing)
    assert [one.name for one in (tmp_path / "emb").iterdir()] == ["index.json"]


class _Busy(BaseHTTPRequestHandler):
    """Serves one file by ranges, and has no time for the first requests."""

    def __init__(self, content: bytes, refusals: list[int], *arguments) -> None:
        self.content, self.refusals = content, refusals
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self._answer(200, self.content)

    def do_GET(self) -> None:
        if self.refusals:
            self.send_error(self.refusals.pop())
            return
        first, last = self.headers.get("Range", f"bytes=0-{len(self.content) - 1}").removeprefix("bytes=").split("-")
        stop = min(int(last), len(self.content) - 1)
        self._answer(206, self.content[int(first) : stop + 1], f"bytes {first}-{stop}/{len(self.content)}")

    def _answer(self, code: int, content: bytes, stretch: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"one"')
        if stretch:
            self.send_header("Content-Range", stretch)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


def test_a_server_that_is_busy_for_a_while_is_asked_again_and_not_for_ever(packed, monkeypatch):
    content, refusals = (packed / "s-001.tar").read_bytes(), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Busy, content, refusals))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(remote, "WAITS_S", (0.0, 0.0, 0.0))
    try:
        (first, *_) = manifest.read(f"http://127.0.0.1:{server.server_port}/s-001.tar").rows
        refusals += [503] * 3
        assert first.image.read() == contents(packed)[A_SHARD]
        refusals += [503] * 4
        with pytest.raises(Unreachable, match=r"/s-001\.tar cannot be read: 503"):
            first.image.read()
        assert not refusals, "four times in all"
    finally:
        server.shutdown()
        server.server_close()


# --- in training -----------------------------------------------------------------------------------------------------


def test_a_shard_that_is_gone_fails_its_pictures_alone(packed, s3):
    found = pairs.load(s3.put(packed, "going"))
    assert len(found) == ROWS
    s3.client.delete_object(Bucket=BUCKET, Key="going/s-003.tar")
    how = Preprocess.from_open_clip({}, 32, None)
    (batch,) = batches(found, how, islice(order(ROWS, ROWS, 0, size_px=32), 1), with_tokens=False)
    gone = range(3 * A_SHARD, 4 * A_SHARD)
    assert sorted(batch.draw.indices) == [row for row in range(ROWS) if row not in gone]
    assert len(batch.lost) == A_SHARD
    assert all("going/s-003.tar is gone" in sentence for sentence in batch.lost)


@pytest.mark.slow
def test_over_ranks_and_workers_each_sample_comes_once_an_epoch(packed, there):
    """Two epochs in batches of 7, whose ends are not those of the epochs."""
    ranks, found, size, expected = 2, pairs.load(there), 7, contents(packed)
    how = Preprocess.from_open_clip({}, 32, None)
    steps = -(-2 * ROWS // size)
    by_step: list[list[int]] = [[] for _ in range(steps)]
    for rank in range(ranks):
        draws = islice(order(ROWS, size, 5, size_px=32, shards=shards.far(found.images)), steps)
        own = Ranks(World(rank=rank, size=ranks)).own(draws)
        for step, batch in enumerate(batches(found, how, own, with_tokens=False, workers=2)):
            rows = batch.draw.indices.tolist()
            by_step[step] += rows
            for row, pixels in zip(rows, batch.images, strict=True):
                assert np.array_equal(pixels.numpy(), how.image(expected[row]).numpy())
    whole = islice(order(ROWS, size, 5, shards=shards.far(found.images)), steps)
    flat = []
    for one, rows in zip(whole, by_step, strict=True):
        assert sorted(rows) == sorted(one.indices.tolist()), "together the ranks have the batch"
        flat += one.indices.tolist()
    for epoch in range(2):
        assert sorted(flat[epoch * ROWS : (epoch + 1) * ROWS]) == list(range(ROWS))
