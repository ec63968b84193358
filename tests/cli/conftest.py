"""The command in this process, and data and a model for runs of a second."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_runs
import torch

from honeclip import __main__ as launcher


@pytest.fixture
def command(monkeypatch, capfd) -> Callable[..., tuple[int, str, str]]:
    """command("fit", "--out", ...) -> exit code, standard output, standard error, written by whomever."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    before = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["honeclip", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            launcher.main()
        out, err = capfd.readouterr()
        return done.value.code or 0, out, err

    yield run
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Forty drawn pictures with captions, labels and all three splits."""
    return tiny_runs.draw(tmp_path_factory.mktemp("cli-data") / "shapes", 40, tiny_runs.ALL_SPLITS, labels=True)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A native CLIP as a model folder."""
    folder = tmp_path_factory.mktemp("cli-model")
    return tiny_runs.model_folder(folder / "model", tiny_runs.text_files(folder / "text"))
