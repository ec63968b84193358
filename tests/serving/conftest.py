"""A model of two layers, and servers of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
from live_server import QUICK, Faults, Running, start

from honeclip.model.clip import Clip
from honeclip.model.load import load
from honeclip.serving.fetch import Fetch
from honeclip.serving.keys import Keys
from honeclip.serving.settings import Settings


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a native CLIP of two layers a tower."""
    text = tiny_runs.text_files(tmp_path_factory.mktemp("words") / "text")
    return tiny_runs.model_folder(tmp_path_factory.mktemp("models") / "tiny", text)


@pytest.fixture(scope="session")
def offline(model: Path) -> Clip:
    """The same model, asked without a server."""
    return load(model, "cpu")


@pytest.fixture
def serve(model: Path) -> Iterator[Callable[..., Running]]:
    """serve(stuck_s=..., keys=...) -> a server of one's own; every keyword of `Settings` counts."""
    running: list[Running] = []

    def made(
        *,
        keys: Keys = Keys(),  # noqa: B008
        faults: Faults | None = None,
        fetch: Fetch = Fetch(),  # noqa: B008
        index: Any = None,
        base: Settings = QUICK,
        source: Path = model,
        device: Any = "cpu",
        **changes: Any,
    ) -> Running:
        running.append(start(source, replace(base, **changes), keys, faults or Faults(), fetch, index, device))
        return running[-1]

    yield made
    for one in running:
        if one.thread.is_alive():
            one.stop()


@pytest.fixture(scope="module")
def shared_server(model: Path, session_home: Path) -> Iterator[Running]:
    """One server for a file's tests that leave no trace in it; its thread would be seen by tests of other files."""
    one = start(model, replace(QUICK, stuck_s=20), Keys(), Faults(), Fetch(), None)
    yield one
    one.stop()
