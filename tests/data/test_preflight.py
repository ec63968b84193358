"""What `check --json` says of data."""

from __future__ import annotations

import json

import pytest

from honeclip.data import pairs, preflight


def manifest(folder, rows, header="image,caption"):
    (folder / "pairs.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def words(texts):
    return [len(text.split()) for text in texts]


def test_the_contract(ten):
    manifest(
        ten,
        [*(f"{n}.png,c{n},train" for n in range(6)), "6.png,x,val", "7.png,y,test", "no.png,z,test"],
        "image,caption,split",
    )
    result = preflight.check(pairs.read(ten), count_tokens=words)
    assert (result["rows"], result["usable"], result["splits"]) == (9, 8, {"train": 6, "val": 1, "test": 1})
    assert [set(one) for one in result["problems"]] == [{"row", "file", "kind", "reason"}] * 2
    assert [(one["row"], one["kind"]) for one in result["problems"]] == [(0, "no_group"), (9, "missing")]
    assert not result["passed"]
    assert preflight.check(pairs.read(ten), max_bad_fraction=0.2)["passed"]
    json.dumps(result, allow_nan=False)


def test_long_captions_and_token_figures(ten):
    manifest(
        ten, ["0.png,one two three", "1.png,one two three four five", "2.png,one", "3.png,one two three four five"]
    )
    result = preflight.check(pairs.read(ten), count_tokens=words, context_length=4)
    long = [(one["row"], one["file"], one["reason"]) for one in result["problems"] if one["kind"] == "long_caption"]
    assert long == [(2, "1.png", "5 tokens: cut at 4"), (4, "3.png", "5 tokens: cut at 4")]
    assert result["tokens"] == {"context_length": 4, "median": 4, "longest": 5, "cut": 2, "cut_share": 0.5}


def test_counts_of_twins_labels_groups_and_small_images(ten):
    manifest(ten, ["0.png,a,x;y,g1", "0.png,b,x,g1", "1.png,a,,g2", "2.png,c,x,"], "image,caption,label,group")
    result = preflight.check(pairs.read(ten), size_px=13)
    assert (result["distinct_images"], result["distinct_captions"], result["groups"]) == (3, 3, 2)
    assert result["duplicate_share"] == pytest.approx(0.25)
    assert result["labels"] == {"x": 3, "y": 1}
    assert result["images_below_model_size"] == {"size_px": 13, "images": 4}
    assert preflight.check(pairs.read(ten), size_px=12)["images_below_model_size"]["images"] == 0


def test_expected_intervals_against_the_formula_and_what_cannot_be_measured(ten, photo):
    rows = []
    for number in range(100):
        photo(ten / f"i{number}.png", seed=100 + number, size=(8, 8))
        rows.append(f"i{number}.png,c{number},l{number % 2},test")
    manifest(ten, rows, "image,caption,label,split")
    widths = preflight.check(pairs.read(ten))["expected_intervals"]
    for name in ("image_to_text_R@10", "text_to_image_R@10", "accuracy"):
        assert widths[name] == pytest.approx(0.196)  # 2 x 1.96 x sqrt(0.25 / 100)
    manifest(ten, [row.replace(f"c{n},", "the same,") for n, row in enumerate(rows)], "image,caption,label,split")
    result = preflight.check(pairs.read(ten))
    assert "image_to_text_R@10" not in result["expected_intervals"]
    assert any("one caption only" in note for note in result["notes"])
    assert any("the split train has no rows" in note for note in result["notes"])


def test_no_usable_row(tmp_path):
    manifest(tmp_path, ["gone.png,x"])
    result = preflight.check(pairs.read(tmp_path), count_tokens=words, max_bad_fraction=1.0)
    assert (result["rows"], result["usable"], result["passed"]) == (1, 0, False)
    json.dumps(result, allow_nan=False)
