"""What is handed to others: the wheel's files and version, and from an environment that holds nothing but the wheel, a service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import live_service
import pytest
import tiny_runs
from live_service import Service
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from programs import needed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The sources without .git, as in a container or an archive."""
    into = tmp_path_factory.mktemp("tree") / "honeclip"
    shutil.copytree(ROOT / "src", into / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, into)
    return into


def built(tree: Path, into: Path) -> Path:
    """The wheel, made from the sdist."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = into.glob("*.whl")
    assert len(list(into.glob("*.tar.gz"))) == 1
    return wheel


def asked(requirement: str) -> tuple[str, str]:
    """Name and versions, in the one spelling that all tools read alike."""
    one = Requirement(requirement)
    return canonicalize_name(one.name), str(one.specifier)


def test_a_wheel_without_git_holds_every_file_of_the_package_and_no_other(tree, tmp_path):
    wheel = built(tree, tmp_path)
    assert wheel.name == "honeclip-0.1.0.dev0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if not name.startswith("honeclip-0.1.0.dev0.dist-info/")}
        metadata = opened.read("honeclip-0.1.0.dev0.dist-info/METADATA").decode()
        assert "honeclip-0.1.0.dev0.dist-info/licenses/LICENSE" in opened.namelist()
    package = tree / "src" / "honeclip"
    assert names == {f"honeclip/{one.relative_to(package).as_posix()}" for one in package.rglob("*") if one.is_file()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = [line for line in re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE) if "extra" not in line]
    assert sorted(map(asked, said)) == sorted(map(asked, project["dependencies"]))
    assert "License-Expression: Apache-2.0" in metadata


@pytest.mark.slow
def test_the_version_is_that_of_the_tag(tree, tmp_path):
    tagged = shutil.copytree(tree, tmp_path / "tagged")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", "-C", str(tagged)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "sources"], ["tag", "v9.8.7"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    assert built(tagged, tmp_path / "dist").name == "honeclip-9.8.7-py3-none-any.whl"


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """What .ci/bare leaves: an environment with the wheel alone, and a run that quickstart made from it.

    HONECLIP_BARE names one that is there, so that a step of CI before need not be done again.
    """
    if "HONECLIP_BARE" in os.environ:
        return Path(os.environ["HONECLIP_BARE"])
    into = tmp_path_factory.mktemp("bare")
    uv = needed("uv")
    subprocess.run([uv, "build", "--quiet", "--out-dir", str(into / "dist")], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (into / "dist").glob("*.whl")
    done = subprocess.run(
        [str(ROOT / ".ci" / "bare"), str(wheel), str(into)], cwd=ROOT, capture_output=True, text=True, timeout=1700
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return into


@pytest.fixture(scope="module")
def clean(bare) -> dict[str, str]:
    """An environment of variables in which nothing leads to the sources."""
    environment = tiny_runs.environment(bare / "home")
    return {name: value for name, value in environment.items() if not name.startswith(("PYTHONPATH", "VIRTUAL_ENV"))}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_quickstart_from_the_wheel_leaves_a_run(bare, clean):
    words = [
        str(bare / "venv" / "bin" / "python"),
        "-c",
        "import honeclip; print(honeclip.__file__, honeclip.__version__)",
    ]
    file, version = subprocess.run(
        words, env=clean, cwd=bare, capture_output=True, text=True, check=True
    ).stdout.split()
    assert Path(file).is_relative_to(bare / "venv")
    assert re.match(r"\d+\.\d+\.\d+", version)
    report = json.loads((bare / "quickstart" / "report" / "report.json").read_text(encoding="utf-8"))
    before, after = (report[when]["retrieval"]["image_to_text"]["R@10"] for when in ("before", "after"))
    assert after["low"] > before["high"], "quickstart has learned nothing"


@pytest.fixture
def service(bare, clean, tmp_path) -> Iterator[Service]:
    """The run of quickstart, served from the wheel behind a link."""
    made = live_service.make(tmp_path / "service", bare / "venv" / "bin" / "honeclip", bare / "quickstart", clean)
    made.start()
    yield made
    made.kill()


def ask(url: str, said: Counter[str], stop: threading.Event, number: int) -> None:
    """A client that asks again and again; counts the statuses, and what was cut off in the middle of an answer."""
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                answer = client.post("/v1/embeddings", json={"input": [f"a molecule, {number} {turn}"]})
                said[str(answer.status_code)] += 1
            except httpx.ConnectError:
                said["nobody"] += 1
                stop.wait(0.1)
            except httpx.TransportError as error:
                said[type(error).__name__] += 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_service_from_the_wheel_is_probed_loaded_replaced_under_load_and_drained(service, tmp_path):
    assert [service.status(path) for path in ("/livez", "/readyz", "/health", "/metrics", "/docs")] == [200] * 5
    assert service.serves() == "quickstart"
    other = tiny_runs.model_folder(tmp_path / "other", tiny_runs.text_files(tmp_path / "text"))
    said: Counter[str] = Counter()
    stop = threading.Event()
    clients = [threading.Thread(target=ask, args=(service.url, said, stop, number)) for number in range(3)]
    for one in clients:
        one.start()
    done = service.replace(other)
    stop.set()
    for one in clients:
        one.join(60)
    assert done.returncode == 0, done.stderr
    assert service.serves() == "other"
    assert said["200"] > 20, said
    # an idle connection may be closed just as the next request is written to it: then nothing was admitted
    assert set(said) <= {"200", "503", "nobody", "RemoteProtocolError", "ReadError", "WriteError"}, said
    assert said["RemoteProtocolError"] + said["ReadError"] + said["WriteError"] <= len(clients), said
    assert "cut off" not in service.log
    assert "Traceback" not in service.log
    subprocess.run([service.environment["HONECLIP_STOP"]], env=service.environment, check=True)
    live_service.until_gone(service)
