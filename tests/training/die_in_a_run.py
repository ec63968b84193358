"""Run by test_resume.py in a process of its own: runs die by SIGKILL at chosen moments and are resumed.

`python die_in_a_run.py ROOT CASE` forks a child for each run; CASE is a JSON list of model, data, sections and places. A
first run is never killed and writes down where it was at each moment, a moment being a line of honeclip.training or
honeclip.checkpoint, in whatever thread, or a file renamed or deleted anywhere. Then one is killed at each of the places,
which are keys of `PLACES`, at the n-th moment of that place: threads take turns otherwise each time. Prints as JSON what the whole run left, and for each death where it was and what the run left that was resumed
after it.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiny_runs
import torch
import transformers.models.bert.modeling_bert  # noqa: F401 - once here, not once a child

from honeclip.checkpoint.save import named
from honeclip.monitoring import events
from honeclip.training import finish
from honeclip.training import run as training

OURS = tuple(str(Path(training.__file__).parents[1] / name) + os.sep for name in ("training", "checkpoint"))

PLACES = {
    "before": lambda where: "training/setup" in where,  # the first checkpoint
    "step": lambda where: "exact_step" in where,
    "files": lambda where: "checkpoint/tensors" in where,  # of a checkpoint, half written
    "name": lambda where: "_put_in_place" in where,  # of a checkpoint, about to become real
    "pointers": lambda where: "_point" in where,  # BEST and LATEST
    "old": lambda where: "_prune" in where,  # checkpoints, on their way out
    "back": lambda where: " _back " in where,  # to an older checkpoint
    "start": lambda where: "training/start" in where,
    "finish": lambda where: "training/finish" in where,
}


def watch(see: Callable[[str], None]) -> None:
    """Calls `see` with a description of each moment from now on."""

    def trace(frame, event, _):
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            place = "/".join(Path(frame.f_code.co_filename).with_suffix("").parts[-2:])
            see(f"{place} {frame.f_code.co_name} {frame.f_lineno}")
        return trace

    sys.addaudithook(lambda event, _: see(event) if event in {"os.rename", "os.remove", "os.rmdir"} else None)
    threading.settrace(trace)
    sys.settrace(trace)


def die_at(place: str, number: int) -> Callable[[str], None]:
    seen = itertools.count()

    def see(where: str) -> None:
        if PLACES[place](where) and next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return see


def child(work: Callable[[], None]) -> int:
    process = os.fork()
    if process == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    status = os.waitpid(process, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def left(out: Path) -> dict[str, object]:
    """What a run left: hashes of its last checkpoint and model, and its events but for times and memory."""
    last = out / "checkpoints" / (named(out / "checkpoints", "LATEST") or "none")
    files = [*last.glob("*.safetensors"), out / "model" / "open_clip_model.safetensors"]
    between = out / "interpolated" / "open_clip_model.safetensors"
    seen = events.read(out / "events.jsonl")
    return {
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()},
        "between": hashlib.sha256(between.read_bytes()).hexdigest() if between.is_file() else "",
        "checkpoints": sorted(path.name for path in (out / "checkpoints").iterdir()),
        "pointers": [named(out / "checkpoints", name) for name in ("LATEST", "BEST")],
        "steps": [[one["step"], one["loss"], one["lr"]] for one in seen if one["event"] == "step"],
        "scores": [[one["step"], one["score"], one.get("forgetting")] for one in seen if one["event"] == "evaluation"],
        "rewinds": [[one["step"], one["from_step"]] for one in seen if one["event"] == "rewind"],
    }


def case(root: Path, model: str, data: str, sections: dict[str, dict], places: list[str]) -> dict[str, object]:
    quiet = {"device": "cpu", "report": lambda text: None}
    config = tiny_runs.settings(**{"checkpoint": {"every": 1}, **sections})

    def begin(out: Path, see: Callable[[str], None]) -> None:
        watch(see)
        training.fit(data=data, out=out, model=model, config=config, **quiet)

    moments = root / "moments.json"

    def whole() -> None:
        seen: list[str] = []
        begin(root / "whole", seen.append)
        sys.settrace(None)
        threading.settrace(None)
        moments.write_text(json.dumps(seen))

    root.mkdir()
    assert child(whole) == 0
    seen = json.loads(moments.read_text())
    draw = random.Random(0)
    deaths = []
    for place in places:
        here = [where for where in seen if PLACES[place](where)]
        number = draw.randrange(len(here))
        out = root / f"run-{place}-{number}"
        killed = child(lambda out=out, place=place, number=number: begin(out, die_at(place, number)))
        resumed = child(lambda out=out: training.fit(out=out, resume=True, **quiet))
        deaths.append({"place": place, "at": here[number], "killed": killed, "resumed": resumed, **left(out)})
    return {"whole": left(root / "whole"), "deaths": deaths}


def main(root: Path, given: str) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # what was imported is not looked at again by each child
    os.fsync = lambda handle: None  # a killed process loses nothing that it wrote; waiting for the disk only costs time
    finish.write = lambda *folder, **content: None  # the page is not compared, and drawing it is half of a tiny run
    print(json.dumps(case(root, *json.loads(given))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
