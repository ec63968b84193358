"""WebDataset shards: samples are grouped, text comes from either sidecar, images are read where they lie."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import pytest
from PIL import Image

from honeclip.data import pairs, shards
from honeclip.errors import DataError


def png(number, size=(9, 8)):
    out = io.BytesIO()
    Image.new("RGB", size, (number, 2 * number, 7)).save(out, "PNG")
    return out.getvalue()


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_range_of_shards(tmp_path):
    for shard in range(3):
        members = []
        for sample in range(4):
            number = 4 * shard + sample
            fields = json.dumps({"caption": f"caption {number}", "label": f"l{sample % 2}"}).encode()
            members += [(f"a/{number:04d}.png", png(number)), (f"a/{number:04d}.json", fields)]
        tar(tmp_path / f"s-{shard:03d}.tar", members)
    found = pairs.load(f"{tmp_path}/s-{{000..002}}.tar")
    assert found.captions == tuple(f"caption {number}" for number in range(12))
    assert found.labels[:3] == (("l0",), ("l1",), ("l0",))
    assert found.images[5].read() == png(5)
    assert found.images[5].name == "s-001.tar/a/0005.png"
    assert found.files[5] == "s-001.tar/a/0005.png"
    assert len(set(found.image_sha)) == 12


def test_txt_beside_json_and_cls(tmp_path):
    path = tar(
        tmp_path / "x.tar",
        [
            ("0.txt", "from text é".encode()),
            ("0.jpg.png", b"not an image member"),
            ("0.png", png(0)),
            ("0.json", b'{"caption": "from json", "label": ["a", "b"], "split": "test"}'),
            ("1.png", png(1)),
            ("1.txt", b"one"),
            ("1.cls", b"c"),
            ("2.png", png(2)),
            ("2.json", b"{broken"),
            ("3.txt", b"no image"),
        ],
    )
    table = shards.read([path])
    assert table.records[0]["caption"] == "from text é"
    assert table.records[0]["label"] == ["a", "b"]
    assert table.records[1]["label"] == "c"
    assert "2.json is no JSON" in table.faults[2]
    assert [record["image"] if isinstance(record["image"], str) else "" for record in table.records][3] == "x.tar/3"


def test_faults_of_samples_are_problems(tmp_path):
    members = [(f"{n}.png", png(n)) for n in range(3)] + [("0.txt", b"zero"), ("1.json", b"{no"), ("3.txt", b"three")]
    members.append(("4.png", png(4)[:40]))
    members.append(("4.txt", b"cut"))
    found = pairs.read(tar(tmp_path / "x.tar", members))
    assert [(one.row, one.kind) for one in found.problems if one.row] == [
        (2, "broken"),
        (3, "empty_caption"),
        (4, "missing"),
        (5, "broken"),
    ]
    assert len(found) == 1


def test_missing_compressed_and_cut_shards(tmp_path):
    whole = tar(tmp_path / "s-0.tar", [("0.png", png(0)), ("0.txt", b"x")])
    with pytest.raises(DataError, match=r"s-1\.tar: there is no such shard \(and 1 more of 3"):
        pairs.read(f"{tmp_path}/s-{{0..2}}.tar")
    (tmp_path / "z.tar").write_bytes(gzip.compress(whole.read_bytes()))
    with pytest.raises(DataError, match="compressed"):
        pairs.read(tmp_path / "z.tar")
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:600])
    with pytest.raises(DataError, match="damaged"):
        pairs.read(tmp_path / "cut.tar")
    with pytest.raises(DataError, match="no samples"):
        pairs.read(tar(tmp_path / "none.tar", []))


def test_expand():
    names = [path.name for path in shards.expand("s-{008..011}.tar")]
    assert names == ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]
    assert len(shards.expand("{0..1}-{0..2}.tar")) == 6
    with pytest.raises(DataError, match="empty"):
        shards.expand("s-{3..1}.tar")
