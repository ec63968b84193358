"""Faults come upon the real command in processes of its own: runs of a tiny model on a few real pairs, on a CPU.

Each run of the suite takes about a second: `warm.py` has imported everything and forks. What a run left is compared bit
for bit with `whole`, the same run without a fault.
"""

from __future__ import annotations

import csv
import ctypes
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_runs

from honeclip.checkpoint.save import named
from honeclip.monitoring import events

HERE = Path(__file__).parent
PATIENCE_S = 240.0
"""After which something hangs: a process that decodes takes a minute to start on a machine that is busy."""

STEPS, SAVES, LOOKS = 12, 3, 4
"""Steps of a run, between two checkpoints, and between two evaluations."""

SETS = (
    f"train.length={STEPS}",
    "train.batch=8",
    "train.lr=1e-3",
    "train.precision=fp32",
    f"checkpoint.every={SAVES}",
    f"evaluate.every={LOOKS}",
    "report.pictures=false",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.faults)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(3 * PATIENCE_S))
            if sys.platform != "linux":
                item.add_marker(pytest.mark.skip(reason="forks, kills and mounts the Linux way"))


@dataclass(frozen=True)
class Done:
    """A command that has ended: as the shell sees it, with SIGKILL as -9."""

    code: int
    out: str
    err: str

    def failed_in_words(self, code: int) -> str:
        """The message of a command that has ended as it should, with an error of one or more sentences."""
        assert self.code == code, self.err
        assert "Traceback" not in self.err
        assert "Error ignored" not in self.err
        found = re.search(r"^error: (.*)", self.err, re.MULTILINE | re.DOTALL)
        assert found, self.err
        return found[1]


class Command:
    """A command that runs."""

    def __init__(self, warm: Warm, pid: int, out: Path, err: Path) -> None:
        self.pid = pid
        self._warm, self._out, self._err = warm, out, err
        self._done: Done | None = None

    def send(self, number: int) -> None:
        if self._done is None:
            os.kill(self.pid, number)

    @property
    def over(self) -> bool:
        """Whether it has ended; it waits to be asked for its status, so its number is no other process's."""
        return self._done is not None or Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    @property
    def err(self) -> str:
        """What it has said on standard error so far."""
        return self._err.read_text() if self._err.exists() else ""

    def until(self, happened: Callable[[], object], seconds: float = PATIENCE_S) -> bool:
        """Waits for a moment of it; False where it ended before."""
        end = time.monotonic() + seconds
        while not happened():
            if self.over:
                return False
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise AssertionError(f"what was waited for did not happen in {seconds:g} s:\n{self.done().err}")
            time.sleep(0.0005)
        return True

    def done(self, seconds: float = PATIENCE_S) -> Done:
        """Its end; one that hangs is killed, and the test fails."""
        if self._done is None:
            end = time.monotonic() + seconds
            while not self.over and time.monotonic() < end:
                time.sleep(0.002)
            hangs = not self.over
            if hangs:
                os.kill(self.pid, signal.SIGKILL)
            status = self._warm.ask({"wait": self.pid})["status"]
            self._done = Done(status, self._out.read_text(), self._err.read_text())
            assert not hangs, f"it hung for {seconds:g} s:\n{self._done.err}"
        return self._done


