"""`honeclip embed` and `honeclip search`: from pictures to Parquet, and from words or a picture to the nearest rows."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import honeclip
from honeclip.model.clip import Clip


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    return tmp_path_factory.mktemp("embedded") / "emb"


@pytest.fixture
def emb(command, tiny, shapes, embedded):
    if not embedded.exists():
        code, out, err = command(
            "embed", tiny, "--data", shapes, "--out", embedded, "--part-rows", 16, "--device", "cpu"
        )
        assert (code, out) == (0, "")
        assert f"embeddings: {embedded}, 40 of 40 rows, 3 of 3 parts computed now" in err
    return embedded


def test_embed_again_computes_nothing(command, tiny, shapes, emb):
    code, out, err = command(
        "embed", tiny, "--data", shapes, "--out", emb, "--part-rows", 16, "--device", "cpu", "--json"
    )
    assert code == 0
    said = json.loads(out)
    assert (said["rows"], said["parts"], said["computed"], said["left_out"]) == (40, 3, 0, [])
    assert "0 of 3 parts computed now" in err


@pytest.mark.parametrize("way", ["text", "image"])
def test_the_nearest_rows_by_words_or_by_a_picture(command, tiny, shapes, emb, way):
    query = "a red circle, number 0" if way == "text" else shapes / "images/012.png"
    code, out, _ = command("search", emb, f"--{way}", query, "--top", 3, "--json", "--device", "cpu")
    assert code == 0
    found = json.loads(out)["hits"]
    clip: Clip = honeclip.load(tiny, device="cpu")
    asked = (clip.encode_text(query) if way == "text" else clip.encode_image(query))[0].numpy()
    table = pq.read_table(sorted(emb.glob("part-*.parquet")))
    image, text = (
        np.array(table[name].to_pylist(), np.float32) @ asked for name in ("image_embedding", "text_embedding")
    )
    best = np.sort(np.maximum(image, text))[::-1][:3]
    assert [hit["score"] for hit in found] == pytest.approx(best.tolist(), abs=1e-6)
    assert found[0]["score"] == pytest.approx(1, abs=1e-5)
    assert found[0]["matched"] == ("caption" if way == "text" else "image")
    assert found[0]["id"] == (1 if way == "text" else 13)


def test_for_people_it_is_a_table(command, emb):
    code, out, _ = command("search", emb, "--text", "a red circle", "--among", "image", "--top", 2, "--device", "cpu")
    assert code == 0
    head, *lines = out.splitlines()
    assert head.split() == ["cosine", "nearest", "row", "caption"]
    assert len(lines) == 2
    assert all("images/" in line and " image " in line for line in lines)


@pytest.mark.parametrize(
    ("says", "arguments"),
    [
        ("either --text T or --image F", []),
        ("either --text T or --image F", ["--text", "a", "--image", "b.png"]),
        ("--text is empty", ["--text", " "]),
        ("--top 0: it is at least 1", ["--text", "a", "--top", "0"]),
        ("--among all: it is both, image or caption", ["--text", "a", "--among", "all"]),
        ("nowhere.png", ["--image", "nowhere.png"]),
        ("has other weights", ["--text", "a", "--model", "random:RN50"]),
    ],
)
def test_what_is_wrong_is_named(command, emb, says, arguments):
    code, out, err = command("search", emb, *arguments, "--device", "cpu")
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_embed_says_what_is_wrong(command, tiny, shapes, emb, tmp_path):
    data = tmp_path / "pairs.csv"
    data.write_text(f"image\n{shapes}/images/000.png\nnowhere.png\n")
    code, out, err = command("embed", tiny, "--data", data, "--out", tmp_path / "emb", "--device", "cpu")
    assert (code, out) == (0, "")
    assert "left out: row 2 (nowhere.png): there is no such file" in err
    code, _, err = command("embed", tiny, "--data", data, "--out", emb, "--part-rows", 16, "--device", "cpu")
    assert code == 2
    assert "holds embeddings of other rows" in err
    assert command("embed", tiny, "--data", data, "--out", emb, "--part-rows", 0)[0] == 2
