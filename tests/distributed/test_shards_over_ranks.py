"""Runs and embeddings on shards in S3: killed and resumed they are what they would have been, over several processes too."""

from __future__ import annotations

import json
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny_runs
import torch
from s3_server import S3, pack
from safetensors.torch import load_file

from honeclip.checkpoint.save import named
from honeclip.data import pairs, shards
from honeclip.data.order import BLOCK_BATCHES, order
from honeclip.embedding.to_parts import embed_to_parts
from honeclip.model.load import load
from honeclip.monitoring import events
from honeclip.training import finish, setup
from honeclip.training.run import fit

pytestmark = pytest.mark.slow

ROWS, LENGTH, BATCH = 128, 20, 2


@pytest.fixture(scope="module")
def packed(shared_data, tmp_path_factory) -> Path:
    """Shards of two pictures, so many that they make more than one block."""
    return pack(shared_data / "tuxpaint_stamps", tmp_path_factory.mktemp("packed") / "shards", ROWS, 2)


@pytest.fixture(scope="module")
def there(s3: S3, packed) -> str:
    return s3.put(packed, "stamps")


@pytest.fixture
def given(there, reader, tmp_path, monkeypatch) -> dict[str, Any]:
    """Twenty steps in float64."""
    monkeypatch.setattr(finish, "write", lambda *folder, **content: None)
    train = {"length": LENGTH, "batch": BATCH, "precision": "fp64", "lr": 1e-3}
    config = tiny_runs.settings(train=train, evaluate={"every": 10}, checkpoint={"every": 5})
    return {"data": there, "out": tmp_path / "whole", "model": str(reader), "config": config}


def alone(given: dict[str, Any]) -> None:
    fit(device="cpu", report=lambda text: None, **given)


def losses(out: Path) -> list[float]:
    return [one["loss"] for one in events.read(out / "events.jsonl") if one["event"] == "step"]


def weights(out: Path) -> dict[str, torch.Tensor]:
    checkpoints = out / "checkpoints"
    return load_file(checkpoints / str(named(checkpoints, "LATEST")) / "weights.safetensors")


def test_a_run_that_was_killed_and_resumed_is_bit_for_bit_the_run_that_was_not(given, there, tmp_path, in_turn):
    train = pairs.load(there).split("train")
    assert len(train) > 2 * BLOCK_BATCHES * BATCH, "more than one block"
    expected = list(islice(order(len(train), BATCH, 0, shards=shards.far(train.images)), LENGTH))
    real, drawn = setup.loader.batches, []

    def seen(*arguments, **options):
        for batch in real(*arguments, **options):
            drawn.append((batch.draw.step, sorted(batch.draw.indices.tolist())))
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup.loader, "batches", seen)
        alone(given)
    assert [rows for _, rows in drawn if len(rows) == BATCH][-LENGTH:] == [
        sorted(one.indices.tolist()) for one in expected
    ]
    in_turn(1, [{**given, "out": tmp_path / "killed", "signal": [signal.SIGKILL, 0, 13]}], fails=True)
    assert named(tmp_path / "killed" / "checkpoints", "LATEST") in ("step-000005", "step-000010")
    alone({"out": tmp_path / "killed", "resume": True})
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == LENGTH
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_of_which_one_is_killed_end_as_one(given, tmp_path, in_turn):
    alone(given)
    in_turn(2, [{**given, "out": tmp_path / "two", "signal": [signal.SIGKILL, 1, 13]}], fails=True)
    in_turn(2, [{"out": tmp_path / "two", "resume": True}])
    apart = [abs(a - b) for a, b in zip(losses(tmp_path / "whole"), losses(tmp_path / "two"), strict=True)]
    assert len(apart) == LENGTH
    assert max(apart) <= 1e-9


def test_embeddings_of_shards_there_by_two_processes_are_those_of_shards_here(
    there, packed, reader, tmp_path, started_torchrun
):
    command = ["-m", "honeclip", "embed", reader, "--data", there, "--out", tmp_path / "there", "--part-rows=16"]
    process = started_torchrun(2, *command, "--device=cpu", "--json")
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    assert json.loads(out)["rows"] == ROWS
    embed_to_parts(
        load(str(reader), device="cpu"), f"{packed}/s-{{000..{ROWS // 2 - 1:03d}}}.tar", tmp_path / "here", part_rows=16
    )
    one, other = (pq.read_table(sorted((tmp_path / name).glob("part-*.parquet"))) for name in ("there", "here"))
    assert one.equals(other)
