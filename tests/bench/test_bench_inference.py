"""`bench inference`: figures that agree with each other and with the model."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import tiny_runs
from PIL import Image

from honeclip import __main__
from honeclip.bench import inference, material
from honeclip.errors import BadInput


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_runs.draw(tmp_path_factory.mktemp("data") / "shapes", 6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return tiny_runs.model_folder(folder / "model", tiny_runs.text_files(folder / "text"))


def test_the_figures_of_a_model(model, data, capsys):
    arguments = ["--model", str(model), "--data", str(data), "--batches", "1,4", "--rounds", "2", "--device", "cpu"]
    assert __main__._run(["bench", "inference", *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for many, one in (("images", "image"), ("texts", "text")):
        assert list(found[many]) == ["1", "4"]
        assert found[f"{many}_per_second"] == max(found[many].values())
        assert found[many][str(found[f"{one}_batch"])] == found[f"{many}_per_second"]
    assert found["image_seconds"] == pytest.approx(1 / found["images"]["1"])
    assert found["text_seconds"] == pytest.approx(1 / found["texts"]["1"], rel=0.5)  # median and mean of all lengths
    assert found["decode_seconds"] > 0
    assert found["tokenise_seconds"] > 0


def test_for_people_each_figure_has_a_line(model, capsys):
    assert __main__._run(["bench", "inference", "--model", str(model), "--batches", "2", "--rounds", "1"]) == 0
    lines = [line.rsplit(maxsplit=1)[0] for line in capsys.readouterr().out.splitlines()]
    assert {"images 2", "texts 2", "decode_seconds"} <= set(lines)


def test_more_work_takes_more_time(model):
    clip = inference.load(model, device="cpu")
    texts = material.captions(None, 4)
    seconds = {size: size / rate for size, rate in inference.text_bound(clip, texts, (1, 256)).per_second.items()}
    assert seconds[256] > seconds[1]


def test_pictures_are_jpegs_of_640_by_480_of_the_data(data):
    files = material.jpegs(str(data), 8)
    assert files[:2] == files[6:], "again from the first"
    with Image.open(data / "images/002.png") as image:
        expected = np.asarray(image.convert("RGB").resize((640, 480), Image.Resampling.BICUBIC), dtype=np.int16)
    with Image.open(io.BytesIO(files[2])) as image:
        assert (image.format, image.size) == ("JPEG", (640, 480))
        assert np.abs(np.asarray(image, dtype=np.int16) - expected).mean() < 5
    assert len(set(material.jpegs(None, 3))) == 3


@pytest.mark.parametrize(
    "arguments", [["--batches", "0"], ["--batches", "1,,2"], ["--rounds", "0"], ["--precision", "int8"]]
)
def test_numbers_that_cannot_be(model, arguments, capsys):
    assert __main__._run(["bench", "inference", "--model", str(model), *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err


def test_data_without_pictures_or_captions(tmp_path):
    (tmp_path / "pairs.csv").write_text("image,caption\nnowhere.png,\n")
    with pytest.raises(BadInput, match="no pictures"):
        material.jpegs(str(tmp_path), 1)
    with pytest.raises(BadInput, match="no captions"):
        material.captions(str(tmp_path), 1)
