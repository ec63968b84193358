"""What a domain sets of the loss, and that a run goes on only with the domain that it began with."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import tiny_runs

import honeclip
from honeclip import config as configs
from honeclip.domains import domain as domains
from honeclip.errors import BadInput, RunError
from honeclip.training import settings

LEAST = 'title = "Shapes"\ntemplates = ["a {label}"]\n'


@pytest.fixture
def shapes(tmp_path) -> Path:
    file = tmp_path / "shapes.toml"
    file.write_text(LEAST + '[loss]\npositives = "masked"\ntemperature = "fixed"\n')
    return file


def test_the_domain_lies_between_defaults_and_what_the_user_says(shapes, tmp_path):
    values = {"data": {"domain": str(shapes)}}
    found = settings.load(values=values).loss
    assert (found.positives, found.temperature) == ("masked", "fixed")
    assert settings.load(sets=["loss.temperature=auto"], values=values).loss.temperature == "auto"
    file = tmp_path / "own.toml"
    file.write_text('[loss]\npositives = "sum"\n')
    assert settings.load(file, values=values).loss.positives == "sum"
    assert settings.load().loss == configs.Config().loss
    assert settings.tables(file, [], values)["loss"] == {"positives": "sum", "temperature": "fixed"}
    assert "loss" not in settings.tables(None, [], {})


@pytest.mark.parametrize(
    ("line", "said"),
    [('posltives = "sum"', "loss.posltives: unknown key"), ("label_smoothing = 2.0", "loss.label_smoothing = 2.0")],
)
def test_a_fault_of_the_domain_says_where_it_stands(tmp_path, line, said):
    file = tmp_path / "shapes.toml"
    file.write_text(f"{LEAST}[loss]\n{line}\n")
    with pytest.raises(BadInput) as fault:
        settings.load(values={"data": {"domain": str(file)}})
    assert said in str(fault.value)
    assert f"from domain {file}" in str(fault.value)


def test_a_run_keeps_its_domain_and_goes_on_with_no_other(shapes, tmp_path):
    files = tiny_runs.text_files(tmp_path / "text")
    model = tiny_runs.model_folder(tmp_path / "model", files)
    data = tiny_runs.draw(tmp_path / "data", 24)
    given = {"data": str(data), "out": tmp_path / "run", "model": str(model), "domain": str(shapes), "device": "cpu"}
    run = honeclip.fit(**given, config={"train": {"length": 2, "batch": 4}})
    stored = tomllib.loads((run.folder / "run.toml").read_text(encoding="utf-8"))
    assert domains.from_mapping(stored["domain"], "stored") == domains.load(str(shapes))
    assert stored["loss"]["positives"] == "masked"
    again = honeclip.fit(out=tmp_path / "run", resume=True, device="cpu", config={"train": {"length": 3}})
    assert again.steps == 3
    # the run's own file is a config that another run may begin with
    assert configs.load(run.folder / "run.toml").loss.positives == "masked"

    shapes.write_text(shapes.read_text().replace("a {label}", "one {label}").replace("fixed", "learned"))
    with pytest.raises(RunError, match=r"templates, loss changed since"):
        honeclip.fit(out=tmp_path / "run", resume=True, device="cpu", config={"train": {"length": 4}})
