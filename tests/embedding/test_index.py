"""A folder of embeddings: the model's own, each row once, whatever kills it; and the exact nearest in it."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_runs
import torch

from honeclip.embedding import index as indices
from honeclip.embedding import parts
from honeclip.embedding.index import Index
from honeclip.embedding.to_parts import embed_to_parts
from honeclip.errors import BadInput, DataError, ModelError, NonFiniteError, RunError
from honeclip.model.load import load
from honeclip.preprocess.rules import TextHow

ROWS = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Drawn pictures with captions, and a model as a folder."""
    folder = tmp_path_factory.mktemp("index")
    tiny_runs.draw(folder / "shapes", ROWS)
    return folder / "shapes", tiny_runs.model_folder(folder / "model", tiny_runs.text_files(folder / "text"))


@pytest.fixture
def model(made):
    return load(made[1], device="cpu")


def table(folder: Path):
    return pq.read_table(sorted(folder.glob("part-*.parquet")))


def manifest(folder: Path, rows: list[list[str]]) -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def column(of, name: str) -> np.ndarray:
    return np.array(of[name].to_pylist(), dtype=np.float32)


def test_the_parts_hold_what_the_model_gives_one_by_one(model, made, tmp_path):
    data, _ = made
    found = embed_to_parts(model, data, tmp_path / "emb", part_rows=16, batch_size=5)
    assert (found.rows, found.computed, found.failed) == (ROWS, 3, ())
    of = table(tmp_path / "emb")
    assert of.column_names == ["id", "image", "caption", "image_embedding", "text_embedding"]
    assert of["id"].to_pylist() == list(range(1, ROWS + 1))
    assert of["image"].to_pylist() == [f"images/{row:03d}.png" for row in range(ROWS)]
    images = torch.cat([model.encode_image(data / name) for name in of["image"].to_pylist()])
    texts = torch.cat([model.encode_text(caption) for caption in of["caption"].to_pylist()])
    assert np.abs(column(of, "image_embedding") - images.numpy()).max() < 1e-5
    assert np.abs(column(of, "text_embedding") - texts.numpy()).max() < 1e-5
    assert json.loads((tmp_path / "emb" / "index.json").read_text())["dim"] == 16


def test_real_pictures_and_captions(model, shared_data, tmp_path):
    source = shared_data / "tuxpaint_stamps"
    with (source / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:30]
    data = manifest(
        tmp_path / "d", [["image", "caption"], *[[str(source / one["image"]), one["caption"]] for one in rows]]
    )
    embed_to_parts(model, data, tmp_path / "emb", part_rows=7)
    of = table(tmp_path / "emb")
    assert of["caption"].to_pylist() == [one["caption"].strip() for one in rows]
    for place in (0, 13, 29):
        assert (
            np.abs(
                column(of, "image_embedding")[place] - model.encode_image(source / rows[place]["image"])[0].numpy()
            ).max()
            < 1e-5
        )
    (hit,) = Index.open(tmp_path / "emb").search(model.encode_image(source / rows[13]["image"])[0].numpy(), 1, "image")
    assert hit.score == pytest.approx(1, abs=1e-5)
    assert rows[hit.id - 1]["image"] == rows[13]["image"] or hit.id < 14


def test_a_bad_image_is_named_and_left_out_and_a_caption_is_optional(model, made, tmp_path):
    data, _ = made
    (tmp_path / "cut.png").write_bytes((data / "images/003.png").read_bytes()[:60])
    good = [f"{data}/images/{row:03d}.png" for row in range(3)]
    rows = [
        ["image", "caption"],
        [good[0], "a red circle"],
        ["cut.png", "a bar"],
        [good[1], ""],
        ["", "a cross"],
        [good[2], "a bar"],
    ]
    manifest(tmp_path, rows)
    found = embed_to_parts(model, tmp_path, tmp_path / "emb", part_rows=2)
    assert found.rows == 3
    assert [one.split(":")[0] for one in found.failed] == ["row 2 (cut.png)", "row 4 ()"]
    assert "names no image" in found.failed[1]
    of = table(tmp_path / "emb")
    assert of["id"].to_pylist() == [1, 3, 5]
    assert of["caption"].to_pylist() == ["a red circle", None, "a bar"]
    assert of["text_embedding"].to_pylist()[1] is None
    again = embed_to_parts(model, tmp_path, tmp_path / "emb", part_rows=2)
    assert (again.computed, again.failed) == (0, found.failed), "said again, computed once"
    hits = Index.open(tmp_path / "emb").search(model.encode_text("a bar")[0].numpy(), 9, "caption")
    assert [(hit.id, hit.caption, hit.matched) for hit in hits][:1] == [(5, "a bar", "caption")]
    assert {hit.id for hit in hits} == {1, 5}, "a row without a caption cannot be found by it"


