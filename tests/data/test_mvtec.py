"""MVTec folders, of which the real ones cannot be had here: drawn ones of the same form, cut into tiles as well."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from honeclip.data import pairs
from honeclip.data.prepare import prepare
from honeclip.data.tiles import Tiles, spans
from honeclip.domains import domain as domains
from honeclip.errors import DataError

SIZE = (60, 48)


def picture(path, seed, box=None, mask=None):
    """A noisy grey part; with a box its defect, a white rectangle (left, top, right, bottom), and the file of its mask."""
    noise = np.random.default_rng(seed).integers(90, 140, (SIZE[1], SIZE[0]), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    if box:
        left, top, right, bottom = box
        noise[top:bottom, left:right] = 255
        if mask:
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.where(noise == 255, 255, 0).astype(np.uint8)).save(mask)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two parts: 24 good ones to train on, 6 to test, 8 of each of two defects."""
    folder = tmp_path_factory.mktemp("mvtec") / "mvtec"
    for number, part in enumerate(("bottle", "metal_nut")):
        place = folder / part
        for at in range(24):
            picture(place / "train" / "good" / f"{at:03d}.png", 1000 * number + at)
        for at in range(6):
            picture(place / "test" / "good" / f"{at:03d}.png", 1000 * number + 100 + at)
        for kind, defect in enumerate(("broken_large", "cut")):
            for at in range(8):
                box = (5 + at, 4, 11 + at, 10)
                mask = place / "ground_truth" / defect / f"{at:03d}_mask.png"
                seed = 1000 * number + 200 + 100 * kind + at
                picture(place / "test" / defect / f"{at:03d}.png", seed, box, mask)
    (folder / "metal_nut" / "ground_truth" / "cut" / "007_mask.png").unlink()
    (folder / "license.txt").write_text("words")
    (folder / "meshes").mkdir()
    return folder


def written(out):
    with (out / "pairs.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_labels_parts_and_areas(tree, tmp_path):
    done = prepare(tree, tmp_path / "out", domain=domains.load("industrial"))
    rows = written(tmp_path / "out")
    assert (done.form, done.rows) == ("MVTec folders", 92)
    assert not any("ground_truth" in row["image"] for row in rows)
    assert Counter((row["part"], row["label"]) for row in rows) == {
        (part, label): count
        for part in ("bottle", "metal_nut")
        for label, count in (("good", 30), ("broken_large", 8), ("cut", 8))
    }
    areas = defaultdict(set)
    for row in rows:
        areas[row["label"]].add(row["defect_area_pct"])
        words = "no defect" if row["label"] == "good" else row["label"].replace("_", " ")
        assert words in row["caption"]
        assert f"the {row['part'].replace('_', ' ')}" in row["caption"]
        assert "a part" not in row["caption"]
        assert "a surface" not in row["caption"]
    assert areas == {"good": {"0.000"}, "broken_large": {"1.250"}, "cut": {"1.250", ""}}  # 36 of 2880 pixels
    assert "a photo of the metal nut with no defect" in {row["caption"] for row in rows}
    said = " / ".join(done.notes)
    for words in ("divided anew", "1 images of defects have no mask", "meshes"):
        assert words in said, words


def test_each_split_holds_good_parts_and_defects(tree, tmp_path):
    prepare(tree, tmp_path / "out")
    found = pairs.load(tmp_path / "out", max_bad_fraction=0.0)
    kinds = defaultdict(Counter)
    for split, labels in zip(found.splits, found.labels, strict=True):
        kinds[split][labels[0]] += 1
    assert all(set(kinds[split]) == {"good", "broken_large", "cut"} for split in ("train", "val", "test"))
    done = prepare(tree, tmp_path / "kept", keep_splits=True)
    assert done.splits == {"train": 48, "test": 44}
    assert {row["label"] for row in written(tmp_path / "kept") if row["split"] == "train"} == {"good"}
    assert any("train holds no defect" in note for note in done.notes)


def test_one_part_alone_and_its_relatives(tree, tmp_path):
    done = prepare(tree / "bottle", tmp_path / "out")
    assert done.rows == 46
    assert {row["part"] for row in written(tmp_path / "out")} == {"bottle"}
    # LOCO has good parts for validation, and several masks an image; AD 2 has several exposures of one part
    loco = tmp_path / "loco"
    for at in range(3):
        picture(loco / "train" / "good" / f"{at:03d}.png", at)
        picture(loco / "validation" / "good" / f"{at:03d}.png", 10 + at)
    for at, kind in enumerate(("regular", "overexposed", "shift_1")):
        picture(loco / "test" / "logical_anomalies" / f"000_{kind}.png", 20 + at, (0, 0, 6, 6))
    folder = loco / "ground_truth" / "logical_anomalies" / "000_regular"
    picture(tmp_path / "unused.png", 1, (0, 0, 6, 6), folder / "000.png")
    picture(tmp_path / "unused.png", 1, (3, 0, 9, 6), folder / "001.png")
    done = prepare(loco, tmp_path / "loco out", keep_splits=True)
    assert done.splits == {"train": 3, "val": 3, "test": 3}
    rows = {row["image"].split("/")[-1]: row for row in written(tmp_path / "loco out") if row["split"] == "test"}
    assert rows["000_regular.png"]["defect_area_pct"] == "1.875"  # 54 of 2880: the masks overlap
    assert len({row["group"] for row in rows.values()}) == 1
    assert rows["000_shift_1.png"]["defect_area_pct"] == ""


def test_folders_of_classes_below_splits_are_none(photo, tmp_path):
    for place in ("train/good", "train/bad", "test/good", "test/bad"):
        photo(tmp_path / "src" / place / "x.png", len(place))
    assert prepare(tmp_path / "src", tmp_path / "out").form == "class folders"
    with pytest.raises(DataError, match="--keep-splits is for MVTec"):
        prepare(tmp_path / "src", tmp_path / "no", keep_splits=True)


def test_a_broken_mask_costs_no_row(tree, tmp_path):
    for at in range(2):
        picture(tmp_path / "p" / "train" / "good" / f"{at}.png", at)
        mask = tmp_path / "p" / "ground_truth" / "cut" / f"{at}_mask.png"
        picture(tmp_path / "p" / "test" / "cut" / f"{at}.png", 9 + at, (0, 0, 6, 6), mask)
    mask.write_bytes(mask.read_bytes()[:60])
    done = prepare(tmp_path / "p", tmp_path / "out")
    assert done.rows == 4
    assert any("1 of these masks are broken" in note for note in done.notes)
    assert prepare(tmp_path / "p", tmp_path / "tiles", cut=Tiles(24)).rows > 4


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 40, 41, 100, 997])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.9])
def test_tiles_cover_an_edge_evenly(length, overlap):
    found = spans(length, 8, overlap)
    assert (found[0][0], found[-1][1]) == (0, length)
    assert {end - start for start, end in found} == {min(8, length)}
    for (_, end), (start, _) in pairwise(found):
        assert end - start >= int(8 * overlap) - 1
    steps = [b[0] - a[0] for a, b in pairwise(found)]
    assert not steps or max(steps) - min(steps) <= 1
    assert len(set(found)) == len(found)


