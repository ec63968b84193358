"""Text manifests: whatever separator, encoding, quoting and column names, the same rows; faults are named."""

from __future__ import annotations

import csv
import json

import pytest

from honeclip.data import manifest
from honeclip.errors import DataError

ROWS = [("0.png", 'a "grey" cat, asleep'), ("1.png", "zwei\nZeilen – ü"), ("2.png", "plain")]
CLEAN = ['a "grey" cat, asleep', "zwei Zeilen – ü", "plain"]


def written(path, rows, separator=",", newline="\n", encoding="utf-8", header=("image", "caption")):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator=newline)
        writer.writerows([header, *rows])
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_of_any_dialect(tmp_path, separator, newline, encoding):
    found = manifest.read(written(tmp_path / "m.csv", ROWS, separator, newline, encoding))
    assert [row.caption for row in found.rows] == CLEAN
    assert [row.file for row in found.rows] == ["0.png", "1.png", "2.png"]
    assert [row.image for row in found.rows] == [tmp_path / f"{number}.png" for number in range(3)]
    assert [row.row for row in found.rows] == [1, 2, 3]
    assert found.notes == ()


def test_latin_1_is_read_and_said(tmp_path):
    path = written(tmp_path / "m.csv", [("0.png", "Käfer auf Straße")], encoding="latin-1")
    found = manifest.read(path)
    assert found.rows[0].caption == "Käfer auf Straße"
    assert "Latin-1" in found.notes[0]
    assert "line 2" in found.notes[0]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        (("filepath", "title"), {}),
        (("filepath", "text"), {}),
        (("Image", " Caption "), {}),
        (("photo", "description"), {"image": "photo", "caption": "description"}),
        (("photo", "caption"), {"image": "Photo"}),
    ],
)
def test_other_column_names(tmp_path, header, columns):
    found = manifest.read(written(tmp_path / "m.csv", ROWS, header=header), columns)
    assert [row.caption for row in found.rows] == CLEAN


def test_a_named_column_wins_over_the_usual_one(tmp_path):
    path = written(tmp_path / "m.csv", [("0.png", "short", "long")], header=("image", "caption", "alt"))
    assert manifest.read(path, {"caption": "alt"}).rows[0].caption == "long"
    assert manifest.read(path).rows[0].caption == "short"


def test_labels_split_and_group(tmp_path):
    header = ("image", "caption", "label", "split", "group")
    path = written(tmp_path / "m.csv", [("0.png", "x", "a; b;a; ", "train", "p7")], header=header)
    row = manifest.read(path).rows[0]
    assert (row.labels, row.split, row.group) == (("a", "b"), "train", "p7")


def test_json_lines(tmp_path):
    lines = [{"image": "0.png", "caption": "one", "label": ["a", "b"]}, {"image": "1.png", "caption": None}]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join([json.dumps(lines[0]), "", "{broken", json.dumps(lines[1]), "[1]"]) + "\n")
    rows = manifest.read(path).rows
    assert [row.caption for row in rows] == ["one", "", "", ""]
    assert rows[0].labels == ("a", "b")
    assert "no JSON" in rows[1].fault
    assert "not an object" in rows[3].fault


def test_a_comma_outside_quotes_breaks_its_row_only(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text('image,caption\n0.png,a cat, asleep\n1.png,"a dog, awake"\n2.png,a bird,\n')
    rows = manifest.read(path).rows
    assert "3 fields where the header has 2" in rows[0].fault
    assert [row.caption for row in rows[1:]] == ["a dog, awake", "a bird"]
    assert rows[2].fault == ""


def test_an_open_quote_is_refused_with_its_line(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text('image,caption\n0.png,fine\n1.png,"never closed\n2.png,swallowed\n')
    with pytest.raises(DataError, match="line 4"):
        manifest.read(path)


def test_tab_separated_text_may_have_stray_quotes(tmp_path):
    path = tmp_path / "m.tsv"
    path.write_text('image\tcaption\n0.png\t"Stop" sign, red\n1.png\ta 3" pipe\n')
    found = manifest.read(path)
    assert [row.caption for row in found.rows] == ['"Stop" sign, red', 'a 3" pipe']
    assert "quotes" in found.notes[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("\ufeff\r\n  \r\n", ["empty"]),
        ("image,caption\n", ["no rows", "image, caption"]),
        ("photo,words\nx.png,y\n", ["no image column", "photo, words", "--columns"]),
        ("image,words\nx.png,y\n", ["no captions", "image, words"]),
        ("image\nx.png\n", ["no captions"]),
        ("image,caption\nx.png,\ny.png,  \n", ["no row has a caption"]),
        ("image,caption,caption\nx.png,a,b\n", ["twice", "caption"]),
        ("x\0y", ["no text file"]),
    ],
)
def test_faults_of_a_whole_manifest(tmp_path, text, words):
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(DataError) as caught:
        manifest.read(path)
    assert all(word in str(caught.value) for word in ["m.csv", *words])


def test_wrong_columns_are_named(tmp_path):
    path = written(tmp_path / "m.csv", ROWS)
    with pytest.raises(DataError, match=r"'photo'.*columns found are: image, caption"):
        manifest.read(path, {"image": "photo"})
    with pytest.raises(DataError, match="picture is no field"):
        manifest.read(path, {"picture": "image"})


def test_what_is_no_manifest(tmp_path, photo):
    with pytest.raises(DataError, match=r"nowhere.*no such file"):
        manifest.read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"folder without a manifest.*prepare"):
        manifest.read(tmp_path)
    with pytest.raises(DataError, match=r"\.png is no known form"):
        manifest.read(photo(tmp_path / "x.png"))
    (tmp_path / "pairs.csv").mkdir()
    with pytest.raises(DataError):
        manifest.read(tmp_path)
    with pytest.raises(DataError):
        manifest.read(tmp_path / "pairs.csv")


def test_a_folder_with_pairs_csv(tmp_path):
    written(tmp_path / "pairs.csv", ROWS)
    assert len(manifest.read(tmp_path).rows) == 3


def test_windows_paths_are_found(tmp_path, photo):
    photo(tmp_path / "images" / "ä b.png")
    found = manifest.read(written(tmp_path / "m.csv", [("images\\ä b.png", "x")]))
    assert found.rows[0].image == tmp_path / "images" / "ä b.png"


def test_parse_columns():
    assert manifest.parse_columns("image=photo, caption = a b") == {"image": "photo", "caption": "a b"}
    assert manifest.parse_columns("") == {}
    with pytest.raises(DataError, match="FIELD=COLUMN"):
        manifest.parse_columns("photo")
