"""Run by conftest.py in a process of its own: it has imported everything, and forks a child for each command.

A line of JSON on standard input asks, a line on standard output answers:

    {"argv": [...], "out": FILE, "err": FILE, "faults": {...}}  ->  {"pid": N}
    {"wait": N}                                                 ->  {"status": exit status, -9 for SIGKILL}
    {"learn": FILE}                                             ->  {"threads": [their names]}

The child runs `honeclip` as the shell would, in a process of its own that can be killed. Saved are the seconds in which
torch is imported and the model is measured for its plan, which take longer than everything else in such a run: what the
first run of a session has imported and measured (`faulty` "teach") is known here to all that follow.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pickle
import sys
import threading
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import faulty

from honeclip import __main__ as launcher
from honeclip.training import planning


def start(asked: dict) -> int:
    process = os.fork()
    if process:
        return process
    for stream, name in ((1, asked["out"]), (2, asked["err"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["honeclip", *asked["argv"]]
    faulty.install(asked["faults"])
    try:
        launcher.main()
    except SystemExit as done:
        # as the interpreter ends, but that it does not take five thousand modules apart
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(done.code or 0)
    raise AssertionError("main has come back")


def learn(file: Path) -> list[str]:
    """Takes over what a run has imported and measured; gives the names of the threads, which a fork would lose."""
    names, measured = pickle.loads(file.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            if name not in sys.modules:
                with contextlib.suppress(Exception):  # some are made by others and cannot be imported by name
                    importlib.import_module(name)
    planning._measured.update(measured)
    gc.collect()
    gc.freeze()  # children look at none of it
    return sorted(one.read_text().strip() for one in Path("/proc/self/task").glob("*/comm"))


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    while line := sys.stdin.readline():
        asked = json.loads(line)
        if "wait" in asked:
            answer = {"status": os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])}
        elif "learn" in asked:
            answer = {"threads": learn(Path(asked["learn"]))}
        else:
            answer = {"pid": start(asked)}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
