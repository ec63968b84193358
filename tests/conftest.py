"""What every test gets: an own HONECLIP_HOME, no network, and the real data where it is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from programs import needed

# A developer's run draws new examples each time and so finds new faults; CI judges a commit, by the same examples always.
# Neither times an example: machines are busy.
settings.register_profile("judge", derandomize=True, deadline=None)
settings.register_profile("default", deadline=None)
if "HONECLIP_REQUIRE_ALL" in os.environ:
    settings.load_profile("judge")
if "PYTEST_XDIST_WORKER" in os.environ:  # tests run one process to a core, so each computes on one
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HONECLIP_OFFLINE_TESTS"] = "1"

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For many small operations: on a busy machine the threads of each would wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def session_home(tmp_path_factory) -> Path:
    """One home for the whole session, so that features and inspections of the real data are computed once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _own_home(session_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONECLIP_HOME", str(session_home))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real image-text sets; a test that asks for it is skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("the real data sets (../shared/data) are not there")
    return SHARED


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium for the pages of one test file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        made = started.chromium.launch(executable_path=needed("chromium"), args=["--no-sandbox"])
        yield made
        made.close()
