"""Manifests from what people have, each read back as data."""

from __future__ import annotations

import json
import shutil

import pytest

from honeclip.data import pairs
from honeclip.data.prepare import prepare
from honeclip.domains.domain import Domain
from honeclip.errors import DataError

STRANGE = ("Käfer, groß.png", "a b;c.PNG", 'say "x".jpg', "plain.webp")


@pytest.fixture
def source(tmp_path):
    return tmp_path / "my photos, ü"


def read(folder):
    found = pairs.load(folder, max_bad_fraction=0.0)
    return found, {path.resolve(): row for row, path in enumerate(found.images)}


def test_class_folders(source, photo, tmp_path):
    for number, name in enumerate(STRANGE):
        photo(source / "hot_rolled" / name, number)
        photo(source / "other" / "deep er" / name, 10 + number)
    photo(source / "other" / "._hidden.png", 50)
    domain = Domain(name="d", title="D", templates=("a scan of {label}",), label_names={"hot_rolled": "hot steel"})
    done = prepare(source, tmp_path / "out", domain=domain)
    assert (done.form, done.rows, done.splits) == ("class folders", 8, {})
    found, row_of = read(tmp_path / "out")
    row = row_of[(source / "hot_rolled" / STRANGE[0]).resolve()]
    assert (found.captions[row], found.labels[row]) == ("a scan of hot steel", ("hot_rolled",))
    row = row_of[(source / "other" / "deep er" / STRANGE[1]).resolve()]
    assert (found.captions[row], found.labels[row]) == ("a scan of other deep er", ("other/deep er",))
    assert not any(part.startswith("/") for part in found.files)


def test_class_folders_below_splits_and_below_one_folder(source, photo, tmp_path):
    for number, place in enumerate(("train/a", "train/b", "valid/a", "Test/b")):
        photo(source / place / "x.png", number)
    done = prepare(source, tmp_path / "out")
    assert done.splits == {"train": 2, "val": 1, "test": 1}
    found, _ = read(tmp_path / "out")
    assert dict(zip(found.files, found.labels, strict=True))[found.files[2]] in (("a",), ("b",))
    assert set(found.labels) == {("a",), ("b",)}

    for number, place in enumerate(("images/a", "images/b")):
        photo(tmp_path / "nested" / place / "x.png", number)
    prepare(tmp_path / "nested", tmp_path / "out2")
    assert set(read(tmp_path / "out2")[0].labels) == {("a",), ("b",)}

    photo(tmp_path / "one" / "only" / "x.png")
    prepare(tmp_path / "one", tmp_path / "out3")
    assert read(tmp_path / "out3")[0].labels == (("only",),)


def test_splits_beside_classes_are_refused(source, photo, tmp_path):
    photo(source / "train" / "a" / "x.png")
    photo(source / "ground_truth" / "y.png")
    with pytest.raises(DataError, match="train look like splits, but ground_truth"):
        prepare(source, tmp_path / "out")


def test_texts_beside_images(source, photo, tmp_path):
    for number, name in enumerate(STRANGE):
        image = photo(source / "sub" / name, number)
        image.with_suffix(".txt").write_text(f"caption {number},\n über “{name}”\n", encoding="utf-8")
    photo(source / "alone.png", 9)
    done = prepare(source, tmp_path / "deep" / "out")
    assert done.form == "captions beside images"
    assert any("alone.png" in note for note in done.notes)
    found, row_of = read(tmp_path / "deep" / "out")
    for number, name in enumerate(STRANGE):
        assert found.captions[row_of[(source / "sub" / name).resolve()]] == f"caption {number}, über “{name}”"
    assert len(found) == 4


def test_a_stray_text_makes_no_captions(source, photo, tmp_path):
    for number in range(4):
        photo(source / f"class {number % 2}" / f"{number}.png", number)
    (source / "class 0" / "0.txt").write_text("notes of mine")
    done = prepare(source, tmp_path / "out")
    assert (done.form, done.rows) == ("class folders", 4)
    assert any("only 1 of 4" in note for note in done.notes)


def test_an_empty_text_stays_a_row_for_check_to_name(source, photo, tmp_path):
    for number, text in enumerate(["one", ""]):
        photo(source / f"{number}.png", number).with_suffix(".txt").write_text(text)
    prepare(source, tmp_path / "out")
    assert [one.kind for one in pairs.read(tmp_path / "out").problems if one.row] == ["empty_caption"]


