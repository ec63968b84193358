"""Parquet and saved Hugging Face data sets, images as paths and as bytes, read without the `datasets` package."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from honeclip import places
from honeclip.data import pairs
from honeclip.errors import DataError


def blobs(folder, count):
    return [(folder / f"{number}.png").read_bytes() for number in range(count)]


def test_parquet_with_paths(ten):
    table = pa.table(
        {
            "image": [f"{number}.png" for number in range(10)],
            "caption": [f"c{number}" for number in range(9)] + [None],
            "label": [["a", "b"], ["a"], [], None, *[["b"]] * 6],
        }
    )
    pq.write_table(table, ten / "m.parquet")
    found = pairs.read(ten / "m.parquet")
    assert found.captions == tuple(f"c{number}" for number in range(9))
    assert found.labels[:4] == (("a", "b"), ("a",), (), ())
    assert [(one.row, one.kind) for one in found.problems if one.row] == [(10, "empty_caption")]


@pytest.mark.parametrize("kind", ["binary", "large_binary", "struct"])
def test_parquet_with_bytes(ten, kind):
    data = [*blobs(ten, 9), None]
    if kind == "struct":
        values = [{"bytes": one, "path": None} for one in data[:8]] + [{"bytes": None, "path": "8.png"}, None]
        column = pa.array(values, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    else:
        column = pa.array(data, pa.binary() if kind == "binary" else pa.large_binary())
    path = ten / "m.parquet"
    columns = {"image": column, "text": [f"c{n}" for n in range(10)], "mask": data, "embedding": [[1.0] * 8] * 10}
    pq.write_table(pa.table(columns), path, row_group_size=3)
    first = pairs.read(path)
    again = pairs.read(path)
    assert len(first) == 9
    assert [(one.row, one.kind) for one in first.problems if one.row] == [(10, "missing")]
    assert first.image_sha == again.image_sha
    assert first.images[4].read() == blobs(ten, 5)[4]
    assert first.images[4].name == "m.parquet row 5"
    with pytest.raises(DataError, match="columns found are: image, text, mask, embedding"):
        pairs.read(path, columns={"caption": "alt"})


def test_unpacked_bytes_are_repaired_and_follow_the_file(ten):
    path = ten / "m.parquet"
    pq.write_table(pa.table({"image": blobs(ten, 3), "caption": ["a", "b", "c"]}), path)
    first = pairs.read(path)
    first.images[0].archive.write_bytes(b"cut")
    assert pairs.read(path).images[2].read() == blobs(ten, 3)[2]
    pq.write_table(pa.table({"image": blobs(ten, 5)[::-1], "caption": list("abcde")}), path)
    assert pairs.read(path).images[0].read() == blobs(ten, 5)[4]
    assert not list((places.inspections() / "unpacked").glob("*.partial"))


def saved(script, *arguments):
    """The `datasets` package in a process of its own: it warns and it draws progress bars."""
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SAVE = """
import sys, pathlib, datasets
source, target, how = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def make(numbers):
    return datasets.Dataset.from_dict(
        {"image": [str(source / f"{n}.png") for n in numbers], "text": [f"c{n}" for n in numbers],
         "label": [n % 2 for n in numbers], "also": [[0, 1] for n in numbers]},
        features=datasets.Features({"image": datasets.Image(), "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["even", "odd"]),
            "also": datasets.Sequence(datasets.ClassLabel(names=["x", "y"]))}))
if how == "dict":
    made = datasets.DatasetDict({"train": make(range(6)), "validation": make([6, 7]), "test": make([8, 9])})
    made.save_to_disk(target)
else:
    make(range(10)).save_to_disk(target, num_shards=2)
"""


def test_a_saved_data_set(ten, tmp_path):
    saved(SAVE, ten, tmp_path / "one", "one")
    found = pairs.read(tmp_path / "one")
    assert found.captions == tuple(f"c{number}" for number in range(10))
    assert found.labels == (("even",), ("odd",)) * 5
    assert [ref.read() for ref in found.images] == blobs(ten, 10)
    assert {ref.archive.parent for ref in found.images} == {tmp_path / "one"}
    assert pairs.read(tmp_path / "one", columns={"label": "also"}).labels[0] == ("x", "y")

    (tmp_path / "one" / "state.json").write_text('{"_data_files": [{"filename": "gone.arrow"}]}')
    with pytest.raises(DataError, match=r"gone\.arrow"):
        pairs.read(tmp_path / "one")


def test_saved_splits_and_a_damaged_file(ten, tmp_path):
    saved(SAVE, ten, tmp_path / "parts", "dict")
    found = pairs.read(tmp_path / "parts")
    assert found.splits == ("train",) * 6 + ("val",) * 2 + ("test",) * 2
    assert found.captions == tuple(f"c{number}" for number in range(10))
    arrow = next((tmp_path / "parts" / "test").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(DataError, match="no readable Arrow file"):
        pairs.read(tmp_path / "parts")


def test_compressed_arrow_is_refused(ten, tmp_path):
    folder = tmp_path / "lz4"
    folder.mkdir()
    noise = np.zeros((64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "flat.bmp")
    table = pa.table({"image": [(tmp_path / "flat.bmp").read_bytes()] * 4, "text": list("abcd")})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        pa.OSFile(str(folder / "d.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema, options=options) as out,
    ):
        out.write_table(table)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "d.arrow"}]}')
    with pytest.raises(DataError, match="compressed"):
        pairs.read(folder)


def test_damaged_parquet(tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="no readable Parquet"):
        pairs.read(tmp_path / "m.parquet")
