"""Following events.jsonl by offset: whatever becomes of the file, and however long it is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honeclip.monitoring import events
from honeclip.monitoring.events import EventLog
from honeclip.monitoring.reader import MOST_EVALUATIONS, MOST_OTHERS, Reader
from honeclip.monitoring.thinning import MOST, Steps


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "run" / "events.jsonl"


def write(file: Path, steps: range, **more: Any) -> None:
    log = EventLog(file)
    for step in steps:
        log.append("step", step=step, **{"loss": 5.0 / step, "lr": 1e-3, **more})
    log.close()


def all_of(reader: Reader, chunk: int = 2**22) -> Reader:
    """The reader, when there is nothing left to read."""
    while reader.read(chunk):
        pass
    return reader


def test_a_short_run_is_kept_whole_and_in_the_order_of_the_file(file):
    write(file, range(1, 300))
    log = EventLog(file)
    log.append("evaluation", step=299, score=0.5, best=True)
    log.close()
    write(file, range(300, 400))
    assert all_of(Reader(file)).seen.events() == events.read(file)


@pytest.mark.parametrize("chunk", [200, 1000, 4096, 2**22])
def test_what_is_read_in_pieces_is_what_is_read_at_once(file, chunk):
    write(file, range(1, 500))
    assert all_of(Reader(file), chunk).seen.events() == events.read(file)


def test_only_what_is_new_is_read_and_half_a_line_waits_for_its_other_half(file):
    write(file, range(1, 11))
    reader = Reader(file)
    assert reader.read()
    assert not reader.read()
    line = json.dumps({"event": "step", "step": 11, "time": 1.0, "loss": 0.25}) + "\n"
    with file.open("a") as out:
        out.write(line[:20])
    assert not reader.read()
    assert reader.newest["step"] == 10
    with file.open("a") as out:
        out.write(line[20:] + line[:7])
    assert reader.read()
    assert (reader.newest["step"], reader.newest["loss"], reader.seen.torn) == (11, 0.25, 0)


def test_a_file_that_is_missing_or_empty_is_waited_for(file):
    reader = Reader(file)
    assert not reader.read()
    file.parent.mkdir()
    file.touch()
    assert not reader.read()
    assert (reader.seen.events(), reader.newest, reader.share) == ([], {}, 1.0)
    write(file, range(1, 3))
    assert reader.read()
    assert reader.newest["step"] == 2


def test_what_is_no_event_is_counted_and_what_is_unknown_is_kept(file):
    write(file, range(1, 3))
    strange = [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        '{"step": 3}',
        '{"event": 5}',
        "\udcff",
        '{"event": "step", "step": "many"}',
    ]
    with file.open("ab") as out:
        out.write(
            "\n".join([*strange, '{"event": "new_in_2030", "step": 2, "spin": "up"}', ""]).encode("utf-8", "replace")
        )
    write(file, range(3, 5))
    seen = all_of(Reader(file)).seen
    assert (seen.torn, seen.steps.count) == (9, 4)
    assert [one["spin"] for one in seen.others["new_in_2030"]] == ["up"]
    assert seen.last["step"] == 4


def test_fields_of_other_types_do_not_end_the_watching(file):
    file.parent.mkdir()
    odd = [None, "3", True, [1], {"a": 1}]
    lines = [{"event": "step", "step": 1, "loss": 1.0}]
    lines += [{"event": "step", "step": 2, "loss": one} for one in odd]
    lines += [{"event": kind, "step": one, "score": one} for one in odd for kind in ("evaluation", "rewind", "stage")]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    reader = all_of(Reader(file))
    assert reader.seen.torn == 0
    assert reader.seen.best is not None
    assert isinstance(reader.seen.events(), list)


def test_a_file_that_a_resumed_run_cut_back_and_went_on_with_is_read_anew(file):
    write(file, range(1, 101), note="first")
    reader = all_of(Reader(file))
    log = EventLog(file)
    log.truncate(len(b"".join(file.read_bytes().splitlines(keepends=True)[:40])))
    assert reader.read()
    all_of(reader)
    assert reader.newest["step"] == 40
    for step in range(41, 151):  # longer than it was before anybody looks again
        log.append("step", step=step, loss=1.0, lr=1e-3, note="again")
    log.close()
    all_of(reader)
    assert reader.seen.events() == events.read(file)


def test_a_file_that_was_cut_back_and_is_longer_already_is_seen_to_be_another(file):
    write(file, range(1, 101), note="first")
    reader = all_of(Reader(file))
    kept = file.read_bytes().splitlines(keepends=True)[:40]
    file.write_bytes(b"".join(kept))
    write(file, range(41, 201), note="again")
    assert file.stat().st_size > reader.offset
    assert reader.read()
    assert all_of(reader).seen.events() == events.read(file)


def test_a_file_that_was_replaced_is_read_anew(file, tmp_path):
    write(file, range(1, 50))
    reader = all_of(Reader(file))
    write(tmp_path / "other.jsonl", range(1, 90), note="another run, overwritten")
    (tmp_path / "other.jsonl").replace(file)
    assert all_of(reader).seen.events() == events.read(file)


def test_a_file_that_vanishes_leaves_what_was_seen(file):
    write(file, range(1, 5))
    reader = all_of(Reader(file))
    file.unlink()
    assert not reader.read()
    assert reader.newest["step"] == 4


def test_what_a_rewind_took_back_is_left_out(file):
    log = EventLog(file)
    for step in range(1, 21):
        log.append("step", step=step, loss=float(step))
        if step % 5 == 0:
            log.append("evaluation", step=step, score=step / 100)
    log.append("rewind", step=10, from_step=20, rewinds=1)
    for step in range(11, 14):
        log.append("step", step=step, loss=0.5)
    log.close()
    seen = all_of(Reader(file)).seen
    course = events.course(events.read(file))
    steps = [one for one in course if one["event"] == "step"]
    assert [one for one in seen.events() if one["event"] == "step"] == steps
    assert [one["step"] for one in seen.evaluations] == [5, 10]
    assert seen.steps.count == len(steps)


def test_the_newest_step_is_known_before_all_others_are_read(file):
    write(file, range(1, 3000), note="x" * 200)
    reader = Reader(file)
    reader.read(10_000)
    assert reader.newest["step"] == 2999
    assert reader.seen.last["step"] < 100
    assert 0 < reader.share < 0.1


LONG = 50_000


def test_a_long_run_stays_small_and_loses_no_spike_and_no_mean(file):
    spikes = {7_777: 90.0, 31_000: -3.0, 49_999: 55.0}
    losses = {step: spikes.get(step, 1.0 + math.sin(step / 300)) for step in range(1, LONG + 1)}
    file.parent.mkdir()
    with file.open("w") as out:
        for step, loss in losses.items():
            out.write(json.dumps({"event": "step", "step": step, "time": 1e9 + step, "loss": loss, "lr": 1e-3}) + "\n")
            if step % 10 == 0:
                out.write(
                    json.dumps({"event": "evaluation", "step": step, "score": step / LONG, "best": step == 40}) + "\n"
                )
                out.write(json.dumps({"event": "memory", "step": step, "micro_batch": 4}) + "\n")
    seen = all_of(Reader(file)).seen
    assert seen.steps.count == LONG
    assert MOST / 2 <= len(seen.steps.all) <= MOST
    assert len(seen.evaluations) <= MOST_EVALUATIONS
    assert (seen.evaluations[0]["step"], seen.evaluations[-1]["step"], seen.best["step"]) == (10, LONG, 40)
    assert len(seen.others["memory"]) == MOST_OTHERS
    assert seen.counts["memory"] == LONG / 10
    kept = {one.step: one.event["loss"] for one in seen.steps.kept()}
    assert spikes.items() <= kept.items()
    assert kept == {step: losses[step] for step in kept}
    for one in seen.steps.all:
        inside = [losses[step] for step in range(one.first.step, one.last_step + 1)]
        assert one.mean == pytest.approx(sum(inside) / len(inside))
        assert (one.lowest.loss, one.highest.loss) == (min(inside), max(inside))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.one_of(st.none(), st.floats(-5, 5)))),
    st.integers(2, 9),
)
def test_neighbourhoods_are_those_of_the_steps_that_were_kept(moves, most):
    steps, here, known = Steps(most), 0, {}
    for move, loss in moves:
        if move < 0:
            here = max(0, here + move)
            steps.back_to(here)
            known = {step: one for step, one in known.items() if step <= here}
        else:
            here += 1
            known[here] = loss
            line = json.dumps({"event": "step", "step": here, "loss": loss}).encode()
            steps.add(here, loss, line, 0, len(line))
    assert steps.count == len(known)
    assert len(steps.all) <= most
    assert (steps.last_step, [one.first.step for one in steps.all][:1]) == (here, [1] if known else [])
    follows = 1
    for one in steps.all:
        assert one.first.step == follows
        follows = one.last_step + 1
        assert all(kept.event["loss"] == known[kept.step] for kept in one.kept)
    assert follows == here + 1
