"""Samples per second and peak memory of honeclip and its peers, at equal batch, precision, model and rows.

    python bench/peers/run.py --data ../shared/data/tuxpaint_stamps

prints one JSON object. Without --data all learn the molecules that `honeclip quickstart` draws. README.md says what is
compared, and what is not fair and to whom. Every measurement is a process of its own; rounds are interleaved, so that work of
others on the machine meets all contestants alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import contestants
import torch

from honeclip import quickstart
from honeclip.config import Memory
from honeclip.device import detect
from honeclip.device.facts import machine, versions
from honeclip.device.memory import PeakMeter, baseline_bytes
from honeclip.errors import BadInput
from honeclip.training import trial

FITTED = {"honeclip_small": ("open_clip", "cached"), "honeclip_large": ("plain",)}
"""honeclip within the memory of peers: the least of their peaks in the first round is its budget."""

KEPT = {"honeclip_none": 0, "honeclip_all": sys.maxsize}

NAMES = (*contestants.PEERS, *FITTED, *KEPT)

RATIOS = {
    "over_open_clip": ("open_clip", "honeclip_small", 1.5),
    "over_cached": ("cached", "honeclip_small", 1.15),
    "over_cached_padded": ("cached_padded", "honeclip_small", 1.15),
    "over_cached_in_plain_memory": ("cached", "honeclip_large", 1.4),
    "over_cached_padded_in_plain_memory": ("cached_padded", "honeclip_large", 1.4),
}
"""A peer, what it is compared with, and the ratio that honeclip wants to reach."""


def main() -> None:
    """Measures all contestants in rounds and prints the figures; with --one, measures one and prints that."""
    args = _arguments()
    if args.one:
        print(json.dumps(measure(args, json.loads(args.one))))
        return
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in args.only}
    with tempfile.TemporaryDirectory() as folder:
        data, said = (args.data, args.data) if args.data else drawn(Path(folder))
        print(f"data: {said}", file=sys.stderr, flush=True)
        for number in range(args.rounds):
            # every second round runs the other way, so that none has always the same neighbour
            names = list(args.only)
            for name in names if number % 2 == 0 else names[::-1]:
                found = _in_a_process(_task(name, results), data)
                results[name].append(found)
                print(f"round {number + 1}, {name}: {found}", file=sys.stderr, flush=True)
    print(json.dumps(_report(args, results, said)))


def drawn(folder: Path) -> tuple[str, str]:
    """The sample data of `quickstart`: where it was written, and what it is in words."""
    counts = quickstart.draw(folder)
    return str(folder), f"molecules that honeclip quickstart draws, {counts['train']} to learn from"


def measure(args: argparse.Namespace, task: dict[str, Any]) -> dict[str, Any]:
    """One contestant, in this process: a step that is not counted, then `--steps` steps.

    Args:
        args: of the command line.
        task: "name" of a contestant; for honeclip "keep" or "budget_bytes".

    Returns:
        "seconds" and "cpu_seconds" of each step, "peak_bytes" above what the imports took, the weights included.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    contestants.bring_in(task["name"])
    where = detect.choose(args.device)
    before = baseline_bytes(where)
    made = trial.make(args.model, where, precision="fp32", data=args.data, imports_bytes=before)
    work = contestants.Work(made, args.batch, args.micro_batch)
    told: dict[str, Any] = {}
    with where.lock:
        if task["name"] == "honeclip":
            wanted = {"keep": min(task["keep"], args.batch)} if "keep" in task else {}
            memory = Memory(micro_batch=args.micro_batch, **wanted)
            plan = trial.planned(made, args.batch, memory, task.get("budget_bytes", sys.maxsize))
            told = {"keep": plan.keep, "predicted_peak_bytes": plan.predicted_peak_bytes}
            step = contestants.honeclip(work, plan)
        else:
            step = contestants.PEERS[task["name"]](work)
        torch.manual_seed(0)
        seconds, cpu_seconds = [], []
        with PeakMeter(where, before) as meter:
            for _ in range(1 + args.steps):
                wall, cpu = time.perf_counter(), time.process_time()
                step()
                where.synchronise()
                seconds.append(time.perf_counter() - wall)
                cpu_seconds.append(time.process_time() - cpu)
    return {"seconds": seconds[1:], "cpu_seconds": cpu_seconds[1:], "peak_bytes": meter.peak_bytes, **told}