@pytest.mark.parametrize("lines", [[], [["nowhere.png"], ["cut.png"]]])
def test_nothing_to_embed(model, tmp_path, lines):
    manifest(tmp_path, [["image"], *lines])
    with pytest.raises(DataError, match="no rows|none of the 2 images can be read"):
        embed_to_parts(model, tmp_path, tmp_path / "emb")


# --- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_and_started_again_each_row_is_there_exactly_once(made, model, tmp_path, session_home):
    data, folder = made
    whole = embed_to_parts(model, data, tmp_path / "whole", part_rows=4)
    command = [sys.executable, "-m", "honeclip", "embed", str(folder), "--data", str(data), "--part-rows", "4"]
    command += ["--out", str(tmp_path / "emb"), "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=tiny_runs.environment(session_home))
    for line in process.stderr:
        if "embedding rows" in line and int(line.split()[2].split("/")[0]) >= 8:
            process.send_signal(signal.SIGKILL)
            break
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    before = {part.name: part.stat().st_mtime_ns for part in (tmp_path / "emb").glob("part-*")}
    assert 0 < len(before) < whole.header.parts
    (tmp_path / "emb" / ".part-000009.parquet.aside-1").write_bytes(b"half a part")
    with pytest.raises(DataError, match=r"not whole: \d of 10 parts are missing"):
        Index.open(tmp_path / "emb")
    again = embed_to_parts(model, data, tmp_path / "emb", part_rows=4)
    assert again.computed == whole.header.parts - len(before)
    assert all((tmp_path / "emb" / name).stat().st_mtime_ns == then for name, then in before.items())
    assert not list((tmp_path / "emb").glob(".part*"))
    first, second = table(tmp_path / "whole"), table(tmp_path / "emb")
    assert second["id"].to_pylist() == list(range(1, ROWS + 1))
    assert np.abs(column(first, "image_embedding") - column(second, "image_embedding")).max() < 1e-6


def test_a_damaged_part_is_computed_again(model, made, tmp_path):
    embed_to_parts(model, made[0], tmp_path, part_rows=16)
    part = parts.path(tmp_path, 1)
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(DataError, match="the first is part-000001.parquet"):
        Index.open(tmp_path)
    assert embed_to_parts(model, made[0], tmp_path, part_rows=16).computed == 1
    assert Index.open(tmp_path).rows == ROWS


def test_a_part_of_another_index_is_none_of_this_one(model, made, tmp_path):
    embed_to_parts(model, made[0], tmp_path / "a", part_rows=16)
    embed_to_parts(model, made[0], tmp_path / "b", part_rows=8)
    parts.path(tmp_path / "b", 0).write_bytes(parts.path(tmp_path / "a", 0).read_bytes())
    parts.path(tmp_path / "b", 1).write_bytes(parts.path(tmp_path / "b", 2).read_bytes())
    assert embed_to_parts(model, made[0], tmp_path / "b", part_rows=8).computed == 2
    assert table(tmp_path / "b")["id"].to_pylist() == list(range(1, ROWS + 1))


@pytest.mark.parametrize("what", ["model", "preprocessing", "rows", "parts of 16 rows"])
def test_a_folder_of_something_else_is_not_mixed(model, made, tmp_path, what):
    embed_to_parts(model, made[0], tmp_path / "emb", part_rows=16)
    data, rows = made[0], 16
    if what == "model":
        with torch.no_grad():
            model.model.visual.proj[0, 0] += 1e-3
    elif what == "preprocessing":
        model = replace(model, preprocess=replace(model.preprocess, fill=7, resize="longest"))
    elif what == "rows":
        data = manifest(tmp_path / "d", [["image", "caption"], [f"{made[0]}/images/000.png", "a bar"]])
    else:
        rows = 8
    with pytest.raises(RunError, match=f"holds embeddings of .*{what}.*name another --out"):
        embed_to_parts(model, data, tmp_path / "emb", part_rows=rows)
    assert len(table(tmp_path / "emb")) == ROWS


def test_a_folder_of_other_things_stays_as_it_is(model, made, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="letter.txt"):
        embed_to_parts(model, made[0], tmp_path)


def test_embeddings_that_are_not_finite_are_an_error(model, made, tmp_path):
    with torch.no_grad():
        model.model.visual.ln_post.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="the image tower"):
        embed_to_parts(model, made[0], tmp_path)


