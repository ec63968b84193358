"""`bench text`: the same embeddings from fewer tokens."""

from __future__ import annotations

import json

import pytest
import tiny_runs

from honeclip import __main__
from honeclip.bench import text
from honeclip.errors import BadInput


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_runs.draw(tmp_path_factory.mktemp("data") / "shapes", 24)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    files = tiny_runs.text_files(tmp_path_factory.mktemp("text") / "files")
    return tiny_runs.model_folder(tmp_path_factory.mktemp("vit") / "model", files)


def test_trimmed_captions_have_the_embeddings_of_padded_ones(models, data, capsys):
    arguments = ["--model", str(models), "--data", str(data), "--captions", "10", "--micro-batch", "4"]
    assert __main__._run(["bench", "text", *arguments, "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["largest_difference"] <= 1e-6
    # "[START] a red circle , number 7 [END]" is 8 tokens of the context's 16
    assert (found["tokens_trimmed"], found["tokens_padded"]) == (10 * 8, 10 * 16)
    assert found["ratio"] == pytest.approx(found["seconds_padded"] / found["seconds_trimmed"])
    assert found["cpu_ratio"] == pytest.approx(found["cpu_padded"] / found["cpu_trimmed"])


def test_a_tower_that_sees_padding_is_refused(data):
    with pytest.raises(BadInput, match="sees padding"):
        text.run("random:ViT-B-16-SigLIP", str(data), 4, device="cpu")


@pytest.mark.parametrize("fault", [{"captions": 0}, {"micro_batch": 0}, {"rounds": 0}])
def test_numbers_that_cannot_be(models, data, fault):
    with pytest.raises(BadInput, match="at least 1"):
        text.run(str(models), str(data), device="cpu", **fault)
