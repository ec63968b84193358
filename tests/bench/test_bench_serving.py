"""`bench serving`: a real server under a little load; what clients send; limits of figures."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

from honeclip import __main__
from honeclip.bench import clients, material, server_process, slo
from honeclip.errors import BadInput, HoneclipError
from honeclip.preprocess import images

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return tiny_runs.model_folder(folder / "model", tiny_runs.text_files(folder / "text"))


@pytest.fixture
def environment(session_home, monkeypatch):
    for name, value in tiny_runs.environment(session_home).items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow  # a minute on a busy machine, most of it for two processes to import torch
def test_a_server_under_load_and_a_limit_that_it_misses(model, environment, tmp_path, capfd):
    limits = tmp_path / "slo.toml"
    limits.write_text(
        '[at_most]\n"images.equal_computed" = 1\n"texts.clients.4.errors" = 0\n"soak.images.errors" = 0\n[at_least]\n"images.cached_ratio" = 1e9\n'
    )
    words = [
        "--model",
        str(model),
        "--clients",
        "1,4",
        "--seconds",
        "0.5",
        "--rounds",
        "1",
        "--device",
        "cpu",
        "--soak",
        "20",
    ]
    code = __main__._run(["bench", "serving", *words, "--slo", str(limits), "--json"])
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert code == 1
    assert [(one["figure"], one["passed"]) for one in found["slo"]["checks"]] == [
        ("images.equal_computed", True),
        ("texts.clients.4.errors", True),
        ("soak.images.errors", True),
        ("images.cached_ratio", False),
    ]
    assert "MISSED: images.cached_ratio" in err
    for side in ("images", "texts"):
        one = found[side]
        assert (one["equal_requests"], one["equal_answered"], one["equal_computed"]) == (4, 4, 1)
        assert set(one["clients"]) == {"1", "4"}
        for load in one["clients"].values():
            assert load["errors"] == 0
            assert 0 < load["p50_ms"] <= load["p95_ms"] <= load["p99_ms"]
        assert one["best_per_second"] == max(load["per_second"] for load in one["clients"].values())
        assert one["saturation_clients"] in (1, 4)
        assert [*one["steps"]] == ["25_percent", "50_percent", "80_percent", "100_percent", "150_percent"]
        assert all(step["errors"] == 0 for step in (*one["steps"].values(), one["spike"]))
        soaked = found["soak"][side]
        assert soaked["errors"] == 0
        assert 0 < soaked["p50_ms"] <= soaked["p99_ms"]
        assert (
            soaked["p99_ms_per_hour"]["low"] <= soaked["p99_ms_per_hour"]["value"] <= soaked["p99_ms_per_hour"]["high"]
        )
        assert one["ratio_to_bound"] == one["ratio_to_bound_rounds"][0] > 0
        assert one["cached_ratio"] == pytest.approx(one["one_client_p50_ms"] / one["cached_p50_ms"])
    example = tmp_path / "example.toml"
    example.write_text((DOCS / "slo.example.toml").read_text().replace('# "soak.', '"soak.'))
    judged = slo.judged(found, slo.read(example), example)  # would name a figure that there is not
    assert len(judged["checks"]) >= 12
    memory = found["soak"]["memory_mb"]
    assert 0 < memory["first"] <= memory["most"]
    assert found["soak"]["cache_mb"] > 0
    stages = found["cold_start"]
    assert {"model", "warm-up"} <= set(stages)
    assert stages["seconds"] > stages["model"] + stages["warm-up"]


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why(environment):
    with (
        pytest.raises(HoneclipError, match=r"ended with 2 before it was ready: .*nearest"),
        server_process.running("random:ViT-B-320", device="cpu", precision="fp32"),
    ):
        pass


def test_bodies_are_all_different_and_show_the_same_picture():
    files = [material.drawn(seed) for seed in range(2)]
    bodies = [json.loads(one) for one in itertools.islice(clients.image_bodies(files), 5)]
    sent = [base64.b64decode(one["input"][0]["image"], validate=True) for one in bodies]
    assert len(set(sent)) == 5
    for number, one in enumerate(sent):
        assert np.array_equal(np.asarray(images.decode(one)), np.asarray(images.decode(files[number % 2])))
    texts = [json.loads(one)["input"] for one in itertools.islice(clients.text_bodies(["a", "b"]), 5)]
    assert texts == ["a 0", "b 1", "a 2", "b 3", "a 4"]


FIGURES = {"images": {"ratio_to_bound": 0.8, "clients": {"32": {"p99_ms": 900.0}}, "never": float("nan")}, "model": "m"}


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ('[at_least]\n"images.ratio_to_bound" = 0.8', True),
        ('[at_least]\n"images.ratio_to_bound" = 0.81', False),
        ('[at_most]\n"images.clients.32.p99_ms" = 900', True),
        ('[at_most]\n"images.clients.32.p99_ms" = 899\n[at_least]\n"images.ratio_to_bound" = 0.1', False),
        ('[at_most]\n"images.never" = 1', False),
    ],
)
def test_limits_are_judged(tmp_path, text, passed):
    (tmp_path / "f.toml").write_text(text)
    assert slo.judged(FIGURES, slo.read(tmp_path / "f.toml"), tmp_path)["passed"] is passed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        ("[at_best]\na = 1", "at_best"),
        ('[at_least]\na = "much"', "a number for each figure"),
        ("[at_least]\na = true", "a number for each figure"),
        ("[at_least\n", "f.toml"),
        ('at_least = 3\n[at_most]\n"images.never" = 1', "at_least"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, text, says):
    (tmp_path / "f.toml").write_text(text)
    with pytest.raises(BadInput, match=says):
        slo.read(tmp_path / "f.toml")
    with pytest.raises(BadInput, match="No such file"):
        slo.read(Path("nowhere.toml"))


def test_a_figure_that_there_is_not_is_named_with_its_nearest():
    with pytest.raises(BadInput, match="there is no figure images.ratio_to_bond; nearest: images.ratio_to_bound"):
        slo.judged(FIGURES, {"at_least": {"images.ratio_to_bond": 1}}, Path("f.toml"))


@pytest.mark.parametrize(
    "arguments", [["--clients", "0"], ["--clients", "a"], ["--seconds", "0"], ["--precision", "int8"], ["--soak", "5"]]
)
def test_numbers_that_cannot_be(model, arguments, capsys):
    assert __main__._run(["bench", "serving", "--model", str(model), *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err
