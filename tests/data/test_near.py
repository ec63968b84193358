"""Near duplicates between splits: copies of real photographs that were saved anew, and what only looks like one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from honeclip.data import pairs, preflight
from honeclip.data.near import near_duplicates


def manifest(folder: Path, rows: list[tuple[Image.Image, str, str, dict]]) -> Path:
    """pairs.csv of (picture, suffix, split, how it is saved)."""
    folder.mkdir()
    with (folder / "pairs.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["image", "caption", "split"])
        for number, (picture, suffix, split, how) in enumerate(rows):
            picture.save(folder / f"{number}{suffix}", **how)
            out.writerow([f"{number}{suffix}", f"picture {number}", split])
    return folder


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> list[Image.Image]:
    found = pairs.read(shared_data / "openstax_astronomy")
    return [Image.open(path).convert("RGB") for path in found.images[:12]]


def test_photographs_that_were_saved_anew_are_found_and_others_are_not(photographs, tmp_path):
    train = [(one, ".png", "train", {}) for one in photographs[:8]]
    smaller = photographs[5].resize([side * 4 // 5 for side in photographs[5].size])
    held_out = [
        (photographs[1], ".jpg", "val", {"quality": 60}),
        (smaller, ".png", "test", {}),
        (photographs[3].point(lambda value: min(255, value * 11 // 10)), ".png", "test", {}),
        *((one, ".png", "val", {}) for one in photographs[8:]),
    ]
    found = pairs.read(manifest(tmp_path / "data", train + held_out))
    near = near_duplicates(found)
    assert near.rows == ((9, 2), (10, 6), (11, 4))
    assert near.looked_at == 7
    assert "3 of 7 pictures of val and test are nearly one of train (row 9 and row 2; " in "".join(
        preflight.check(found)["notes"]
    )
    assert near_duplicates(found, most=1).looked_at == 1


def test_equal_pixels_are_a_split_leak_and_no_near_duplicate(photographs, tmp_path):
    rows = [(one, ".png", "train", {}) for one in photographs[:3]] + [(photographs[0], ".bmp", "val", {})]
    found = pairs.read(manifest(tmp_path / "data", rows))
    assert [one.kind for one in found.problems if one.kind == "split_leak"] == ["split_leak"]
    assert near_duplicates(found).rows == ()


def test_another_colour_is_another_picture_and_plain_areas_say_nothing(tmp_path):
    def circle(colour: str) -> Image.Image:
        made = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(made).ellipse((10, 10, 50, 50), fill=colour)
        return made

    plain = [Image.new("RGB", (64, 64), (grey, grey, grey)) for grey in (200, 201)]
    rows = [(circle("red"), "train"), (circle("purple"), "val"), (plain[0], "train"), (plain[1], "test")]
    found = pairs.read(manifest(tmp_path / "data", [(one, ".png", split, {}) for one, split in rows]))
    assert near_duplicates(found).rows == ()
    assert near_duplicates(found).looked_at == 2
