"""By group: one patient, one query; against the mean worked out by hand, and through the command's own way."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tiny_runs
import torch

import honeclip
from honeclip.errors import BadInput, DataError
from honeclip.evaluation.answers import answer
from honeclip.evaluation.pooling import pooled


def test_a_group_is_the_unit_mean_of_its_distinct_pictures(embeddings):
    of = embeddings(rows=6, good=0, image_id=[0, 1, 1, 2, 3, 4], file_of=[0, 1, 2, 3, 4, 5])
    found = pooled(of, ["p", "p", "p", "", "q", "q"])
    mean = of.image[0].double() + of.image[1].double()  # the picture of the rows 1 and 2 is one
    assert torch.allclose(found.image[0].double(), mean / mean.norm(), atol=1e-7)
    assert torch.equal(found.image[0], found.image[2])
    assert torch.allclose(found.image[3], of.image[3], atol=1e-7)
    assert found.file_of.tolist() == [0, 0, 0, 1, 2, 2]
    assert torch.equal(found.text, of.text)


def test_every_caption_and_label_of_a_group_is_right_for_it(embeddings, classes):
    of = embeddings(rows=5, good=5)
    asked = answer(pooled(of, ["p", "p", "", "", "q"]), [("cat",), ("dog",), (), ("bird",), ("cat",)], classes)
    assert len(asked.ranks.image_to_text) == 4
    assert len(asked.ranks.text_to_image) == 5
    assert asked.image_rows.tolist() == [0, 2, 3, 4]
    assert len(asked.predictions.truth) == 3, "the group of the third row has no label"


def test_groups_of_one_row_change_nothing(embeddings):
    of = embeddings()
    found = answer(pooled(of, [""] * 60), [()] * 60, None)
    plain = answer(of, [()] * 60, None)
    assert np.array_equal(found.ranks.image_to_text, plain.ranks.image_to_text)
    assert found.queries == plain.queries


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """Forty drawn pictures, the two of a group of one split."""
    folder = tiny_runs.draw(tmp_path_factory.mktemp("grouped") / "shapes", 40, tiny_runs.ALL_SPLITS)
    with (folder / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "pairs.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, [*rows[0], "group"])
        out.writeheader()
        out.writerows({**row, "group": f"{row['split']}{place // 10}"} for place, row in enumerate(rows))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_runs.make_clip(tiny_runs.text_files(tmp_path_factory.mktemp("pool-text") / "text"))


def test_evaluate_by_group(grouped, tiny):
    found = honeclip.evaluate(tiny, data=grouped, pool="group")
    assert len(found.answers.ranks.image_to_text) == 4
    assert len(found.answers.ranks.text_to_image) == 8
    assert found.metrics["pairs"] == 8
    assert "Scored by group: the pictures of 8 rows are 4 groups, each one query." in found.notes
    assert "--pool group" in found.repeat


def test_what_cannot_be_pooled_is_refused(grouped, tiny, tmp_path):
    plain = tiny_runs.draw(tmp_path / "plain", 10, tiny_runs.ALL_SPLITS)
    with pytest.raises(DataError, match="needs a column `group`"):
        honeclip.evaluate(tiny, data=plain, pool="group")
    with pytest.raises(BadInput, match="--pool patient: it is group"):
        honeclip.evaluate(tiny, data=grouped, pool="patient")
    with pytest.raises(BadInput, match="with --sizes"):
        honeclip.evaluate(tiny, data=grouped, pool="group", sizes=(64,))
