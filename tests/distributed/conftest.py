"""Real captions and pictures for models so small that a step takes milliseconds, and processes started by torchrun."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_runs

ROWS = {"train": 46, "val": 12, "test": 14}
"""Rows of each split: 46 in batches of 15 cross the ends of epochs, and two or four processes have unequal parts of 15."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Of every test here."""


@pytest.fixture(scope="session")
def surfaces(shared_data, tmp_path_factory) -> Path:
    """Pictures of steel surfaces: many rows of a batch share a caption."""
    return part_of(shared_data / "neu_det", tmp_path_factory.mktemp("surfaces"))


@pytest.fixture(scope="session")
def stamps(shared_data, tmp_path_factory) -> Path:
    """Drawings, each with a caption of its own, of several lengths."""
    return part_of(shared_data / "tuxpaint_stamps", tmp_path_factory.mktemp("stamps"))


def part_of(data: Path, folder: Path) -> Path:
    """The first rows of each split, spread over the data, with the paths of their pictures."""
    with (data / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        for split, count in ROWS.items():
            have = [row for row in rows if row["split"] == split]
            for row in have[:: len(have) // count][:count]:
                out.writerow({**row, "image": str(data / row["image"])})
    return folder


@pytest.fixture(scope="session")
def reader(surfaces, stamps, tmp_path_factory) -> Path:
    """A native CLIP of two layers a tower that knows every word of both."""
    with pytest.MonkeyPatch.context() as patch:
        texts = [(data / "pairs.csv").read_text(encoding="utf-8") for data in (surfaces, stamps)]
        captions = [row["caption"] for text in texts for row in csv.DictReader(text.splitlines())]
        words = sorted({word for caption in captions for word in re.findall(r"\w+|[^\w\s]+", caption)})
        patch.setattr(tiny_runs, "WORDS", ("[PAD]", "[UNK]", *words, "[START]", "[END]"))
        text = tiny_runs.text_files(tmp_path_factory.mktemp("words") / "files")
        vit = {**tiny_runs.VIT, "text_cfg": {**tiny_runs.VIT["text_cfg"], "vocab_size": len(words) + 4}}
        return tiny_runs.model_folder(tmp_path_factory.mktemp("reader") / "model", text, vit, unaligned=False)


@pytest.fixture(scope="session")
def fresh_heads(tmp_path_factory) -> Path:
    """A model with the parts of `starter`: its bodies stay frozen, and heads are made for their features."""
    text = tiny_runs.text_files(tmp_path_factory.mktemp("text") / "files")
    return tiny_runs.model_folder(tmp_path_factory.mktemp("two") / "model", text, tiny_runs.TWO_TOWERS)


@pytest.fixture(scope="module")
def started_torchrun(session_home) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """started_torchrun(N, "-m", "honeclip", ...) starts N processes; what still runs is ended with the module."""
    started: list[subprocess.Popen[str]] = []

    def start(processes: int, *arguments: Any) -> subprocess.Popen[str]:
        # port 0: the system gives a free one to whoever listens on it; one that was looked for before may be taken by then
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
        command += map(str, arguments)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        env = tiny_runs.environment(session_home)
        process = subprocess.Popen(command, env=env, text=True, start_new_session=True, **pipes)
        started.append(process)
        return process

    yield start
    for one in started:
        if one.poll() is None:
            one.send_signal(signal.SIGTERM)
            one.communicate(timeout=60)


@pytest.fixture
def in_turn(started_torchrun, tmp_path) -> Callable[..., tuple[list[list[dict[str, Any]]], str]]:
    """in_turn(N, cases): each case is what `honeclip.fit` is given, by N processes, which are started once for all. Gives what
    each rank got returned of each case, and standard error. `fails=True`: they must not come to the end."""

    def run(processes: int, cases: Sequence[dict[str, Any]], fails: bool = False) -> tuple[list[Any], str]:
        file = tmp_path / "cases.json"
        file.write_text(json.dumps([{**case, "out": str(case["out"])} for case in cases]))
        process = started_torchrun(processes, Path(__file__).with_name("fits_in_turn.py"), file)
        said, errors = process.communicate(timeout=280)
        assert (process.returncode != 0) is fails, errors
        assert said == ""
        files = sorted(tmp_path.glob("returned-*.jsonl"))
        return [[json.loads(line) for line in one.read_text().splitlines()] for one in files], errors

    return run
