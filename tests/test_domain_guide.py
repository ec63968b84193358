"""docs/domains.md as a reader follows it: every file saved, every command run, in an empty folder."""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import tiny_runs

from honeclip.domains import schema
from honeclip.domains.domain import load

GUIDE = Path(__file__).parents[1] / "docs" / "domains.md"
BLOCK = re.compile(r"```(\w+)(?: title=\"(\S+)\")?\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def text():
    if not GUIDE.is_file():
        pytest.skip("docs/domains.md is not there: the tests run outside of a clone")
    return GUIDE.read_text(encoding="utf-8")


def leaves(folder: Path) -> None:
    """Pictures and labels in place of a reader's own."""
    drawn = tiny_runs.draw(folder / "drawn", 40, tiny_runs.ALL_SPLITS, labels=True)
    rows = list(csv.DictReader((drawn / "pairs.csv").read_text(encoding="utf-8").splitlines()))
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["image", "caption", "label", "split"])
        writer.writeheader()
        for number, row in enumerate(rows):
            label = ("quercus", "acer")[number % 2]
            caption = f"{row['caption']}, an {label} leaf. Its margin is lobed. It is the leaf number {number}."
            image = (drawn / row["image"]).relative_to(folder)
            writer.writerow({"image": image, "caption": caption, "label": label, "split": row["split"]})


@pytest.mark.slow  # half a minute of commands, each in a process of its own
def test_every_file_and_command_of_the_guide_works_as_written(text, tmp_path):
    leaves(tmp_path)
    commands = []
    for kind, name, body in BLOCK.findall(text):
        if kind == "toml":
            (tmp_path / name).write_text(body, encoding="utf-8")
        else:
            commands += body.strip().splitlines()
            for line in body.strip().splitlines():
                words = shlex.split(line)
                assert words[0] == "honeclip"
                done = subprocess.run(
                    [sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
                )
                assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert len(commands) == 7
    assert (tmp_path / "look" / "botany.html").is_file()
    assert "oak tree" in (tmp_path / "runs" / "botany" / "run.toml").read_text(encoding="utf-8")
    assert load(str(tmp_path / "botany.toml")).text.sample == "sentences"


def test_the_guide_names_every_key(text):
    inner = {
        "similarity": schema.SimilarityRules,
        "image": schema.ImageRules,
        "augment": schema.AugmentRules,
        "text": schema.TextRules,
    }
    keys = [
        f"{one.name}.{part.name}" if part else one.name
        for one in fields(schema.Domain)
        for part in (fields(inner[one.name]) if one.name in inner else [None])
    ]
    table = text[text.index("## All keys") :]
    assert [key for key in ["extends", *keys] if f"`{key}`" not in table] == []
