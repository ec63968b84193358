"""Following events.jsonl: every whole line once, half lines later, and from the start again where the file was cut back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honeclip.monitoring import events, follow
from honeclip.monitoring.events import EventLog
from honeclip.monitoring.follow import Place, news


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "events.jsonl"


def steps(found: follow.News) -> list[int]:
    return [event["step"] for event in found.events]


def test_a_missing_and_an_empty_file_have_no_news(file):
    assert news(file) == follow.News((), Place())
    file.touch()
    assert news(file) == follow.News((), Place())


def test_each_line_is_read_once_and_half_a_line_when_it_is_whole(file):
    log = EventLog(file)
    log.append("step", step=1)
    first = news(file)
    assert steps(first) == [1]
    with file.open("ab") as opened:
        opened.write(b'{"event": "step", "st')
    between = news(file, first.place)
    assert (between.events, between.place, between.again) == ((), first.place, False)
    with file.open("ab") as opened:
        opened.write(b'ep": 2}\n')
    second = news(file, between.place)
    assert steps(second) == [2]
    assert second.place.offset == file.stat().st_size
    assert news(file, second.place).events == ()
    log.close()


def test_what_is_no_json_object_is_left_out_and_what_comes_after_it_is_not(file):
    file.write_bytes(b'{"event": "st\n[1]\n\n\xff\xfe\n{"event": "step", "step": 7, "new": {"x": 1}}\n')
    assert steps(news(file)) == [7]


def test_a_file_that_was_cut_back_is_read_from_its_start(file):
    log = EventLog(file)
    log.append("step", step=1, time=1.0)
    offset = log.offset
    log.append("step", step=2, time=2.0)
    place = news(file).place
    log.truncate(offset)
    shorter = news(file, place)
    assert (shorter.again, steps(shorter)) == (True, [1])
    log.append("step", step=2, time=9.0)
    assert file.stat().st_size == place.offset, "by its length alone nothing has happened"
    regrown = news(file, place)
    assert (regrown.again, [event["time"] for event in regrown.events]) == (True, [1.0, 9.0])
    assert news(file, regrown.place).again is False
    file.unlink()
    assert news(file, regrown.place) == follow.News((), Place(), again=True)
    log.close()


def test_a_long_file_comes_in_pieces_and_a_long_line_whole(file, monkeypatch):
    log = EventLog(file)
    for number in range(200):
        log.append("step", step=number, filling="x" * (1000 if number == 100 else 10))
    log.close()
    monkeypatch.setattr(follow, "CHUNK_BYTES", 300)
    found, pieces, more = [], 0, True
    place = Place()
    while more:
        piece = news(file, place)
        found += piece.events
        place, more, pieces = piece.place, piece.more, pieces + 1
        assert not piece.again
    assert found == events.read(file)
    assert pieces > 20


@given(st.lists(st.integers(1, 40), max_size=20), st.lists(st.text(max_size=8), min_size=1, max_size=10))
def test_however_the_bytes_arrive_each_event_comes_once(tmp_path_factory, sizes, words):
    folder = tmp_path_factory.mktemp("follow")
    log = EventLog(folder / "whole.jsonl")
    for word in words:
        log.append("note", word=word)
    log.close()
    whole = (folder / "whole.jsonl").read_bytes()
    place, seen, end = Place(), [], 0
    for size in [*sizes, len(whole)]:
        with (folder / "events.jsonl").open("ab") as opened:
            opened.write(whole[end : end + size])
        end = min(len(whole), end + size)
        found = news(folder / "events.jsonl", place)
        assert not found.again
        place, seen = found.place, [*seen, *found.events]
    assert seen == events.read(folder / "whole.jsonl")


def test_the_end_of_a_file_is_where_reading_it_ends(file, monkeypatch):
    assert follow.end(file) == Place()
    log = EventLog(file)
    for number in range(50):
        log.append("step", step=number, filling="x" * number * 10)
    with file.open("ab") as opened:
        opened.write(b'{"event": "step", "st')
    assert follow.end(file) == news(file).place
    monkeypatch.setattr(follow, "CHUNK_BYTES", 700)
    assert follow.end(file) == Place(log.offset, news(file, follow.end(file)).place.tail)
    log.close()


def test_nothing_is_read_beyond_where_it_is_to_end(file):
    log = EventLog(file)
    log.append("step", step=1)
    offset = log.offset
    log.append("step", step=2)
    log.close()
    found = news(file, until=offset)
    assert (steps(found), found.place.offset) == ([1], offset)
    assert news(file, found.place, offset).events == ()
    assert steps(news(file, found.place)) == [2]
