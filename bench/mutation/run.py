"""Mutation testing: makes one fault after the other in a copy of honeclip and sees whether a test fails.

One warm process has imported torch and forks for each mutant, so that a fault costs what its tests take. Which tests run
follows from one traced run without a fault: those that come by the faulty line, the quickest first, up to the first failure.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from operators import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]

TESTS = {
    "losses": ["tests/losses"],
    "stepping": ["tests/stepping", "tests/training/test_accumulation.py", "tests/distributed/test_steps_over_ranks.py"],
    "checkpoint": ["tests/checkpoint"],
}
"""The tests of each package."""

IN_PROCESSES = {"stepping/ranks.py": ["tests/distributed/test_steps_over_ranks.py"]}
"""Files that run in processes which the tests start, where the traced run does not see them."""

PLUGINS = ("pytest_timeout", "pytest_cov", "_hypothesis_pytestplugin")
"""The plugins of pytest that these tests need; others cost seconds in each process."""

COLD = ("honeclip", "conftest", "tests", "test_", "__main__", "coverage", "_pytest", "pytest")
"""How the names begin of what the warm process must not import: the code under test, and what belongs to one run."""

LEAST = 6
"""Mutants of each file at least, so that small ones are in the sample."""

GRACE_S = 30
"""Seconds of computing beyond four times what the tests took without a fault before a mutant counts as one that does not
end. A busy machine does not change them; asleep it may be for `ASLEEP` times as long."""

ASLEEP = 10

DATA_BYTES = 6 * 2**30
"""What a mutant may allocate: a fault in a size must not take the machine's memory."""


@dataclass(frozen=True)
class Baseline:
    """The run without a fault.

    Attributes:
        seconds: by test.
        lines: by file (relative to the package) and line, the tests that came by; "" stands for imports.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, set[str]]]

    def tests_of(self, file: str, mutant: Mutant, most_s: float) -> list[str]:
        """The tests that come by the statement of a mutant, the quickest first, as many as take `most_s` together."""
        of_file = self.lines.get(file, {})
        lines = range(mutant.first, mutant.last + 1)
        found = set().union(*(of_file.get(line, set()) for line in lines))
        if not found or "" in found:  # what is read when the module is imported: any test of the file may see it
            found = set().union(*of_file.values()) if of_file else set()
        found |= {one for one in self.seconds if one.split("::")[0] in IN_PROCESSES.get(file, ())}
        order = sorted(found - {""}, key=lambda one: (self.seconds.get(one, 0.0), one))
        took = list(itertools.accumulate(self.seconds.get(one, 0.0) for one in order))
        return [one for one, until in zip(order, took, strict=True) if until <= max(most_s, took[0])]


class _Only:
    """Runs these tests in this order, and notes how long each took."""

    def __init__(self, order: Sequence[str] | None) -> None:
        self.place = None if order is None else {name: number for number, name in enumerate(order)}
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if self.place is not None:
            items[:] = sorted(
                (one for one in items if one.nodeid in self.place), key=lambda one: self.place[one.nodeid]
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


def _pytest(copy: Path, paths: Iterable[str], plugin: _Only, *more: str) -> int:
    """Runs tests of the project against the honeclip in `copy`, in this process."""
    sys.path[:0] = [str(copy / "src"), str(ROOT / "tests")]
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.chdir(ROOT)
    options = ["-o", "addopts=--strict-markers --strict-config -m 'not slow and not faults'", "-q", "-x", "--tb=no"]
    options += ["-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile=mutation"]
    options += [word for one in PLUGINS for word in ("-p", one)]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # the warm process has imported plugins already
    options += ["--basetemp", str(copy / "tmp"), *more]
    return int(pytest.main([*options, *paths], plugins=[plugin]))


def _forked(work: Any, log: Path, seconds: int = 3600) -> int:
    """Starts `work` in a fork with a session of its own, whose output goes to a file."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES, DATA_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end(child: int) -> None:
    """Ends a fork and what it started."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def baseline(copy: Path, package: str) -> Baseline:
    """One traced run of a package's tests without a fault."""
    plugin = _Only(None)
    seconds, data, log, modules = (copy / name for name in ("seconds.json", "coverage", "baseline.log", "modules.json"))

    def work() -> int:
        os.environ["COVERAGE_FILE"] = str(data)
        code = _pytest(copy, TESTS[package], plugin, f"--cov=honeclip.{package}", "--cov-context=test", "--cov-report=")
        seconds.write_text(json.dumps(plugin.seconds))
        modules.write_text(json.dumps([name for name in sys.modules if not name.startswith(COLD)]))
        return code

    code = _wait(_forked(work, log))
    if code:
        raise SystemExit(f"the tests of {package} fail without any fault (exit {code}):\n{log.read_text()[-3000:]}")
    _warm(json.loads(modules.read_text()))
    from coverage import CoverageData

    found = CoverageData(str(data))
    found.read()
    took: dict[str, float] = json.loads(seconds.read_text())
    lines: dict[str, dict[int, set[str]]] = {}
    for path in found.measured_files():
        file = str(Path(path).relative_to(copy / "src" / "honeclip"))
        lines[file] = {
            line: set().union(*(_tests(one, took) for one in contexts))
            for line, contexts in found.contexts_by_lineno(path).items()
        }
    return Baseline(took, lines)


