"""Trackers get what the events say: read back with TensorBoard's own reader, and from the file that wandb syncs from."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from honeclip.checkpoint.lock import is_locked, locked
from honeclip.monitoring.events import EventLog
from honeclip.monitoring.to_tensorboard import TensorBoard
from honeclip.monitoring.to_wandb import WeightsAndBiases
from honeclip.monitoring.trackers import Tracked, figures, track

SIMILARITY = {"edges": [-1.0, 0.0, 0.5, 1.0], "positive": [1, 2, 5], "negative": [40, 16, 0]}


def stepped(log: EventLog, step: int, loss: float, **more: Any) -> None:
    times = {"first": 0.5, "wait": 0.01}
    log.append("step", step=step, loss=loss, lr=1e-3, skipped=False, lrs={"heads": 1e-3}, seconds=times, **more)


def evaluated(log: EventLog, step: int, score: float) -> None:
    retrieval = {"image_to_text": {"R@10": {"value": score, "low": 0.1, "high": 0.9}}}
    metrics = {"data": "shapes", "pairs": 8, "retrieval": retrieval, "zeroshot": {"classes": 6, "chance": 0.2}}
    health = {"alignment": 1.5, "dead_image": 3, "similarity": SIMILARITY, "hardest": [{"file": "a.png", "rank": 9}]}
    log.append("evaluation", step=step, score=score, words="R@10", best=True, metrics=metrics, health=health)


@pytest.fixture
def file(tmp_path) -> Path:
    """Five steps, of which the last two were done twice, and an evaluation."""
    with closing(EventLog(tmp_path / "events.jsonl")) as log:
        evaluated(log, 0, 0.125)
        for step in (1, 2, 3, 4):
            stepped(log, step, 8.0 / step, grad_norms={"image": 1.0, "text": 0.5})
        log.append("rewind", step=2, from_step=4, rewinds=1)
        for step in (3, 4, 5):
            stepped(log, step, 1.0 / step)
        log.append("checkpoint", step=5, seconds=0.25, bytes=1000)
        log.append("stage", step=5, size_px=288, reason="because")
        log.append("of a newer version", step=5, level=2, words="new", deep=[{"a": 1}])
        log.append("end", status="done")
    return log.path


def curve(read: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in read.Scalars(tag)]


def board(folder: Path) -> EventAccumulator:
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    read.Reload()
    return read


def test_tensorboard_reads_every_figure_at_its_step_and_time(file, tmp_path):
    assert track(file, lambda: TensorBoard(tmp_path / "board")) == Tracked(5, ended=True)
    read = board(tmp_path / "board")
    assert curve(read, "train/loss") == [
        (n, pytest.approx(loss)) for n, loss in enumerate((8, 4, 1 / 3, 1 / 4, 1 / 5), 1)
    ]
    assert set(read.Tags()["scalars"]) == {
        "train/loss", "train/lr", "train/lrs/heads", "train/seconds/first", "train/seconds/wait",
        "train/grad_norms/image", "train/grad_norms/text",
        "val/score", "val/retrieval/image_to_text/R@10", "val/health/alignment", "val/health/dead_image",
        "checkpoint/seconds", "checkpoint/bytes", "of a newer version/level",
    }  # fmt: skip
    assert curve(read, "val/retrieval/image_to_text/R@10") == [(0, 0.125)]
    times = [json.loads(line)["time"] for line in file.read_text().splitlines() if '"checkpoint"' in line]
    assert read.Scalars("checkpoint/bytes")[0].wall_time == pytest.approx(times[0])
    drawn = read.Histograms("val/similarity/positive")[0].histogram_value
    assert (list(drawn.bucket), list(drawn.bucket_limit)) == ([0, 1, 2, 5], SIMILARITY["edges"])
    assert drawn.num == 8


def test_a_second_call_replaces_what_the_first_has_written_and_nothing_else(file, tmp_path):
    folder = tmp_path / "board"
    track(file, lambda: TensorBoard(folder))
    (folder / "events.out.tfevents.1.somebody.else").write_bytes(b"")
    track(file, lambda: TensorBoard(folder))
    assert len(list(folder.iterdir())) == 2
    assert len(board(folder).Scalars("train/loss")) == 5


def test_a_run_is_followed_to_its_end_over_a_cut(tmp_path):
    """What is read at first is a run that goes on; between two reads it is cut back and written to its end."""
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    stepped(log, 1, 4.0)
    offset = log.offset
    stepped(log, 2, 3.0)

    class Resumed(TensorBoard):
        def flush(self) -> None:
            super().flush()
            assert curve(board(tmp_path / "board"), "train/loss") == [(1, 4.0), (2, 3.0)], "it can be looked at already"
            log.truncate(offset)
            stepped(log, 2, 2.0)
            stepped(log, 3, 1.0)
            log.append("end", status="done")

    assert track(path, lambda: Resumed(tmp_path / "board"), follow=True) == Tracked(3, ended=True)
    log.close()
    assert curve(board(tmp_path / "board"), "train/loss") == [(1, 4.0), (2, 2.0), (3, 1.0)]


WRITER = """
import sys
from pathlib import Path
from honeclip.checkpoint.lock import locked
from honeclip.monitoring.events import EventLog
with locked(Path(sys.argv[1])):
    log = EventLog(Path(sys.argv[1]) / "events.jsonl")
    log.append("step", step=1, loss=2.0)
    print("written", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_is_killed_ends_the_following_and_one_that_is_only_silent_does_not(tmp_path, session_home):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    environment = tiny_runs.environment(session_home)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout.readline() == "written\n"
        asked = []

        def is_alive() -> bool:
            asked.append(is_locked(tmp_path))
            if len(asked) == 2:  # it was silent and there; now it goes, and leaves an event that nobody has read
                log = EventLog(tmp_path / "events.jsonl")
                stepped(log, 2, 1.0)
                log.close()
                writer.kill()
                writer.wait()
            return asked[-1]

        found = track(
            tmp_path / "events.jsonl",
            lambda: TensorBoard(tmp_path / "board"),
            follow=True,
            is_alive=is_alive,
            silence_s=0.0,
        )
    assert asked == [True, True, False]
    assert found == Tracked(2, ended=False)
    assert curve(board(tmp_path / "board"), "train/loss") == [(1, 2.0), (2, 1.0)]


def test_to_ask_for_a_lock_makes_and_takes_none(tmp_path):
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        pass
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        pass


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The history in the file that `wandb sync` sends: records in LevelDB's log format."""
    (file,) = folder.glob("*.wandb")
    data, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            parsed = wandb_internal_pb2.Record()
            parsed.ParseFromString(record)
            record = b""
            if parsed.WhichOneof("record_type") == "history":
                yield {" ".join(one.nested_key): json.loads(one.value_json) for one in parsed.history.item}


def test_wandb_gets_the_same_offline_and_asks_nobody(file, tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        nobody.setblocking(False)
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        for name in ("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, address)
        monkeypatch.setenv("NO_PROXY", "")
        made: list[Path] = []

        def opened() -> WeightsAndBiases:
            tracker = WeightsAndBiases(tmp_path / "out", "a", {"train": {"batch": 8}})
            made.append(tracker.folder)
            return tracker

        assert track(file, opened).step == 5
        with pytest.raises(BlockingIOError):
            nobody.accept()
    assert made[0].parent == tmp_path / "out" / "wandb"
    assert made[0].name.startswith("offline-run-")
    history = list(rows(made[0]))
    losses = [(one["step"], one["train/loss"]) for one in history if "train/loss" in one]
    assert losses == [(1, 8), (2, 4), (3, pytest.approx(8 / 3)), (4, 2), (3, pytest.approx(1 / 3)), (4, 0.25), (5, 0.2)]
    assert [one["val/retrieval/image_to_text/R@10"] for one in history if "val/score" in one] == [0.125]
    drawn = next(one for one in history if "val/score" in one)
    assert drawn["val/similarity/negative bins"] == SIMILARITY["edges"]
    assert drawn["val/similarity/negative values"] == SIMILARITY["negative"]


@given(
    st.dictionaries(
        st.sampled_from(["event", "step", "time", "metrics", "health", "seconds", "loss", "similarity"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["value", "similarity", "edges", "positive", "x"]), inner, max_size=3)
            ),
            max_leaves=6,
        ),
    )
)
def test_no_event_of_whatever_version_stops_it(event):
    found = figures(event)
    if found is not None:
        assert all(isinstance(value, float) for value in found.values.values())
