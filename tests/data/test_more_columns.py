"""Columns that mean nothing to honeclip itself reach the rows, for figures by subgroup."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from honeclip.data import pairs as manifests

RECORDS = [
    {"image": f"{number}.png", "caption": f"shade {number}", "sex": "FM"[number % 2], "age": 40 + number}
    for number in range(4)
]


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 10, 10)).save(tmp_path / f"{number}.png")
    return tmp_path


def write_csv(folder):
    lines = [",".join(map(str, one.values())) for one in RECORDS]
    (folder / "pairs.csv").write_text("\n".join([",".join(RECORDS[0]), *lines]))
    return folder / "pairs.csv"


def write_json_lines(folder):
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps({**one, "box": [1, 2]}) for one in RECORDS))
    return folder / "pairs.jsonl"


def write_parquet(folder):
    table = pa.Table.from_pylist([{**one, "vector": [0.5, 1.5]} for one in RECORDS])
    pq.write_table(table, folder / "pairs.parquet")
    return folder / "pairs.parquet"


@pytest.mark.parametrize("write", [write_csv, write_json_lines, write_parquet])
def test_further_columns_follow_their_rows(folder, write):
    found = manifests.load(write(folder))
    assert found.more["sex"] == ("F", "M", "F", "M")
    assert found.more["age"] == ("40", "41", "42", "43")
    assert found.select([3, 0]).more["age"] == ("43", "40")
    assert not set(found.more) & {"image", "caption"}
    assert all(not any(found.more.get(name, ())) for name in ("box", "vector")), "a list is no subgroup"