def _warm(names: Sequence[str]) -> None:
    """Imports what the tests imported, so that no fork has to."""
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                importlib.import_module(name)
            except Exception:  # what is no module of its own, or of another run
                continue


def _tests(context: str, every: Iterable[str]) -> set[str]:
    """The tests that a context of coverage stands for: what a fixture did may be seen by every test of its file."""
    name, _, phase = context.rpartition("|")
    if not name:
        return {""}
    if phase == "run":
        return {name}
    return {one for one in every if one.split("::")[0] == name.split("::")[0]}


def sample(package: str, share: float, seed: int, files: Sequence[str]) -> list[tuple[str, Mutant]]:
    """Of every file the same share of its mutants, drawn at random, at least `LEAST`."""
    chosen = []
    for path in sorted((ROOT / "src" / "honeclip" / package).glob("*.py")):
        file = f"{package}/{path.name}"
        if files and path.name not in files:
            continue
        found = mutants(path.read_text(encoding="utf-8"))
        count = min(len(found), max(LEAST, round(share * len(found))))
        drawn = random.Random(f"{seed} {file}").sample(range(len(found)), count)
        chosen += [(file, found[number]) for number in sorted(drawn)]
    return chosen


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    if not of:
        return 0.0, 1.0
    z, p = 1.96, hits / of
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


def judged(
    copies: Sequence[Path], base: Baseline, chosen: Sequence[tuple[str, Mutant]], most_s: float
) -> list[dict[str, Any]]:
    """What became of each mutant; as many at once as there are copies."""
    free, running = list(copies), {}
    found: list[dict[str, Any]] = []
    waiting = list(chosen)
    while waiting or running:
        while waiting and free:
            file, mutant = waiting.pop(0)
            copy = free.pop()
            source = (ROOT / "src" / "honeclip" / file).read_text(encoding="utf-8")
            (copy / "src" / "honeclip" / file).write_text(mutant.applied(source), encoding="utf-8")
            names = base.tests_of(file, mutant, most_s)
            record = {
                "file": file,
                "line": mutant.line,
                "kind": mutant.kind,
                "source": source.splitlines()[mutant.line - 1].strip(),
                "before": source.encode()[mutant.start : mutant.stop].decode(),
                "after": mutant.text,
                "tests": len(names),
            }
            if not names:
                found.append(record | {"end": "survived", "seconds": 0.0})
                _restore(copy, file)
                free.append(copy)
                continue
            limit = GRACE_S + 4 * math.ceil(sum(base.seconds.get(one, 0.0) for one in names))
            paths = list(dict.fromkeys(one.split("::")[0] for one in names))
            log = copy / "log"

            def work(copy: Path = copy, paths: list[str] = paths, names: list[str] = names) -> int:
                return _pytest(copy, paths, _Only(names))

            child = _forked(work, log, limit)
            running[child] = (copy, record, time.monotonic(), limit)
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            late = [one for one, (_, _, began, limit) in running.items() if time.monotonic() - began > ASLEEP * limit]
            for one in late:
                _end(one)
                _wait(one)
                _closed(one, "timeout", running, found, free)
            time.sleep(0.05)
            continue
        code = os.waitstatus_to_exitcode(status)
        _end(child)
        ends = {0: "survived", -signal.SIGXCPU: "timeout"}
        _closed(child, ends.get(code, "killed"), running, found, free)
    return found