# --- search ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded")
    embed_to_parts(load(made[1], device="cpu"), made[0], folder, part_rows=7)
    return folder


def unit(seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=16).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


@pytest.mark.parametrize("among", ["both", "image", "caption"])
@pytest.mark.parametrize("top", [1, 10, ROWS, 1000])
def test_the_nearest_are_those_of_comparing_everything(embedded, monkeypatch, among, top):
    of = table(embedded)
    for seed, keep in ((0, 10**9), (1, 0)):
        monkeypatch.setattr(indices, "KEEP_BYTES", keep)
        query, index = unit(seed), Index.open(embedded)
        image, text = column(of, "image_embedding") @ query, column(of, "text_embedding") @ query
        scores = {"both": np.maximum(image, text), "image": image, "caption": text}[among]
        expected = np.argsort(-scores, kind="stable")[:top]
        for _ in range(2):  # from the disk, and from memory where it is kept
            hits = index.search(query, top, among)
            assert [hit.score for hit in hits] == pytest.approx(scores[expected].tolist(), abs=1e-6)
            assert sorted(hit.id for hit in hits) == sorted((expected + 1).tolist())
            assert (
                all(hit.matched == ("caption" if text[hit.id - 1] > image[hit.id - 1] else "image") for hit in hits)
                or among != "both"
            )
            assert [hit.image for hit in hits] == [of["image"][hit.id - 1].as_py() for hit in hits]
            assert [hit.caption for hit in hits] == [of["caption"][hit.id - 1].as_py() for hit in hits]


def test_of_equally_near_rows_the_first_of_the_data_come(model, made, tmp_path):
    same = f"{made[0]}/images/005.png"
    manifest(tmp_path, [["image"], *[[same]] * 9, [f"{made[0]}/images/006.png"]])
    embed_to_parts(model, tmp_path, tmp_path / "emb", part_rows=2)
    hits = Index.open(tmp_path / "emb").search(model.encode_image(same)[0].numpy(), 4)
    assert [hit.id for hit in hits] == [1, 2, 3, 4]


@pytest.mark.parametrize("query", [np.ones(15), np.ones((1, 16)), np.full(16, np.nan)])
def test_a_query_that_cannot_be(embedded, query):
    with pytest.raises(BadInput, match="16 finite numbers"):
        Index.open(embedded).search(query, 1)


def test_no_rows_are_not_asked_for(embedded):
    with pytest.raises(BadInput, match="at least 1"):
        Index.open(embedded).search(unit(0), 0)


def test_another_model_is_refused(embedded, model):
    index = Index.open(embedded)
    index.check(model)
    index.check(replace(model, source="the same weights under another name"))
    otherwise = replace(model, preprocess=replace(model.preprocess, text=TextHow(long="windows")))
    with pytest.raises(ModelError, match="sees images or texts otherwise"):
        index.check(otherwise)
    with torch.no_grad():
        model.model.token_embedding.weight[3, 3] += 1e-3
    with pytest.raises(ModelError, match="has other weights"):
        index.check(model)


def test_what_is_no_index(tmp_path):
    with pytest.raises(DataError, match="no folder of embeddings: `honeclip embed"):
        Index.open(tmp_path / "nowhere")
    (tmp_path / "index.json").write_text('{"format": 1}')
    with pytest.raises(DataError, match="no index of"):
        Index.open(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 2}')
    with pytest.raises(DataError, match="another format"):
        Index.open(tmp_path)
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(DataError, match="no index of"):
        Index.open(tmp_path)


def test_a_page_that_rots_is_found_when_it_is_read(model, made, tmp_path):
    embed_to_parts(model, made[0], tmp_path)
    part = parts.path(tmp_path, 0)
    content = bytearray(part.read_bytes())
    place = content.index(np.float32(table(tmp_path)["image_embedding"][20].as_py()[3]).tobytes())
    content[place] ^= 1
    part.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read any more"):
        Index.open(tmp_path).search(unit(0))