class Warm:
    """The process that has imported everything, and forks."""

    def __init__(self, home: Path, folder: Path) -> None:
        env = {**tiny_runs.environment(home), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "warm.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def ask(self, question: dict) -> dict:
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the warm process has ended"
        return json.loads(answer)

    def start(self, *argv: object, **faults: object) -> Command:
        self._count += 1
        out, err = (self._folder / f"{self._count}.{name}" for name in ("out", "err"))
        question = {"argv": [*map(str, argv)], "out": str(out), "err": str(err), "faults": faults}
        return Command(self, self.ask(question)["pid"], out, err)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def data(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty real pairs of pictures and captions: 24 train, 8 val, 8 test. The pictures are copies."""
    source = shared_data / "tuxpaint_stamps"
    folder = tmp_path_factory.mktemp("pairs") / "stamps"
    (folder / "images").mkdir(parents=True)
    wanted = {"train": 24, "val": 8, "test": 8}
    with (source / "pairs.csv").open(newline="") as read, (folder / "pairs.csv").open("w", newline="") as written:
        out = csv.writer(written)
        out.writerow(["image", "caption", "split"])
        for row in csv.DictReader(read):
            if wanted[row["split"]]:
                wanted[row["split"]] -= 1
                (folder / row["image"]).write_bytes((source / row["image"]).read_bytes())
                out.writerow([row["image"], row["caption"], row["split"]])
    return folder


@pytest.fixture(scope="session")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native CLIP of two layers a tower, whose tokenizer knows the words of the captions."""
    with (data / "pairs.csv").open(newline="") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    folder = tmp_path_factory.mktemp("tiny")
    return tiny_runs.model_of(folder, captions)


@pytest.fixture(scope="session")
def new(data: Path, model: Path) -> Callable[..., list[object]]:
    """new(out, "section.key=value", ...): the arguments of a run."""

    def arguments(out: Path, *sets: str) -> list[object]:
        given = [part for one in (*SETS, *sets) for part in ("--set", one)]
        return ["fit", "--data", data, "--model", model, "--out", out, "--device", "cpu", "--json", *given]

    return arguments


@pytest.fixture(scope="session")
def may_mount() -> bool:
    """Whether this process may mount, which it then does in a name space of its own: nothing of it outlives the tests."""
    libc = ctypes.CDLL(None)
    return (
        libc.unshare(0x00020000) == 0  # CLONE_NEWNS
        and subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True).returncode == 0
    )


@pytest.fixture
def disk(may_mount: bool, tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    if not may_mount:
        pytest.skip("a small disk cannot be mounted here: it needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "small", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="session")
def warm(may_mount, new, session_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Processes of commands."""
    folder = tmp_path_factory.mktemp("warm")
    made = Warm(session_home, folder)
    try:
        done = made.start(*new(folder / "run"), teach=str(folder / "learned")).done(240)
        assert done.code == 0, done.err
        threads = made.ask({"learn": str(folder / "learned")})["threads"]
        # one of pyarrow's knows forks
        assert len([name for name in threads if not name.startswith("jemalloc")]) == 1, "a fork would lose the others"
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def whole(warm: Warm, new, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run to which nothing happens."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = warm.start(*new(out)).done()
    assert done.code == 0, done.err
    return out


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def steps(out: Path) -> list[tuple[int, float]]:
    return [(one["step"], one["loss"]) for one in events.read(out / "events.jsonl") if one["event"] == "step"]


def bits(out: Path) -> dict[str, object]:
    """What a finished run left, but for times: the model, the last checkpoint, every loss and every score."""
    last = out / "checkpoints" / str(named(out / "checkpoints", "LATEST"))
    return {
        "model": sha(out / "model" / "open_clip_model.safetensors"),
        "checkpoint": {path.name: sha(path) for path in last.glob("*.safetensors")},
        "pointers": [named(out / "checkpoints", name) for name in ("LATEST", "BEST")],
        "steps": steps(out),
        "scores": [
            (one["step"], one["score"]) for one in events.read(out / "events.jsonl") if one["event"] == "evaluation"
        ],
        "report": json.loads((out / "report" / "report.json").read_text())["after"],
    }


@pytest.fixture(scope="module")
def half(warm: Warm, new, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after a few steps; tests copy it."""
    out = tmp_path_factory.mktemp("half") / "run"
    command = warm.start(*new(out))
    command.until(lambda: (out / "checkpoints" / "step-000006").exists())
    command.send(signal.SIGTERM)
    assert command.done().code == 143
    assert not (out / "model").exists()
    return out


@pytest.fixture
def resumed(warm: Warm, whole: Path) -> Callable[[Path], Done]:
    """resumed(out): goes on with a run and compares what it leaves with the run to which nothing happened."""

    def go_on(out: Path, *options: object) -> Done:
        done = warm.start("fit", "--resume", "--out", out, "--json", *options).done()
        assert done.code == 0, done.err
        assert "Traceback" not in done.err
        assert bits(out) == bits(whole)
        return done

    return go_on