def coco(path, names, captions=None, labels=None):
    content = {"images": [{"id": 7 + n, "file_name": name} for n, name in enumerate(names)], "annotations": []}
    for number, texts in (captions or {}).items():
        content["annotations"] += [{"image_id": 7 + number, "caption": text} for text in texts]
    if labels:
        content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "hot dog"}]
        content["annotations"] += [{"image_id": 7 + n, "category_id": one} for n, ids in labels.items() for one in ids]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_a_coco_folder(source, photo, tmp_path):
    for number in range(3):
        photo(source / "train2017" / f"{number}.png", number)
    photo(source / "val2017" / "0.png", 9)
    notes = source / "annotations"
    coco(notes / "captions_train2017.json", ["0.png", "1.png", "2.png"], {0: ["a cat", "one\ncat"], 1: ["a dog"]})
    coco(notes / "captions_val2017.json", ["0.png"], {0: ["held out"]})
    coco(notes / "instances_train2017.json", ["0.png", "1.png"], labels={0: [1, 1, 2], 1: [2]})
    done = prepare(source, tmp_path / "out")
    assert (done.form, done.rows, done.splits) == ("COCO annotations", 4, {"train": 3, "val": 1})
    assert any("1 images have no caption" in note for note in done.notes)
    found, _ = read(tmp_path / "out")
    seen = dict(zip(found.captions, zip(found.labels, found.splits, strict=True), strict=True))
    assert set(seen) == {"a cat", "one cat", "a dog", "held out"}
    assert seen["a cat"][0] == seen["one cat"][0] == ("cat", "hot dog")
    assert seen["held out"] == ((), "val")


def test_coco_files_alone(source, photo, tmp_path):
    for number in range(2):
        photo(source / "images" / f"{number}.png", number)
    done = prepare(coco(source / "captions_val2017.json", ["0.png", "1.png"], {0: ["x"], 1: ["y"]}), tmp_path / "out")
    assert (done.rows, done.splits) == (2, {})
    prepare(coco(source / "boxes.json", ["0.png", "1.png"], labels={0: [2], 1: [1]}), tmp_path / "out2")
    assert set(read(tmp_path / "out2")[0].captions) == {"a photo of hot dog", "a photo of cat"}

    with pytest.raises(DataError, match=r"none of its images is there; looked in .*images"):
        prepare(coco(source / "c.json", ["gone.png"], {0: ["x"]}), tmp_path / "out3")
    (source / "d.json").write_text('{"images": [{"id": 1}], "annotations": []}')
    with pytest.raises(DataError, match="lack a field"):
        prepare(source / "d.json", tmp_path / "out3")
    (source / "e.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="lists `images` and `annotations`"):
        prepare(source / "e.json", tmp_path / "out3")


def test_a_table_with_other_names(ten, tmp_path):
    (ten / "t.csv").write_text("photo;description;part\n0.png;a, b;p1\n1.png;c;p2\n", encoding="utf-8")
    columns = {"image": "photo", "caption": "description", "group": "part"}
    done = prepare(ten / "t.csv", tmp_path / "out", columns=columns)
    assert (done.form, done.rows) == ("a table", 2)
    found, _ = read(tmp_path / "out")
    assert (found.captions, found.groups) == (("a, b", "c"), ("p1", "p2"))
    assert (tmp_path / "out" / "pairs.csv").read_text().splitlines()[:2] == [
        "image,caption,group",
        '../0.png,"a, b",p1',
    ]


def test_a_moved_folder_still_works(source, photo, tmp_path):
    photo(source / "a" / "x.png", 1)
    photo(source / "b" / "y.png", 2)
    prepare(source, source)
    shutil.move(source, tmp_path / "elsewhere")
    assert len(read(tmp_path / "elsewhere")[0]) == 2


def test_nothing_is_overwritten_unasked(source, photo, tmp_path):
    photo(source / "a" / "x.png")
    prepare(source, tmp_path / "out")
    before = (tmp_path / "out" / "pairs.csv").read_bytes()
    photo(source / "a" / "y.png", 3)
    with pytest.raises(DataError, match="--overwrite"):
        prepare(source, tmp_path / "out")
    assert (tmp_path / "out" / "pairs.csv").read_bytes() == before
    assert prepare(source, tmp_path / "out", overwrite=True).rows == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pairs.csv"]


def test_unknown_forms_list_what_is_understood(source, photo, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        prepare(source, tmp_path / "out")
    source.mkdir()
    for fill in (lambda: None, lambda: photo(source / "x.png")):
        fill()
        with pytest.raises(DataError, match=r"(?s)Understood are.*class folders.*NAME\.txt.*COCO"):
            prepare(source, tmp_path / "out")
    (source / "x.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"ends in \.zip"):
        prepare(source / "x.zip", tmp_path / "out")
    with pytest.raises(DataError, match="columns of a table"):
        prepare(source, tmp_path / "out", columns={"image": "x"})
    assert not (tmp_path / "out").exists()
