"""Tiny data and models for whole runs on the fake device, and one thread: two would wait for each other."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import tiny_runs


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Forty drawn pictures: 24 train, 8 val, 8 test."""
    return tiny_runs.draw(tmp_path_factory.mktemp("data") / "shapes", 40, tiny_runs.ALL_SPLITS, labels=True)


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """Tokenizer and text config of the tiny models."""
    return tiny_runs.text_files(tmp_path_factory.mktemp("text") / "files")


@pytest.fixture(scope="session")
def vit(text, tmp_path_factory) -> Path:
    """A native CLIP as a model folder."""
    return tiny_runs.model_folder(tmp_path_factory.mktemp("vit") / "model", text)


@pytest.fixture(scope="session")
def two_towers(text, tmp_path_factory) -> Path:
    """A model with the parts of `starter` as a model folder: fresh heads, batch norms, dropout."""
    return tiny_runs.model_folder(tmp_path_factory.mktemp("two") / "model", text, tiny_runs.TWO_TOWERS)
