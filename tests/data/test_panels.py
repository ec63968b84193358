"""Figures of several panels: drawn ones whose panels are known, and those of a textbook."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image, ImageDraw

from honeclip.data import panels
from honeclip.data.prepare import prepare

LAYOUTS = {
    "side by side": [(10, 10, 100, 90), (120, 10, 250, 90)],
    "one above the other": [(10, 10, 200, 90), (10, 130, 200, 240)],
    "a grid": [(10, 10, 100, 90), (120, 10, 240, 90), (10, 130, 100, 230), (120, 130, 240, 230)],
    "a column beside a tall one": [(10, 10, 100, 90), (10, 130, 100, 230), (130, 10, 250, 230)],
}


def figure(boxes, background="white", letters=True):
    """Panels of noise with a letter under each, as they come from a printer's JPEG."""
    image = Image.new("RGB", (280, 260), background)
    pen = ImageDraw.Draw(image)
    for number, (left, top, right, bottom) in enumerate(boxes):
        noise = np.random.default_rng(number).integers(20, 200, (bottom - top, right - left, 3), dtype=np.uint8)
        image.paste(Image.fromarray(noise), (left, top))
        if letters:
            ink = "black" if background == "white" else "white"
            pen.text(((left + right) // 2 - 8, bottom + 10), f"({'abcd'[number]})", fill=ink)
    return image


@pytest.mark.parametrize("background", ["white", "black", (240, 236, 220)])
@pytest.mark.parametrize("letters", [True, False])
@pytest.mark.parametrize("name", LAYOUTS)
def test_panels_are_found_in_reading_order_with_their_letters(name, letters, background):
    boxes = LAYOUTS[name]
    found = panels.find(figure(boxes, background, letters), len(boxes))
    assert len(found) == len(boxes)
    for (left, top, right, bottom), wanted in zip(found, boxes, strict=True):
        assert np.abs(np.subtract((left, top, right), wanted[:3])).max() <= 1
        assert bottom - wanted[3] in (range(8, 30) if letters else range(-1, 2))
    for other in (1, len(boxes) - 1, len(boxes) + 1):
        assert len(panels.find(figure(boxes, background, letters), other)) in (0, other)
    assert panels.find(figure(boxes, background, letters), len(boxes) + 1) == []


def test_a_picture_without_gutters_has_no_panels():
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    assert panels.find(Image.fromarray(noise), 2) == []
    assert panels.find(Image.new("RGB", (90, 60), "white"), 2) == []


@pytest.mark.parametrize(
    ("caption", "parts"),
    [
        ("(a) A cat. (b) A dog.", ["A cat.", "A dog."]),
        ("Pets: (a) a cat, (b) a dog, and (c) a hen.", ["Pets: a cat", "Pets: a dog", "Pets: a hen."]),
        ("Pets of 2 m. (a) A cat. It sleeps. (b) A dog.", ["Pets of 2 m. A cat. It sleeps.", "Pets of 2 m. A dog."]),
        ("(a, b) Cats. (c) A dog.", ["Cats.", "Cats.", "A dog."]),
        ("(a–c) Cats. (d) A dog.", ["Cats.", "Cats.", "Cats.", "A dog."]),
        ("(a and b) Cats. (b) It is black.", ["Cats.", "Cats. It is black."]),
        (
            "(a) A cat. (b) A dog. Both sleep. They are old.",
            ["A cat. Both sleep. They are old.", "A dog. Both sleep. They are old."],
        ),
        ("(a) A cat. (b) A dog. It sleeps.", ["A cat.", "A dog. It sleeps."]),
        # nothing to tell apart, or not said of each
        ("A cat and a dog.", []),
        ("(a) A cat.", []),
        ("(b) A cat. (c) A dog.", []),
        ("(b) A cat. (a) A dog.", []),
        ("He used his (a) microscope to view (b) cork.", []),
        ("A cat (a) and a dog (b).", []),
        ("(a) (b) A dog.", []),
    ],
)
def test_captions_in_their_parts(caption, parts):
    assert list(panels.texts(caption).values()) == parts
    assert list(panels.texts(caption)) == list("abcd"[: len(parts)])


def test_figures_become_rows_of_panels_where_both_sides_agree(tmp_path):
    captions = {
        "two.png": "(a) A cat. (b) A dog.",
        "three.png": "(a) A cat. (b) A dog. (c) A hen.",
        "within.png": "A cat (a) and a dog (b).",
        "none.png": "A cat.",
    }
    for name in captions:
        figure(LAYOUTS["side by side"]).save(tmp_path / name)
    lines = [f'{name},"{caption}",finding,test' for name, caption in captions.items()]
    (tmp_path / "t.csv").write_text("\n".join(["image,caption,label,split", *lines]))
    done = prepare(tmp_path / "t.csv", tmp_path / "out", split_panels=True)
    with (tmp_path / "out" / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["caption"], row["panel"]) for row in rows] == [
        ("A cat.", "a"),
        ("A dog.", "b"),
        *((captions[name], "") for name in ("three.png", "within.png", "none.png")),
    ]
    assert [row["group"] for row in rows] == ["../two.png", "../two.png", "", "", ""]
    assert {row["source"] for row in rows} == {"../two.png", ""}
    assert {(row["label"], row["split"]) for row in rows} == {("finding", "test")}
    with Image.open(tmp_path / "out" / rows[1]["image"]) as image:
        assert image.info == {}
        assert abs(image.width - 130) <= 2
    said = " / ".join(done.notes)
    assert "1 figures were cut into 2 panels" in said
    assert said.count("1 figures stay whole") == 2
    quiet = prepare(tmp_path / "t.csv", tmp_path / "quiet", split_panels=True, copied="hashed")
    assert quiet.rows == 5
    assert "two.png" not in (tmp_path / "quiet" / "pairs.csv").read_text()
    assert len(list((tmp_path / "quiet" / "images").iterdir())) == 3  # two panels, and what three figures share
    again = prepare(tmp_path / "t.csv", tmp_path / "again", split_panels=True)
    assert again.notes == done.notes


def test_figures_of_a_textbook(shared_data, tmp_path):
    """Of 223 figures whose captions name panels two in five are cut; 20 of them were looked at, 19 were cut rightly."""
    done = prepare(shared_data / "openstax_microbiology" / "pairs.csv", tmp_path / "out", split_panels=True)
    with (tmp_path / "out" / "pairs.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["panel"]]
    figures = defaultdict(list)
    for row in rows:
        figures[row["source"]].append(row)
    assert len(figures) >= 90
    assert done.rows == 822 + len(rows) - len(figures)
    sizes = Counter(len(some) for some in figures.values())
    assert sizes[2] >= 70
    assert sizes[3] >= 10
    lumbar = next(some for source, some in figures.items() if source.endswith("OSC_Microbio_01_01_lumbar.jpg"))
    assert [row["caption"].split()[0] for row in lumbar] == ["A", "CSF"]
    widths = []
    for row in lumbar:
        with Image.open(tmp_path / "out" / row["image"]) as image:
            widths.append(image.width)
    assert widths[0] > 2 * widths[1]  # a drawing of a person lying, a tube
    for some in figures.values():
        assert len({row["split"] for row in some}) == len({row["group"] for row in some}) == 1