def _closed(child: int, end: str, running: dict[int, Any], found: list[dict[str, Any]], free: list[Path]) -> None:
    copy, record, began, _ = running.pop(child)
    record |= {"end": end, "seconds": round(time.monotonic() - began, 1)}
    if end == "killed":
        said = (copy / "log").read_text(errors="replace").splitlines()
        record["by"] = next(
            (line.removeprefix("FAILED ")[:160] for line in said if line.startswith("FAILED")), "import"
        )
    found.append(record)
    _restore(copy, record["file"])
    free.append(copy)
    print(
        f"{len(found)} {end} {record['file']}:{record['line']} {record['source'][:90]} | {record['before']!r} -> "
        f"{record['after']!r}",
        file=sys.stderr,
        flush=True,
    )


def _restore(copy: Path, file: str) -> None:
    shutil.copyfile(ROOT / "src" / "honeclip" / file, copy / "src" / "honeclip" / file)


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts and the score: killed and not ended, of all."""
    ends = {end: sum(one["end"] == end for one in found) for end in ("killed", "timeout", "survived")}
    hits, of = len(found) - ends["survived"], len(found)
    low, high = wilson(hits, of)
    return {"mutants": of, **ends, "score": round(hits / max(1, of), 4), "interval": [round(low, 4), round(high, 4)]}


def main() -> None:
    """Writes one JSON file and prints a line a file."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("packages", nargs="+", choices=sorted(TESTS))
    asked.add_argument("--share", type=float, default=0.25, help="of each file's mutants; 1 is all of them")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument(
        "--most",
        type=float,
        default=30.0,
        help="seconds of tests a mutant; a slower test that would kill it is not run",
    )
    asked.add_argument("--jobs", type=int, default=1, help="mutants at once")
    asked.add_argument("--files", nargs="*", default=[], help="only these files of the packages")
    asked.add_argument("--lines", nargs="*", type=int, default=[], help="only mutants of these lines")
    asked.add_argument("--out", type=Path, default=None, help="where the JSON goes; default: standard output")
    given = asked.parse_args()

    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    # a failure is all that counts: nobody reads a shrunk example
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutation", derandomize=True, deadline=None, database=None, phases=phases)
    began = time.monotonic()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copies = [Path(folder) / str(number) for number in range(given.jobs)]
        for copy in copies:
            shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
        for package in given.packages:
            chosen = sample(package, given.share, given.seed, given.files)
            chosen = [one for one in chosen if not given.lines or one[1].line in given.lines]
            print(f"{package}: {len(chosen)} mutants", file=sys.stderr)
            found += judged(copies, baseline(copies[0], package), chosen, given.most)
    order = sorted(found, key=lambda one: (one["file"], one["line"], one["before"], one["after"]))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    import torch

    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "share": given.share,
        "seed": given.seed,
        "seconds": round(time.monotonic() - began),
        "all": summary(order),
        "packages": {one: summary([x for x in order if x["file"].startswith(f"{one}/")]) for one in given.packages},
        "files": {
            file: summary([one for one in order if one["file"] == file]) for file in sorted({x["file"] for x in order})
        },
        "mutants": order,
    }
    text = json.dumps(result, indent=1, ensure_ascii=False)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    for name, one in [*result["files"].items(), *result["packages"].items(), ("all", result["all"])]:
        print(
            f"{name:28} {one['mutants']:5} mutants, {one['survived']:4} survived: {one['score']:.0%}", file=sys.stderr
        )


if __name__ == "__main__":
    main()
