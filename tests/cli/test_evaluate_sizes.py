"""`honeclip evaluate --sizes`: METRICS with `robustness`, a table for people, bad sizes."""

from __future__ import annotations

import json

import pytest


def test_json_has_the_metrics_of_each_size(command, tiny, shapes, tmp_path):
    code, out, err = command(
        "evaluate",
        tiny,
        "--data",
        shapes,
        "--sizes",
        "32, 50,64px",
        "--device",
        "cpu",
        "--out",
        tmp_path / "r",
        "--json",
    )
    assert code == 0
    found = json.loads(out)
    assert list(found["robustness"]) == ["32", "48", "64"]
    for size, one in found["robustness"].items():
        assert one["size_px"] == int(size)
        assert {"retrieval", "zeroshot", "difference", "consistency", "cost", "changed"} <= set(one)
    assert "note: 50 px is no multiple of the model's patch of 16 px: 48 px was taken." in err
    assert "Over image sizes" in (tmp_path / "r" / "index.html").read_text()


def test_a_row_a_size_for_people(command, tiny, shapes):
    code, out, _ = command("evaluate", tiny, "--data", shapes, "--sizes", "64", "--device", "cpu")
    assert code == 0
    rows = out.splitlines()
    assert any(line.startswith("32 px, its own") for line in rows)
    assert any(line.startswith("64 px") for line in rows)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ("12a", "--sizes '12a': whole pixels with commas between them, such as 128,160,224"),
        ("", "--sizes '': whole pixels"),
        ("64,,32", "whole pixels"),
        ("-64", "whole pixels"),
        ("0", "a size of 0 px: sizes go from 1 to 4096 pixels"),
        ("100000", "a size of 100000 px"),
    ],
)
def test_bad_sizes_exit_2_before_the_data_is_read(command, tiny, tmp_path, sizes, says):
    code, out, err = command("evaluate", tiny, "--data", tmp_path / "nowhere.csv", f"--sizes={sizes}", "--json")
    assert (code, out) == (2, "")
    assert says in err
    assert "nowhere" not in err
    assert "Traceback" not in err
