"""Batches depend on their draw alone: not on workers, not on where a run was picked up; a lost image fails alone."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from honeclip.data import loader, pairs
from honeclip.data.order import order
from honeclip.domains.domain import AugmentRules
from honeclip.errors import DataError
from honeclip.preprocess.preprocess import Preprocess
from honeclip.preprocess.tokens import Tokenizer

RULES = AugmentRules(crop_scale=(0.5, 0.9), flip=True, rotate_deg=10, brightness=0.2)
PREPROCESS = Preprocess(size_px=32, tokenizer=Tokenizer("simple"))


@pytest.fixture
def rows(ten):
    lines = [f"{number}.png,picture {number % 4},train" for number in range(10)]
    (ten / "pairs.csv").write_text("\n".join(["image,caption,split", *lines]) + "\n")
    return pairs.load(ten)


def taken(rows, count, *, batch=4, start=0, **options):
    draws = order(len(rows), batch, 7, start, size_px=32)
    return list(loader.batches(rows, PREPROCESS, islice(draws, count), **options))


def same(one, other):
    return torch.equal(one.images, other.images) and torch.equal(one.tokens, other.tokens)


def test_a_batch_is_what_a_plain_loop_over_its_rows_gives(rows):
    for batch in taken(rows, 5):
        chosen = batch.draw.indices.tolist()
        assert torch.equal(batch.images, torch.stack([PREPROCESS.image(rows.images[row]) for row in chosen]))
        assert torch.equal(batch.tokens, PREPROCESS.texts([rows.captions[row] for row in chosen]))
        assert batch.caption_id.tolist() == rows.caption_id[chosen].tolist()
        assert batch.image_id.tolist() == rows.image_id[chosen].tolist()


def test_worker_processes_give_the_same_batches_as_threads(rows, ten, monkeypatch):
    """An image that they cannot read is left out and named by them as well."""
    monkeypatch.setattr(loader, "PIECE", 3)
    (ten / "3.png").unlink()
    alone = taken(rows, 4, rules=RULES)
    spawned = taken(rows, 4, rules=RULES, workers=2)
    assert all(map(same, alone, spawned))
    assert [one.draw.step for one in spawned] == [0, 1, 2, 3]
    assert [one.draw.indices.tolist() for one in spawned] == [one.draw.indices.tolist() for one in alone]
    assert [one.lost for one in spawned] == [one.lost for one in alone]
    assert any("3.png (row 4 of pairs.csv)" in text for one in spawned for text in one.lost)


def test_a_run_picked_up_in_the_middle_of_an_epoch_goes_on_the_same(rows):
    whole = taken(rows, 7, rules=RULES)
    assert all(map(same, whole[3:], taken(rows, 4, start=3, rules=RULES)))


def test_augmentation_changes_pixels_and_nothing_else(rows):
    plain, changed = taken(rows, 2), taken(rows, 2, rules=RULES)
    assert not torch.equal(plain[0].images, changed[0].images)
    assert torch.equal(plain[0].tokens, changed[0].tokens)
    assert all(map(same, plain, taken(rows, 2, rules=AugmentRules())))


def test_an_image_that_vanished_is_left_out_and_named(rows, ten):
    (ten / "3.png").unlink()
    (ten / "5.png").write_bytes(b"\x89PNG broken")
    batch = taken(rows, 1, batch=10)[0]
    assert sorted(batch.draw.indices.tolist()) == [0, 1, 2, 4, 6, 7, 8, 9]
    assert len(batch.images) == len(batch.tokens) == len(batch.caption_id) == 8
    assert len(batch.lost) == 2
    assert any("3.png (row 4 of pairs.csv)" in one for one in batch.lost)


def test_a_batch_without_a_readable_image_ends_with_a_sentence(rows, ten):
    for number in range(10):
        (ten / f"{number}.png").unlink()
    with pytest.raises(DataError, match="step 1: none of its images"):
        taken(rows, 1)


def test_what_features_stand_in_for_is_not_made(rows, ten):
    for number in range(10):
        (ten / f"{number}.png").unlink()
    batch = taken(rows, 1, with_images=False, with_tokens=False)[0]
    assert batch.images is None
    assert batch.tokens is None
