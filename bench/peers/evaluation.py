"""honeclip's evaluation beside clip_benchmark's: retrieval and zero-shot of one model on the same files, in fp32.

    python bench/peers/evaluation.py

prints one JSON object. Scores must be equal before any time is told. README.md says what is not fair, and to whom.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from environments import environment
from rounds import in_rounds

from honeclip import quickstart
from honeclip.data import pairs
from honeclip.data.pairs import Pairs
from honeclip.device.facts import machine, versions
from honeclip.domains import domain as domains
from honeclip.evaluation.evaluate import all_labels, score
from honeclip.model import folder as folders
from honeclip.model.clip import Clip
from honeclip.model.load import load

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv-clip_benchmark"
CLIP_BENCHMARK = "1.6.2"
PACKAGES = (f"clip_benchmark=={CLIP_BENCHMARK}", f"open_clip_torch=={versions()['open_clip_torch']}", "numpy<2.4")
"""Its accuracy makes a float of an array with one entry, which numpy 2.4 refuses."""

TASKS = ("retrieval", "both")
LARGEST = 1e-6
"""By which scores may differ: counts of queries over their number, in float32 on one side."""


def main() -> None:
    """Both in rounds, each round a process of each."""
    args = _arguments()
    if args.one:
        print(json.dumps(ours(json.loads(Path(args.one).read_text()))))
        return
    python = environment(args.environment, PACKAGES)
    with tempfile.TemporaryDirectory() as name:
        task = Path(name) / "task.json"
        task.write_text(json.dumps(prepared(Path(name), args)))
        commands = {
            "honeclip": [sys.executable, __file__, "--one", str(task)],
            "clip_benchmark": [str(python), str(HERE / "clip_benchmark_side.py"), str(task)],
        }
        rounds: dict[str, list[dict[str, Any]]] = {one: [] for one in commands}
        for found in in_rounds(commands, range(1, 1 + args.rounds)):
            equal(found["honeclip"]["scores"], found["clip_benchmark"]["scores"])
            for one, figures in found.items():
                rounds[one].append(figures)
    print(json.dumps(report(rounds, args), indent=1))


def prepared(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Draws the data, writes the model as open_clip has it, and says what is asked."""
    quickstart.draw(folder / "data")
    clip = load(args.model, "cpu")
    folders.save(clip, folder / "model", "# for a benchmark\n")
    everything = pairs.load(folder / "data")
    rows, domain, labels = everything.split("test"), domains.load("general"), all_labels(everything)
    return {
        "model": str(folder / "model"),
        "data": str(folder / "data"),
        "images": [str(one) for one in rows.images],
        "captions": list(rows.captions),
        "labels": [labels.index(own[0]) for own in rows.labels],
        "prompts": [domains.prompts(domain, label) for label in labels],
        "batch": args.batch,
        "workers": args.workers,
        "threads": args.threads or torch.get_num_threads(),
    }


def ours(task: dict[str, Any]) -> dict[str, Any]:
    """What clip_benchmark_side.py gives, by honeclip's own evaluation, without a cache of features."""
    torch.set_num_threads(task["threads"])
    clip, domain = load(task["model"], "cpu"), domains.load("general")
    everything = pairs.load(task["data"])
    rows, labels = everything.split("test"), all_labels(everything)
    side = clip.preprocess.size_px
    clip.encode_image(torch.zeros(1, 3, side, side))
    clip.encode_text(["a"])
    seconds, cpu_seconds = {}, {}
    metrics: dict[str, Any] = {}
    for name, asked in zip(TASKS, ((), labels), strict=True):
        wall, cpu = time.perf_counter(), time.process_time()
        metrics = _scored(clip, rows, domain, asked, task["batch"])
        seconds[name], cpu_seconds[name] = time.perf_counter() - wall, time.process_time() - cpu
    scores = {
        f"{way} R@{k}": metrics["retrieval"][way][f"R@{k}"]["value"]
        for way in ("image_to_text", "text_to_image")
        for k in (1, 5, 10)
    }
    scores |= {name: metrics["zeroshot"][name]["value"] for name in ("accuracy", "balanced_accuracy")}
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "scores": scores}


def _scored(clip: Clip, rows: Pairs, domain: Any, labels: Any, batch: int) -> dict[str, Any]:
    return dict(score(clip, rows, domain, labels=labels, data_name="data", split="test", batch_size=batch).metrics)


def equal(found: dict[str, float], others: dict[str, float]) -> None:
    """Ends the benchmark where two programs do not score alike: then a time says nothing."""
    different = {name: (one, others[name]) for name, one in found.items() if abs(one - others[name]) > LARGEST}
    if different:
        sys.exit(f"honeclip and clip_benchmark score differently, so their times are not compared: {different}")


def report(rounds: dict[str, list[dict[str, Any]]], args: argparse.Namespace) -> dict[str, Any]:
    """Ratios of both tasks: the medians' and each round's, by the clock and of CPU time."""
    found: dict[str, Any] = {}
    for name in TASKS:
        figures: dict[str, Any] = {}
        for kind in ("seconds", "cpu_seconds"):
            mine, theirs = ([one[kind][name] for one in rounds[side]] for side in ("honeclip", "clip_benchmark"))
            figures[kind] = {"honeclip": median(mine), "clip_benchmark": median(theirs)}
            figures["ratio" if kind == "seconds" else "cpu_ratio"] = median(theirs) / median(mine)
            figures["ratio_rounds" if kind == "seconds" else "cpu_ratio_rounds"] = [
                other / one for one, other in zip(mine, theirs, strict=True)
            ]
        found[name] = figures
    return {
        "data": "molecules that honeclip quickstart draws, the test split",
        "model": args.model,
        "precision": "fp32",
        "scores": rounds["honeclip"][0]["scores"],
        **found,
        "machine": machine(),
        "versions": {**versions(), "clip_benchmark": CLIP_BENCHMARK},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="random:ViT-B-32", help="any model source that open_clip has")
    parser.add_argument("--batch", type=int, default=64, help="images at once")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes of clip_benchmark's loader")
    parser.add_argument("--threads", type=int, help="of torch, of both")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, help="of clip_benchmark; made by uv")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
