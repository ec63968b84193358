"""Studies of milliseconds: tiny data, a tiny model, one thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_runs

from honeclip.tuning.study import Result, tune


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Of every test here."""


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Forty drawn pictures with labels: 24 train, 8 val, 8 test."""
    return tiny_runs.draw(tmp_path_factory.mktemp("tune-data") / "shapes", 40, tiny_runs.ALL_SPLITS, labels=True)


@pytest.fixture(scope="session")
def vit(tmp_path_factory) -> Path:
    """A native CLIP as a model folder."""
    folder = tmp_path_factory.mktemp("tune-model")
    return tiny_runs.model_folder(folder / "model", tiny_runs.text_files(folder / "text"))


@pytest.fixture
def study(data, vit, tmp_path) -> Callable[..., Result]:
    """study("train.seed=1", trials=3, ...): a study in this process; what it said is in `study.said`."""
    said: list[str] = []
    quick = ("train.batch=8", "train.precision=fp32", "train.length=3", "evaluate.every=1")

    def work(*sets: str, **options: Any) -> Result:
        given = {"data": data, "model": vit, "out": tmp_path / "tune", "device": "cpu", "report": said.append}
        return tune(**{**given, "sets": (*quick, *sets), **options})

    work.said = said  # type: ignore[attr-defined]
    return work
