"""`honeclip domains`: lists, and prints one that loads again."""

from __future__ import annotations

import json
import tomllib

import pytest
from typer.testing import CliRunner

from honeclip import places
from honeclip.cli.domains import app
from honeclip.domains import domain

run = CliRunner().invoke


def test_the_list_names_presets_and_own_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HONECLIP_HOME", str(tmp_path))
    places.domains().mkdir()
    own = places.domains() / "plants.toml"
    own.write_text('title = "Leaves"\ntemplates = ["a leaf with {label}"]\n')
    said = run(app, [])
    assert said.exit_code == 0
    assert [line.split()[0] for line in said.stdout.splitlines()] == domain.names()
    assert f"plants      Leaves; 1 templates, best checkpoint by retrieval ({own})" in said.stdout
    assert str(places.domains()) in said.stderr
    listed = json.loads(run(app, ["--json"]).stdout)["domains"]
    assert {"name": "plants", "title": "Leaves", "file": str(own)} in listed


@pytest.mark.parametrize("name", ["general", "industrial", "medical", "scientific"])
def test_show_prints_only_toml_that_loads_as_the_same_domain(name, tmp_path):
    said = run(app, ["show", name])
    assert (said.exit_code, said.stderr) == (0, "")
    assert domain.from_mapping({"name": name, **tomllib.loads(said.stdout)}, "shown") == domain.load(name)
    copy = tmp_path / "mine.toml"
    copy.write_text(said.stdout, encoding="utf-8")
    assert domain.load(str(copy)).templates == domain.load(name).templates
    assert run(app, ["show", str(copy)]).stdout == said.stdout


def test_a_preview_is_a_page_of_pictures_and_standard_output_stays_toml(shapes, tmp_path):
    said = run(app, ["show", "industrial", "--preview", str(shapes), "--out", str(tmp_path / "look")])
    page = (tmp_path / "look" / "industrial.html").read_text(encoding="utf-8")
    assert tomllib.loads(said.stdout)["title"]
    assert page.count("<img ") == 6 * 10, "six pictures: raw, evaluation and eight for training"
    assert "mirrored left and right" in page
    run(app, ["show", "industrial", "--preview", str(shapes), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "industrial.html").read_text(encoding="utf-8") == page


def test_a_preview_of_pictures_that_cannot_be_read_says_why(command, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "pairs.csv").write_text("image,caption\na.png,a thing\n")
    code, _, said = command("domains", "show", "medical", "--preview", tmp_path, "--out", tmp_path / "look")
    assert code == 2
    assert "none of the chosen pictures can be read: a.png (row 1): this is a text" in said
