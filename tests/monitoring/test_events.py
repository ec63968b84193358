"""events.jsonl: whole lines of valid JSON, cut back to an offset, readable while and after it was torn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honeclip.monitoring import events
from honeclip.monitoring.events import EventLog, plain


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "run" / "events.jsonl"


def test_a_step_is_one_line_in_the_order_of_the_contract(file):
    log = EventLog(file)
    log.append("step", loss=2.5, lr=1e-3, step=12, time=1.5, samples_per_second=80.0, micro_batch=8, memory_bytes=5)
    assert file.read_text() == (
        '{"event": "step", "step": 12, "time": 1.5, "loss": 2.5, "lr": 0.001, "samples_per_second": 80.0, '
        '"micro_batch": 8, "memory_bytes": 5}\n'
    )
    log.append("done")
    assert events.read(file)[1]["time"] > 1.7e9, "seconds since 1970"
    log.close()
    log.close()


def test_an_append_is_on_the_disk_at_once_and_the_offset_is_the_size(file):
    log = EventLog(file)
    for number in range(3):
        log.append("step", step=number, name="Größe")
        assert log.offset == file.stat().st_size
        assert [event["step"] for event in events.read(file)] == list(range(number + 1))
    log.close()


def test_a_resumed_run_cuts_off_what_came_after_its_checkpoint(file):
    log = EventLog(file)
    for number in (1, 2):
        log.append("step", step=number)
    offset = log.offset
    log.append("step", step=3)
    log.close()
    again = EventLog(file)
    assert again.offset > offset
    again.truncate(offset)
    assert again.offset == offset
    again.append("step", step=3, again=True)
    again.truncate(10_000)
    again.close()
    assert [(event["step"], event.get("again")) for event in events.read(file)] == [(1, None), (2, None), (3, True)]


@pytest.mark.parametrize("torn", [b'{"event": "st', b'{"event": "step", "step": 2}', b"\xff\xfe", b"\n[1]\n7\n{\n"])
def test_a_torn_line_is_skipped_when_read_and_cut_off_when_written_on(file, torn):
    log = EventLog(file)
    log.append("step", step=1)
    log.close()
    with file.open("ab") as opened:
        opened.write(torn)
    read = [event for event in events.read(file) if event["step"] == 1]
    assert len(read) == 1
    log = EventLog(file)
    log.append("step", step=9)
    log.close()
    assert [event["step"] for event in events.read(file)] == [1, 9]


def test_no_file_is_no_events(file):
    assert events.read(file) == []


def test_numbers_that_json_does_not_know_become_null_with_a_word(file):
    log = EventLog(file)
    log.append("step", step=1, loss=float("nan"), lr=float("inf"), deep={"a": [float("-inf"), 1.0]})
    log.close()

    def refuse(word: str) -> None:
        raise AssertionError(word)

    event = json.loads(file.read_text(), parse_constant=refuse)
    assert (event["loss"], event["loss_text"], event["lr"], event["lr_text"]) == (None, "nan", None, "inf")
    assert event["deep"] == {"a": [None, 1.0]}


def test_numpy_scalars_and_paths_are_plain():
    numbers = {1: np.float32(0.5), "i": np.int64(3), "b": np.bool_(True), "n": np.float64("nan"), "p": Path("a") / "b"}
    assert plain(numbers) == {"1": 0.5, "i": 3, "b": True, "n": None, "p": str(Path("a") / "b")}
    assert plain((True, None, "x")) == [True, None, "x"]
    with pytest.raises(TypeError, match="set"):
        plain({"x": {1, 2}})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=4))
def test_what_is_appended_is_what_is_read(tmp_path_factory, values):
    file = tmp_path_factory.mktemp("events") / "events.jsonl"
    log = EventLog(file)
    for value in values:
        log.append("note", value=value)
    log.close()
    assert [event["value"] for event in events.read(file)] == values
