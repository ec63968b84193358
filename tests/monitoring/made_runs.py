"""Run folders as a long training would leave them, without the training: for the dashboard's tests."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import tomli_w

BEGAN = 1_790_000_000.0
BUDGET = 6_000_000_000

STEP = (
    '{{"event": "step", "step": {step}, "time": {time:.3f}, "loss": {loss!r}, "lr": {lr!r}, "logit_scale": 14.3, '
    '"samples_per_second": {speed!r}, "micro_batch": {micro}, "kept": 4, "retries": 0, "memory_bytes": {memory}, '
    '"grad_norm": {norm!r}, "skipped": false, "parts": {{"infonce": {loss!r}}}, "seconds": {{"first": {pass_!r}, '
    '"loss": 0.012345678901234567, "second": {pass_!r}, "wait": 0.0012345678901234567, "optimizer": 0.0034567890123456}}, '
    '"busy": 0.98765432109876, "grad_norms": {{"image": {norm!r}, "text": 0.71234567890123, "scale": 0.00123456789012}}, '
    '"memory": {{"allocated": {memory}, "driver": 4123456789, "resident": 2123456789, "swap": 12345678}}, '
    '"flops_per_second": 1234567890123.4, "matmul_share": 0.41234567890123}}\n'
)
"""All the fields that a step may have, about as long as a line of a real run is at most."""


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - 0.06), "high": min(1.0, value + 0.06)}


def evaluation(step: int, share: float, files: list[tuple[str, str]]) -> dict[str, Any]:
    """An evaluation event at a share of the run; `files` are (file, caption) of the examples."""
    good = 0.9 * (1 - math.exp(-5 * share)) + 0.02
    ways = {f"R@{k}": figure(good * scale) for k, scale in ((1, 0.5), (5, 0.8), (10, 1.0))} | {
        "median_rank": figure(1.0)
    }
    edges = [round(-1 + 0.05 * place, 2) for place in range(41)]
    bell = lambda middle: [round(1000 * math.exp(-(((edge + 0.025 - middle) / 0.15) ** 2))) for edge in edges[:-1]]  # noqa: E731
    return {
        "event": "evaluation",
        "step": step,
        "time": BEGAN + 0.5 * step + 0.2,
        "split": "val",
        "score": good,
        "words": "mean of both R@10",
        "best": True,
        "size_px": 224,
        "seconds": 12.5,
        "metrics": {
            "retrieval": {"image_to_text": ways, "text_to_image": ways},
            "zeroshot": {"accuracy": figure(good * 0.7), "balanced_accuracy": figure(good * 0.6), "chance": 0.17},
        },
        "health": {
            "alignment": 1.2 - good,
            "uniformity_image": -1 - 2 * good,
            "uniformity_text": -1 - 1.8 * good,
            "modality_gap": 0.9 - 0.4 * good,
            "effective_rank_image": 20 + 80 * good,
            "effective_rank_text": 15 + 70 * good,
            "dead_image": 0.0,
            "dead_text": 0.0,
            "similarity": {"edges": edges, "positive": bell(0.1 + 0.6 * good), "negative": bell(0.05)},
            "hardest": [{"file": file, "caption": text, "similarity": -0.02, "rank": 90} for file, text in files[:3]],
        },
        "examples": [
            {
                "file": file,
                "caption": text,
                "rank": 1 + place,
                "top": [
                    {"caption": near, "similarity": 0.6 - 0.1 * nth}
                    for nth, (_, near) in enumerate(files[place:] + files)
                ][:3],
            }
            for place, (file, text) in enumerate(files[:4])
        ],
    }


def long_run(folder: Path, steps: int, data: Path, files: list[tuple[str, str]], seed: int = 0) -> Path:
    """Writes run.toml and events.jsonl of `steps` steps, with ten evaluations, a stage, changes of the micro-batch."""
    draw = random.Random(seed).random
    folder.mkdir(parents=True)
    config = {"data": {"path": str(data)}, "model": {"source": "starter"}, "domain": {"name": "scientific"}}
    (folder / "run.toml").write_text(tomli_w.dumps(config))
    with (folder / "events.jsonl").open("w") as out:

        def say(**event: Any) -> None:
            out.write(json.dumps(event) + "\n")

        say(
            event="begin",
            step=0,
            time=BEGAN,
            steps=steps,
            batch=256,
            device="mps",
            precision="fp32",
            budget_bytes=BUDGET,
        )
        for step in range(1, steps + 1):
            loss = 5 * math.exp(-6 * step / steps) + 0.4 + 0.2 * (draw() - 0.5)
            if step == steps // 3:
                loss = 9.75
            later = step > steps // 2
            line = STEP.format(
                step=step,
                time=BEGAN + 0.5 * step,
                loss=loss,
                lr=1e-3 * (1 - step / steps),
                speed=380 + 40 * draw(),
                micro=32 if later else 64,
                memory=3_400_000_000 if later else 2_600_000_000,
                norm=1 + loss * draw() / 5,
                pass_=0.2 + 0.05 * draw(),
            )
            out.write(line)
            if step % max(1, steps // 10) == 0:
                out.write(json.dumps(evaluation(step, step / steps, files)) + "\n")
                say(event="checkpoint", step=step, time=BEGAN + 0.5 * step + 0.3, seconds=0.25, bytes=25_000_000)
            if step == steps // 2:
                say(
                    event="stage",
                    step=step,
                    time=BEGAN,
                    size_px=224,
                    before_px=160,
                    reason="half of the steps are done",
                )
                say(
                    event="memory",
                    step=step,
                    time=BEGAN,
                    micro_batch=32,
                    kept=2,
                    reason="out of memory: half as many at once",
                )
    return folder
