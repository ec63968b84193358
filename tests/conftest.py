"""What every test gets: an own HONECLIP_HOME, no network, and the real data where it is there."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
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

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared" / "data"


ENDS = {"subprocess", "launcher", "servers", "sync_playwright"}
"""What a test of the third tier uses: it starts processes, the command, a server or a browser."""

WHOLES = {"tiny_runs", "tiny_models", "fit", "honeclip.model.load.load", "SHARED"}
"""What one of the second tier uses: models, runs or real data, for which many parts of honeclip are needed."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives each test its tier (docs/testing.md) by what it and its fixtures use."""
    uses: dict[Any, set[str]] = {}
    for item in items:
        known: set[str] = set()
        if isinstance(item, pytest.Function):
            made = [
                one[-1].func for name, one in item._fixtureinfo.name2fixturedefs.items() if name in item.fixturenames
            ]
            known = set().union(*(_names(one, uses) for one in (item.function, *made)))
        item.add_marker("e2e" if known & ENDS else "integration" if known & WHOLES else "unit")


def _names(function: Any, uses: dict[Any, set[str]]) -> set[str]:
    """Every name that a function of the tests reads, also with its module, and those that the functions and classes of the tests that it names read."""
    if function in uses:
        return uses[function]
    uses[function] = found = set()
    waiting = [one.__code__ for one in _functions(function)]
    inside = getattr(function, "__globals__", None) or vars(sys.modules[function.__module__])
    while waiting:
        code = waiting.pop()
        found |= set(code.co_names)
        waiting += [one for one in code.co_consts if isinstance(one, CodeType)]
    for name in tuple(found):
        other = inside.get(name)
        found.add(f"{getattr(other, '__module__', '')}.{name}")
        if (inspect.isfunction(other) or inspect.isclass(other)) and _is_ours(other):
            found |= _names(other, uses)
    return found


def _functions(one: Any) -> list[FunctionType]:
    one = inspect.unwrap(one) if callable(one) else one
    return [each for each in (vars(one).values() if inspect.isclass(one) else [one]) if isinstance(each, FunctionType)]


def _is_ours(one: Any) -> bool:
    return Path(getattr(sys.modules.get(one.__module__), "__file__", None) or "").is_relative_to(HERE)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 of a module's own, with an empty bucket."""
    from s3_server import serving  # moto takes a second, and few tests need it

    with pytest.MonkeyPatch.context() as patch, serving(patch) as found:
        yield found


@pytest.fixture(params=["fake mps", "mps", "cuda"])
def accelerator(request: pytest.FixtureRequest) -> Any:
    """A GPU, each that is here, and the fake one everywhere; whoever has none loses nothing that a CPU could show."""
    from honeclip.device.detect import choose
    from honeclip.device.fake import FakeMps
    from honeclip.errors import BadInput

    if request.param == "fake mps":
        return FakeMps()
    try:
        return choose(request.param)
    except BadInput as error:
        pytest.skip(str(error))


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
