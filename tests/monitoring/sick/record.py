"""Makes a run sick, or lets it be healthy, and keeps what its rules look at: `python tests/monitoring/sick/record.py NAME...`.

Each run is a real `honeclip fit`, in a process of its own. README.md says what each is. Recorded are the events as they were
written, without captions, file names and what no rule asks for.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import tiny_runs  # noqa: E402

SHARED = HERE.parents[3].parent / "shared" / "data"

KEPT = {
    "step": (
        *("step", "loss", "lr", "logit_scale", "pairs", "micro_batch", "kept", "retries", "grad_norm", "skipped"),
        *("seconds", "busy"),
    ),
    "evaluation": ("step", "time", "score", "best", "size_px", "metrics", "health", "forgetting", "within"),
}
"""Fields of an event that are recorded; other events are recorded whole."""


@dataclass(frozen=True)
class Case:
    """One run.

    `data` is the name of a set under ../shared/data, or "drawn" for coloured shapes. `model` is a model source, or "tiny" for
    a CLIP of two layers a tower. `before` changes the data; `beside` runs beside the process.
    """

    data: str = "drawn"
    model: str = "tiny"
    rows: int = 300
    sets: tuple[str, ...] = ()
    before: str = ""
    beside: str = ""
    healthy: bool = False
    more: tuple[str, ...] = field(default=())


FAST = ("evaluate.every=10%", "checkpoint.every=0", "report.pictures=false")
TINY = ("train.batch=64", "train.precision=fp32", *FAST)
STARTER = ("report.pictures=false",)

CASES = {
    "collapse": Case(sets=(*TINY, "train.length=150", "train.lr=0.3", "train.grad_clip=0")),
    "diverging": Case(
        sets=(*TINY, "train.length=300", "train.lr=0.02", "train.grad_clip=0", "train.schedule=constant")
    ),
    "scale_pinned": Case(sets=(*TINY, "train.length=600", "train.lr=3e-3", "loss.logit_scale=90")),
    "overfitting": Case(rows=100, sets=(*TINY, "train.length=800", "train.lr=3e-3", "train.weight_decay=0")),
    "plateau": Case(data="neu_det", model="starter", sets=(*FAST, "train.length=600")),
    "forgetting": Case(sets=(*TINY, "train.length=100", "train.lr=3e-3")),
    "leaking": Case(before="leak", sets=(*TINY, "train.length=60", "train.lr=1e-3")),
    "data_bound": Case(
        data="openstax_microbiology", sets=(*TINY, "train.length=30", "train.lr=1e-4", "evaluate.every=0")
    ),
    "thrashing": Case(beside="squeeze", sets=(*TINY, "train.length=400", "train.lr=1e-4", "evaluate.every=0")),
    "healthy_astronomy": Case("openstax_astronomy", "starter", sets=STARTER, healthy=True),
    "healthy_microbiology": Case("openstax_microbiology", "starter", sets=STARTER, healthy=True),
    "healthy_pneumonia": Case("pneumoniamnist", "starter", sets=STARTER, healthy=True),
    "healthy_tile": Case("magnetic_tile", "starter", sets=STARTER, healthy=True),
    "healthy_molecules": Case("molecules", "starter", sets=STARTER, healthy=True),
}


def record(name: str, work: Path) -> None:
    """Runs a case in `work` and writes NAME.jsonl beside this file."""
    case = CASES[name]
    data = (
        SHARED / case.data if case.data != "drawn" else tiny_runs.draw(work / "data", case.rows, tiny_runs.ALL_SPLITS)
    )
    if case.before == "leak":
        leak(data / "pairs.csv")
    model = case.model
    if model == "tiny":
        model = str(tiny_runs.model_folder(work / "model", tiny_runs.text_files(work / "text"), unaligned=False))
    out = work / "run"
    sets = [part for one in case.sets for part in ("--set", one)]
    command = [sys.executable, "-m", "honeclip", "fit", "--data", str(data), "--model", model, "--out", str(out), *sets]
    started = time.monotonic()
    process = subprocess.Popen([*command, *case.more, "--device", "cpu"], env={**os.environ, "OMP_NUM_THREADS": "1"})
    if case.beside == "squeeze":
        threading.Thread(target=squeeze, args=(process,), daemon=True).start()
    code = process.wait()
    trimmed = [trim(json.loads(line)) for line in (out / "events.jsonl").read_text().splitlines()]
    (HERE / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in trimmed))
    print(f"{name}: exit {code}, {len(trimmed)} events, {time.monotonic() - started:.0f} s")


def trim(event: dict) -> dict:
    """An event without captions, file names and what no rule asks for."""
    fields = KEPT.get(event["event"])
    if fields is None:
        return event
    out = {"event": event["event"], **{key: event[key] for key in fields if key in event}}
    if "metrics" in out:
        out["metrics"] = {"pairs": out["metrics"]["pairs"]}
    if out.get("health"):
        out["health"] = {key: value for key, value in out["health"].items() if key != "hardest"}
    return out


def leak(manifest: Path) -> None:
    """The first ten pictures of train stand in val as well."""
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    copied = [{**row, "split": "val"} for row in rows if row["split"] == "train"][:10]
    with manifest.open("w", newline="") as file:
        out = csv.DictWriter(file, fieldnames=list(rows[0]))
        out.writeheader()
        out.writerows([*rows, *copied])


def squeeze(process: subprocess.Popen) -> None:
    """Other programs that come and go: again and again the process may not have more memory than it has (Linux)."""
    import resource

    import psutil

    watched = psutil.Process(process.pid)
    while process.poll() is None:
        time.sleep(1.5)
        try:
            limit = watched.memory_info().vms + 60_000_000
            resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            time.sleep(0.5)
            resource.prlimit(process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (psutil.Error, ProcessLookupError):
            return


if __name__ == "__main__":
    for each in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            record(each, Path(folder))