def _task(name: str, results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    if name in KEPT:
        return {"name": "honeclip", "keep": KEPT[name]}
    if name in FITTED:
        return {"name": "honeclip", "budget_bytes": min(results[peer][0]["peak_bytes"] for peer in FITTED[name])}
    return {"name": name}


def _in_a_process(task: dict[str, Any], data: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--data", data, "--one", json.dumps(task)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _report(args: argparse.Namespace, results: dict[str, list[dict[str, Any]]], data: str) -> dict[str, Any]:
    figures = {}
    for name, rounds in results.items():
        seconds = [one for found in rounds for one in found["seconds"]]
        middle = statistics.median(seconds)
        figures[name] = {
            "seconds_per_step": middle,
            "fastest_seconds": min(seconds),
            "cpu_seconds": statistics.median(one for found in rounds for one in found["cpu_seconds"]),
            "fastest_cpu_seconds": min(one for found in rounds for one in found["cpu_seconds"]),
            "samples_per_second": args.batch / middle,
            "peak_memory_bytes": max(found["peak_bytes"] for found in rounds),
            **{key: rounds[-1][key] for key in ("keep", "predicted_peak_bytes") if key in rounds[-1]},
            "rounds": rounds,
        }
    return {
        "data": data,
        "batch": args.batch,
        "micro_batch": args.micro_batch,
        "model": args.model,
        "precision": "fp32",
        "threads": args.threads or torch.get_num_threads(),
        "contestants": figures,
        "ratios": {name: _ratio(figures, *one) for name, one in RATIOS.items() if {*one[:2]} <= figures.keys()},
        "machine": machine(),
        "versions": {**versions(), "sentence_transformers": version("sentence-transformers")},
    }


def _ratio(figures: dict[str, Any], peer: str, ours: str, goal: float) -> dict[str, Any]:
    """How much faster: by the median, the fastest step, CPU time, and in each round (the spread)."""
    slow, fast = figures[peer], figures[ours]
    rounds = [
        statistics.median(one["seconds"]) / statistics.median(other["seconds"])
        for one, other in zip(slow["rounds"], fast["rounds"], strict=True)
    ]
    held = figures["plain"] if ours == "honeclip_large" else slow
    return {
        "goal": goal,
        "median": slow["seconds_per_step"] / fast["seconds_per_step"],
        "fastest": slow["fastest_seconds"] / fast["fastest_seconds"],
        "cpu": slow["cpu_seconds"] / fast["cpu_seconds"],
        "fastest_cpu": slow["fastest_cpu_seconds"] / fast["fastest_cpu_seconds"],
        "rounds": rounds,
        "peak_share": fast["peak_memory_bytes"] / held["peak_memory_bytes"],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", help="a manifest with at least --batch rows to train on; else quickstart's molecules")
    parser.add_argument("--model", default="random:ViT-B-32", help="any model source with a native CLIP")
    parser.add_argument("--batch", type=int, default=64, help="effective batch in pairs")
    parser.add_argument("--micro-batch", type=int, default=8, help="pairs through a tower at once")
    parser.add_argument("--steps", type=int, default=1, help="steps of a process that count, after one that does not")
    parser.add_argument("--rounds", type=int, default=5, help="processes a contestant")
    parser.add_argument("--threads", type=int, help="threads of torch; 1 on a machine that others use (README.md)")
    parser.add_argument("--device", default="cpu", help="cpu, mps or cuda")
    parser.add_argument("--only", default=",".join(NAMES), help="contestants, in a comma-separated list")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.only = args.only.split(",")
    if unknown := [name for name in args.only if name not in NAMES]:
        parser.error(f"--only {unknown[0]}: give some of {', '.join(NAMES)}")
    for name in set(args.only) & set(FITTED):
        if missing := [peer for peer in FITTED[name] if peer not in args.only]:
            parser.error(f"--only {name} without {missing[0]}: the peer's peak is its budget")
    # the budget of what is fitted comes from a peer's first round
    args.only.sort(key=NAMES.index)
    return args


if __name__ == "__main__":
    try:
        main()
    except BadInput as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.stderr[-4000:]}\na contestant failed")
