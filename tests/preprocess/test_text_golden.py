"""Real captions, and what the rules of their field make of them. Read once by eye; `golden_captions` writes the files."""

from __future__ import annotations

import pytest
from golden_captions import COUNT, FIELDS, HASHED, chosen, preset, read, row, sha256

from honeclip.preprocess.rules import apply


@pytest.mark.parametrize("name", sorted(set(FIELDS) - HASHED))
def test_captions_that_are_kept_come_out_as_they_were_read(name):
    how = preset(FIELDS[name])
    rows = read(name)
    assert rows
    for one in rows:
        assert apply(one["caption"], how) == one.get("text", one["caption"])


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_the_files_hold_what_the_data_holds(name, shared_data):
    captions = chosen(shared_data / name / "pairs.csv")
    how = preset(FIELDS[name])
    assert len(captions) == COUNT or name in ("pneumoniamnist", "neu_det", "magnetic_tile")
    assert [row(name, caption, apply(caption, how)) for caption in captions] == read(name)


def test_captions_that_may_not_be_kept_are_hashes():
    for name in HASHED:
        assert all(len(value) == len(sha256("")) for one in read(name) for value in one.values())


def test_the_rules_have_work_to_do_on_real_captions():
    changed = {name: sum("text" in one for one in read(name)) for name in set(FIELDS) - HASHED}
    assert changed["openstax_microbiology"] >= 6
    assert changed["molecules"] == 0, "a name of a compound is nobody's to change"