def test_tiles_keep_place_label_and_group(tree, tmp_path):
    prepare(tree, tmp_path / "out", cut=Tiles(24, 0.25))
    rows = written(tmp_path / "out")
    sources = defaultdict(list)
    for row in rows:
        sources[row["source"]].append(row)
    assert len(sources) == 92
    for source, tiles in sources.items():
        with Image.open(tmp_path / "out" / source) as image:
            whole = np.asarray(image)
        seen = np.zeros(whole.shape, bool)
        for tile in tiles:
            left, top = int(tile["tile_left"]), int(tile["tile_top"])
            with Image.open(tmp_path / "out" / tile["image"]) as image:
                assert (image.size, image.info) == ((24, 24), {})
                assert np.array_equal(np.asarray(image), whole[top : top + 24, left : left + 24])
            seen[top : top + 24, left : left + 24] = True
            share = f"{np.mean(whole[top : top + 24, left : left + 24] == 255) * 100:.3f}"
            defect = "good" not in source.split("/")[-2]
            if defect and "metal_nut/test/cut/007" not in source:
                assert tile["defect_area_pct"] == share
                assert (tile["label"] == "good") == (share == "0.000")
                assert ("no defect" in tile["caption"] or "good" in tile["caption"]) == (share == "0.000")
            else:
                assert tile["label"] == source.split("/")[-2]
        assert seen.all()
        assert len({tile["group"] for tile in tiles}) == 1
    found = pairs.load(tmp_path / "out", max_bad_fraction=0.0)
    splits = defaultdict(set)
    for group, split in zip(found.groups, found.splits, strict=True):
        splits[group].add(split)
    assert len(splits) == 92
    assert all(len(some) == 1 for some in splits.values())
    again = prepare(tree, tmp_path / "again", cut=Tiles(24, 0.25))
    assert again.rows == len(rows)
    names = [sorted(path.name for path in (tmp_path / one / "images").iterdir()) for one in ("out", "again")]
    assert names[0] == names[1]


def test_tiles_of_other_data(photo, tmp_path):
    big = photo(tmp_path / "src" / "crack" / "JANE ROE.png", 1, (50, 20))
    photo(tmp_path / "src" / "good" / "small.png", 2, (9, 8))
    white = Image.new("RGB", (64, 16), "white")
    with Image.open(big) as image:
        white.paste(image.crop((0, 0, 16, 16)), (0, 0))
    white.save(tmp_path / "src" / "good" / "edge.png")
    (tmp_path / "src" / "good" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = prepare(tmp_path / "src", tmp_path / "out", cut=Tiles(16, 0))
    rows = written(tmp_path / "out")
    assert Counter(row["source"].split("/")[-1] for row in rows) == {"JANE ROE.png": 8, "small.png": 1, "edge.png": 1}
    said = " / ".join(done.notes)
    for words in (
        "broken.png was left out",
        "3 tiles of one colour",
        "a small defect is not in every one",
        "3 images were cut",
    ):
        assert words in said, words
    assert {row["label"] for row in rows} == {"crack", "good"}
    done = prepare(tmp_path / "src", tmp_path / "quiet", cut=Tiles(16, 0, quiet=True))
    said = " ".join([*done.notes, (tmp_path / "quiet" / "pairs.csv").read_text()])
    assert "ROE" not in said
    assert "broken.png" not in said
    assert len({row["group"] for row in written(tmp_path / "quiet")}) == 3
    for wrong in ({"side": 7}, {"side": 16, "overlap": 0.95}, {"side": 16, "overlap": -0.1}):
        with pytest.raises(DataError, match=r"--tiles 7|--overlap"):
            Tiles(**wrong)
