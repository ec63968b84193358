"""The health of an evaluation: figures of every distinct picture, counts of every pair, and who is hardest, by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_runs

from honeclip.data import pairs as manifests
from honeclip.domains import domain as domains
from honeclip.embedding.embed import embed
from honeclip.evaluation import geometry
from honeclip.evaluation.answers import answer
from honeclip.evaluation.evaluate import score
from honeclip.evaluation.examples import examples
from honeclip.evaluation.health import LETTERS, cut, health, histogram, shown


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_runs.make_clip(tiny_runs.text_files(tmp_path_factory.mktemp("text") / "files"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Thirty pictures, one of them in two rows of other captions."""
    folder = tiny_runs.draw(tmp_path_factory.mktemp("data") / "drawn", 30, ("val",))
    with (folder / "pairs.csv").open("a") as file:
        file.write("images/003.png,a shape that stands here twice,val\r\n")
    return manifests.load(folder)


@pytest.fixture(scope="module")
def seen(clip, rows):
    embeddings = embed(clip, rows)
    answers = answer(embeddings, [()] * len(embeddings.rows), None)
    return embeddings, answers


def test_the_figures_are_those_of_the_distinct_pictures_and_captions(rows, seen):
    embeddings, answers = seen
    found = health(embeddings, answers, rows)
    images, texts = embeddings.image[:30].double().numpy(), embeddings.text.double().numpy()
    assert len(texts) == 31
    assert found["uniformity_image"] == pytest.approx(geometry.uniformity(images), abs=1e-4)
    assert found["effective_rank_text"] == pytest.approx(geometry.effective_rank(texts), abs=1e-4)
    pairs = embeddings.image.double().numpy(), texts[embeddings.caption_of]
    assert found["alignment"] == pytest.approx(geometry.alignment(*pairs), abs=1e-4)


def test_every_pair_of_a_picture_and_a_caption_is_counted_once(rows, seen):
    found = health(*seen, rows)["similarity"]
    assert sum(found["positive"]) == 31
    assert sum(found["negative"]) == 30 * 31 - 31
    assert len(found["edges"]) == len(found["positive"]) + 1


def test_a_histogram_by_hand():
    found = histogram(np.array([0.31, 0.34, 1.0]), np.array([0.12, 0.15, 0.9]))
    assert (found["edges"][0], found["edges"][-1]) == (0.1, 1.0)
    held = {
        round(edge, 2): (a, b) for edge, a, b in zip(found["edges"], found["positive"], found["negative"], strict=False)
    }
    assert {edge: counts for edge, counts in held.items() if sum(counts)} == {
        0.1: (0, 1),
        0.15: (0, 1),
        0.3: (2, 0),
        0.9: (0, 1),
        0.95: (1, 0),
    }


def test_the_hardest_pairs_are_those_whose_caption_comes_last(rows, seen):
    embeddings, answers = seen
    found = health(embeddings, answers, rows)["hardest"]
    ranks = answers.ranks.image_to_text
    assert [one["rank"] for one in found] == sorted(ranks.tolist(), reverse=True)[: len(found)]
    for one in found:
        row = rows.files.index(one["file"])
        own = {rows.captions[other] for other in range(len(rows)) if rows.files[other] == one["file"]}
        assert one["caption"] in own
        text = embeddings.text[embeddings.captions.index(one["caption"])]
        assert one["similarity"] == pytest.approx(float(embeddings.image[row] @ text), abs=1e-3)


def test_the_same_pictures_are_shown_at_every_look_with_their_nearest_captions(rows, seen):
    embeddings, answers = seen
    found = shown(examples(rows, embeddings, answers), answers, rows)
    cosines = (embeddings.image @ embeddings.text.T).numpy()
    for one in found:
        best = cosines[rows.files.index(one["file"])].argsort()[::-1]
        assert [each["caption"] for each in one["top"]] == [embeddings.captions[j] for j in best[: len(one["top"])]]
    opposite = replace(embeddings, text=-embeddings.text)
    again = answer(opposite, [()] * len(rows), None)
    assert [one["file"] for one in shown(examples(rows, opposite, again), again, rows)] == [
        one["file"] for one in found
    ]


def test_nothing_is_embedded_twice_for_it(rows, clip):
    """The image tower sees as many pictures as without."""
    seen: list[int] = []
    hook = clip.model.visual.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    asked = {"labels": (), "data_name": "drawn", "split": "val"}
    try:
        plain = score(clip, rows, domains.load("general"), **asked)
        without = sum(seen)
        told = score(clip, rows, domains.load("general"), **asked, healthy=True)
    finally:
        hook.remove()
    assert without == 30
    assert sum(seen) == 60
    assert (plain.health, plain.metrics) == (None, told.metrics)
    assert told.health is not None


def test_a_long_caption_is_cut():
    assert cut("short") == "short"
    assert len(cut("long " * 100)) == LETTERS
