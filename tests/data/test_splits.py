"""Division of rows: bound by group and pixels only, stratified, by content alone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honeclip.data import splits
from honeclip.data.splits import Content
from honeclip.errors import DataError

SMALL = st.builds(
    Content,
    image_sha=st.integers(0, 30).map("sha{}".format),
    caption=st.sampled_from(["a", "b", "c"]),
    labels=st.lists(st.sampled_from(["x", "y", "z"]), max_size=2, unique=True).map(tuple),
    group=st.one_of(st.just(""), st.integers(0, 12).map("g{}".format)),
)


def components(contents):
    """Independent of the code under test: merge sets until nothing changes."""
    sets = [{row} for row in range(len(contents))]

    def joined(a, b):
        return any(
            contents[i].image_sha == contents[j].image_sha
            or (contents[i].group and contents[i].group == contents[j].group)
            for i in a
            for j in b
        )

    changed = True
    while changed:
        changed = False
        for a in sets:
            for b in sets:
                if a is not b and joined(a, b):
                    a |= b
                    sets.remove(b)
                    changed = True
                    break
            if changed:
                break
    return sets


@settings(deadline=None, max_examples=60)
@given(st.lists(SMALL, max_size=25))
def test_bound_rows_stay_together_and_no_split_is_empty(contents):
    found = splits.assign(contents)
    units = components(contents)
    assert set(found) <= set(splits.SPLITS)
    assert all(len({found[row] for row in unit}) == 1 for unit in units)
    if len(units) >= 3:
        assert set(found) == set(splits.SPLITS)


@settings(deadline=None, max_examples=60)
@given(st.lists(SMALL, max_size=25, unique=True), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(contents, random):
    shuffled = list(contents)
    random.shuffle(shuffled)
    assert dict(zip(contents, splits.assign(contents), strict=True)) == dict(
        zip(shuffled, splits.assign(shuffled), strict=True)
    )


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 60), min_size=1))
def test_every_label_is_divided_in_the_shares(sizes):
    contents = [Content(f"{label}{n}", "c", (label,), "") for label, size in sizes.items() for n in range(size)]
    found = splits.assign(contents)
    if len(contents) < 10:
        return
    for name, share in splits.SHARES.items():
        assert abs(found.count(name) - share * len(contents) / 100) <= 1.5
        for label, size in sizes.items():
            mine = sum(content.labels == (label,) and one == name for content, one in zip(contents, found, strict=True))
            assert abs(mine - share * size / 100) <= 2.5


def test_large_groups_go_where_they_fit():
    contents = [Content(f"s{row}", "c", (), "big" if row < 60 else f"g{row}") for row in range(100)]
    counts = Counter(splits.assign(contents))
    assert counts == {"train": 70, "val": 15, "test": 15}


def test_equal_captions_bind_nothing():
    found = splits.assign([Content(f"s{row}", "the same", (), "") for row in range(20)])
    assert Counter(found) == {"train": 14, "val": 3, "test": 3}


def test_given_names():
    names = ["train", "Valid", "VAL", "validation", "test"]
    assert splits.given(names, range(1, 6), "m.csv") == ("train", "val", "val", "val", "test")
    with pytest.raises(DataError, match=r"m\.csv: row 2: the split 'dev2' is unknown; use train, val"):
        splits.given(["train", "dev2"], [1, 2], "m.csv")
    with pytest.raises(DataError, match="row 2: there is no split"):
        splits.given(["train", ""], [1, 2], "m.csv")


@pytest.mark.parametrize(
    ("test_rows", "val_rows", "expected"), [(20, 0, (66, 14, 20)), (0, 15, (70, 15, 15)), (0, 0, (70, 15, 15))]
)
def test_missing_splits_are_carved_from_train(test_rows, val_rows, expected):
    contents = [Content(f"s{row}", "c", (), "") for row in range(100)]
    named = ["test"] * test_rows + ["val"] * val_rows + ["train"] * (100 - test_rows - val_rows)
    found, notes = splits.complete(named, contents)
    counts = Counter(found)
    assert (counts["train"], counts["val"], counts["test"]) == expected
    assert len(notes) == (test_rows == 0) + (val_rows == 0)
    assert found[:test_rows] == ("test",) * test_rows


def test_data_to_evaluate_on_stays_as_it_is():
    contents = [Content(f"s{row}", "c", (), "") for row in range(5)]
    assert splits.complete(["test"] * 5, contents) == (("test",) * 5, ())
