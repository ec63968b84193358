"""From a manifest to pairs: what is usable, who is whose twin, what is odd."""

from __future__ import annotations

import csv
import os
import pickle
import random
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from honeclip.data import pairs
from honeclip.domains.domain import Domain
from honeclip.errors import DataError

SETS = (
    "magnetic_tile",
    "molecules",
    "neu_det",
    "openstax_astronomy",
    "openstax_microbiology",
    "pneumoniamnist",
    "tuxpaint_stamps",
)


def manifest(folder, rows, header="image,caption", name="pairs.csv"):
    (folder / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder / name


def kinds(found, *wanted):
    return [(one.row, one.kind) for one in found.problems if not wanted or one.kind in wanted]


@pytest.mark.parametrize("name", SETS)
def test_real_sets_are_as_their_source_says(shared_data, name):
    said = (shared_data / name / "SOURCE.md").read_text(encoding="utf-8")
    rows, test, train, val = map(int, re.search(r"(\d+) pairs \(test (\d+), train (\d+), val (\d+)\)", said).groups())
    captions = int(re.search(r"([\d,]+) distinct captions", said)[1].replace(",", ""))
    with (shared_data / name / "pairs.csv").open(encoding="utf-8", newline="") as file:
        labels = {row["label"] for row in csv.DictReader(file)} - {""}
    found = pairs.load(shared_data / name)
    assert found.total_rows == len(found) == rows
    assert [len(found.split(split)) for split in ("train", "val", "test")] == [train, val, test]
    assert len(set(found.caption_id.tolist())) == len(set(found.captions)) == captions
    assert {label for own in found.labels for label in own} == labels
    assert not kinds(found, "missing", "broken", "empty_caption", "split_leak")
    assert bool(any(found.groups)) == (name == "magnetic_tile") != bool(kinds(found, "no_group"))


def test_four_unusable_rows_are_named_and_36_are_kept(shared_data, tmp_path):
    """A truncated, an empty and a missing image, an empty caption; with a BOM, CRLF, quotes and commas."""
    source = pairs.load(shared_data / "tuxpaint_stamps")
    (tmp_path / "images").mkdir()
    names = [f"images/{path.name}" for path in source.images[:40]]
    for path, name in zip(source.images, names, strict=False):
        shutil.copy(path, tmp_path / name)
    (tmp_path / names[0]).write_bytes((tmp_path / names[0]).read_bytes()[:300])
    (tmp_path / names[1]).write_bytes(b"")
    (tmp_path / names[2]).unlink()
    lines = [f'{name},"{text} , ""x"""' for name, text in zip(names, source.captions, strict=False)]
    lines[3] = f"{names[3]},"
    text = "\ufeffimage,caption\r\n" + "\r\n".join(lines)
    (tmp_path / "pairs.csv").write_text(text, encoding="utf-8", newline="")

    found = pairs.read(tmp_path)
    bad = kinds(found, "missing", "broken", "empty_caption")
    assert bad == [(1, "broken"), (2, "broken"), (3, "missing"), (4, "empty_caption")]
    assert (len(found), found.total_rows, found.rows[0]) == (36, 40, 5)
    assert found.captions[0] == f'{source.captions[4]} , "x"'
    with pytest.raises(DataError) as caught:
        pairs.load(tmp_path)
    assert all(word in str(caught.value) for word in ["4 of 40 rows are bad", "max_bad_fraction", names[0], "row 3"])
    assert len(pairs.load(tmp_path, max_bad_fraction=0.1)) == 36


def test_a_share_just_at_the_limit_passes(ten):
    manifest(ten, [f"{n}.png,c{n}" for n in range(9)] + ["9.png,"])
    assert len(pairs.load(ten, max_bad_fraction=0.1)) == 9
    with pytest.raises(DataError, match=r"max_bad_fraction is 0\.09"):
        pairs.load(ten, max_bad_fraction=0.09)


def test_no_usable_row_is_refused_whatever_the_fraction(tmp_path):
    manifest(tmp_path, ["gone.png,x"])
    with pytest.raises(DataError, match="1 of 1 rows"):
        pairs.load(tmp_path, max_bad_fraction=1.0)


def test_two_identities_are_kept_apart(tmp_path, photo):
    """Equal captions share one, equal pixels the other; the same pixels in another format are equal."""
    photo(tmp_path / "a.png", 1)
    Image.open(tmp_path / "a.png").save(tmp_path / "a.bmp")
    photo(tmp_path / "b.png", 2)
    manifest(tmp_path, ["a.png,one", "b.png,one", "a.bmp,two", "a.png,three", "b.png, one  ", "a.png,one"])
    found = pairs.load(tmp_path)
    assert found.caption_id.tolist() == [0, 0, 1, 2, 0, 0]
    assert found.image_id.tolist() == [0, 1, 0, 0, 1, 0]
    twins = {one.row: one.reason for one in found.problems if one.kind == "duplicate_image"}
    assert twins[3] == "the same pixels as row 1 (a.png)"
    assert twins[4] == "the same image as row 1, with another caption"
    assert twins[6] == "the same image and caption as row 1"
    assert set(twins) == {3, 4, 5, 6}


def test_leaks_are_pixels_or_groups_never_captions(ten, photo):
    photo(ten / "twin.png", 0)
    rows = [
        "0.png,x,train,",
        "twin.png,y,test,",
        "1.png,z,train,p1",
        "2.png,w,test,p1",
        "3.png,same,train,p2",
        "4.png,same,test,p3",
        "5.png,v,val,p2",
    ]
    manifest(ten, rows, "image,caption,split,group")
    found = pairs.load(ten)
    leaks = {one.row: one.reason for one in found.problems if one.kind == "split_leak"}
    assert leaks == {
        2: "in test, the same pixels as row 1 (0.png) in train",
        4: "in test, the same group as row 3 (1.png) in train",
        7: "in val, the same group as row 5 (3.png) in train",
    }
    assert not kinds(found, "no_group")


def test_without_splits_groups_and_twins_stay_together(ten, photo):
    for number in range(10):
        photo(ten / f"twin{number}.png", number)
    rows = [f"{n}.png,c{n},{'p' if n in (1, 2) else ''}" for n in range(10)] + [f"twin{n}.png,t{n}," for n in range(10)]
    manifest(ten, rows, "image,caption,group")
    found = pairs.load(ten)
    split = dict(zip(found.files, found.splits, strict=True))
    assert all(split[f"{n}.png"] == split[f"twin{n}.png"] for n in range(10))
    assert split["1.png"] == split["2.png"]
    assert set(found.splits) == {"train", "val", "test"}
    assert not kinds(found, "split_leak")
    assert "divided 70/15/15" in found.notes[-1]


def test_splits_follow_content_not_names_or_places(ten, tmp_path_factory):
    manifest(ten, [f"{n}.png,c{n}" for n in range(10)])
    other = tmp_path_factory.mktemp("elsewhere")
    order = list(range(10))
    random.Random(3).shuffle(order)
    for number in order:
        shutil.copy(ten / f"{number}.png", other / f"renamed-{number}.png")
    manifest(other, [f"renamed-{n}.png,c{n}" for n in order])
    here, there = pairs.load(ten), pairs.load(other)
    assert dict(zip(here.captions, here.splits, strict=True)) == dict(zip(there.captions, there.splits, strict=True))


def test_odd_images_are_notes(tmp_path, photo):
    for name, mode in {"rgba": "RGBA", "p": "P", "l": "L", "one": "1", "rgb": "RGB", "la": "LA"}.items():
        photo(tmp_path / f"{name}.png", 1, mode=mode)
    photo(tmp_path / "cmyk.tiff", 1, mode="CMYK")
    Image.fromarray(np.arange(192, dtype=np.uint16).reshape(12, 16) * 300).save(tmp_path / "deep.png")
    photo(tmp_path / "dot.png", 1, size=(1, 1))
    photo(tmp_path / "thin.png", 1, size=(7, 300))
    photo(tmp_path / "edge.png", 1, size=(8, 8))
    files = sorted(path.name for path in tmp_path.iterdir())
    manifest(tmp_path, [f"{name},c" for name in files])
    found = pairs.load(tmp_path)
    assert len(found) == len(files)
    odd = {one.file for one in found.problems if one.kind == "odd_mode"}
    assert odd == {"rgba.png", "p.png", "one.png", "la.png", "cmyk.tiff", "deep.png"}
    assert {one.file for one in found.problems if one.kind == "tiny"} == {"dot.png", "thin.png"}


def test_what_stands_where_an_image_should(tmp_path, photo):
    photo(tmp_path / "good.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("not an image")
    huge = Image.new("1", (20_000, 20_000))
    huge.save(tmp_path / "huge.png")
    rows = [
        "good.png,a",
        "folder.png,b",
        "text.png,c",
        "huge.png,d",
        ",e",
        "https://example.org/x.png,f",
        f"{'x' * 300},g",
    ]
    manifest(tmp_path, [*rows, "nul\0.png,h".replace("\0", "%00"), "no/such/folder.png,i"])
    found = pairs.read(tmp_path)
    reasons = {one.row: (one.kind, one.reason) for one in found.problems if one.row}
    assert [reasons[row][0] for row in range(2, 10)] == ["broken"] * 3 + ["missing"] * 5
    assert "folder" in reasons[2][1]
    assert "network address" in reasons[6][1]
    assert "no folder" in reasons[9][1]
    assert len(found) == 1


def test_labels_become_captions_by_templates(ten):
    rows = [f"{n}.png,{'hot_rolled/steel' if n % 2 else 'crack; rust'}" for n in range(10)]
    manifest(ten, [*rows[:9], "9.png,"], "image,label")
    found = pairs.read(ten)
    assert set(found.captions) == {"a photo of hot rolled steel", "a photo of crack and rust"}
    assert kinds(found, "empty_caption") == [(10, "empty_caption")]
    templates = ("a {label}", "one {label}", "the {label}")
    domain = Domain(name="d", title="D", templates=templates, label_names={"rust": "corrosion"})
    by_domain = pairs.read(ten, domain=domain)
    assert "corrosion" in by_domain.captions[0]
    assert len({caption.split()[0] for caption in by_domain.captions}) > 1
    manifest(ten, [*reversed(rows[:9])], "image,label")
    again = pairs.read(ten, domain=domain)
    assert dict(zip(again.files, again.captions, strict=True)) == dict(
        zip(by_domain.files, by_domain.captions, strict=True)
    )


def test_a_gap_among_captions_is_not_filled_from_labels(ten):
    manifest(ten, ["0.png,,cat", "1.png,a dog,dog"], "image,caption,label")
    assert kinds(pairs.read(ten), "empty_caption") == [(1, "empty_caption")]


@pytest.mark.parametrize("caption", ["x" * 10_000, "🐝🍯" * 50, "Äpfel\u0301 «und» Öl"])
def test_long_and_strange_captions_are_kept(ten, caption):
    manifest(ten, [f"0.png,{caption}", "1.png,b"])
    assert pairs.load(ten).captions[0] == caption.replace("l\u0301", "\u013a") or len(caption) < 100


def test_missing_val_is_carved_and_said(ten):
    manifest(ten, [f"{n}.png,c{n},{'test' if n < 2 else 'train'}" for n in range(10)], "image,caption,split")
    found = pairs.load(ten)
    assert [len(found.split(name)) for name in ("train", "val", "test")] == [7, 1, 2]
    assert any("no val" in note for note in found.notes)
    with pytest.raises(DataError, match="one of train, val, test"):
        found.split("validation")


def test_select_and_split_keep_identities(ten):
    manifest(ten, [f"{n % 5}.png,c{n % 4}" for n in range(10)])
    found = pairs.load(ten)
    part = found.select([7, 2])
    assert part.rows == (8, 3)
    assert part.caption_id.tolist() == [3, 2]
    assert part.image_id.tolist() == [2, 2]
    assert part.image_sha == (found.image_sha[7], found.image_sha[2])
    assert sum(len(found.split(name)) for name in ("train", "val", "test")) == 10
    assert len(found.select(np.array([], dtype=np.int64))) == 0


def test_pairs_survive_spawn(ten):
    manifest(ten, [f"{n}.png,c{n}" for n in range(10)])
    found = pairs.load(ten)
    copy = pickle.loads(pickle.dumps(found))
    assert copy.images == found.images
    assert copy.caption_id.tolist() == found.caption_id.tolist()


def test_relative_data_follows_no_later_change_of_folder(ten, monkeypatch):
    manifest(ten, [f"{n}.png,c{n}" for n in range(10)])
    monkeypatch.chdir(ten)
    found = pairs.load("pairs.csv")
    assert len(found) == 10
    assert found.files[0] == "0.png"
    assert os.fspath(found.images[0]).endswith("0.png")
