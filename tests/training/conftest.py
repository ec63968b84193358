"""Runs of milliseconds: one thread (two would wait for each other longer than they compute), tiny data and models."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_runs

from honeclip.training import finish
from honeclip.training.run import Run, fit


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """And what was imported is not looked at again by every run's garbage collection, which is longer than its steps."""
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


@pytest.fixture(scope="session")
def known(tmp_path_factory) -> Path:
    """What the model knows: 120 pictures, each colour and shape once in val and once in test."""
    return tiny_runs.draw(tmp_path_factory.mktemp("known") / "known", 120, tiny_runs.ALL_SPLITS)


@pytest.fixture(scope="session")
def renamed(tmp_path_factory) -> Path:
    """The same pictures with each colour called by the name of the next one."""
    folder = tiny_runs.draw(tmp_path_factory.mktemp("renamed") / "renamed", 120, tiny_runs.ALL_SPLITS)
    file = folder / "pairs.csv"
    text = file.read_text()
    for old, new in zip(tiny_runs.COLOURS, tiny_runs.COLOURS[1:] + tiny_runs.COLOURS[:1], strict=True):
        text = text.replace(f"a {old} ", f"a {new.upper()} ")
    file.write_text(text.lower())
    return folder


@pytest.fixture(scope="session")
def knowing(known, text, tmp_path_factory) -> Path:
    """A run that has learned `known`."""
    folder = tmp_path_factory.mktemp("knowing")
    model = tiny_runs.model_folder(folder / "model", text, unaligned=False)
    config = tiny_runs.settings(
        train={"length": 50, "batch": 72, "lr": 3e-3}, evaluate={"every": 50}, checkpoint={"every": 0}
    )
    fit(data=known, out=folder / "run", model=model, config=config, device="cpu", report=lambda text: None)
    return folder / "run"


@pytest.fixture
def quick(data, vit, tmp_path, monkeypatch) -> Callable[..., Run]:
    """quick(section={...}, out=..., ...): a run in this process, six steps unless it says otherwise; what was said is
    in `quick.said`. It draws no page unless page=True: that takes as long as the rest of such a run."""
    said: list[str] = []
    defaults = {"data": data, "model": vit, "out": tmp_path / "run", "device": "cpu"}
    others = ("resume", "overwrite", "sets", "config_file", "domain")

    def run(page: bool = False, **given: Any) -> Run:
        options = {name: given.pop(name, default) for name, default in defaults.items()}
        options |= {name: given.pop(name) for name in others if name in given}
        if options.get("resume"):
            options["data"] = options["model"] = None
        config = given if options.get("resume") else tiny_runs.settings(**given)
        with monkeypatch.context() as patch:
            if not page:
                patch.setattr(finish, "write", lambda *folder, **content: None)
            return fit(config=config, report=said.append, **options)

    run.said = said
    return run
