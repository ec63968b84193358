"""Makes a run sick, or lets it be healthy, and keeps what its rules look at: `python tests/monitoring/sick/record.py NAME...`.

Each is a real run of `honeclip.training`. README.md says what each is. Recorded are the events as they were
written, without captions, file names and what no rule asks for.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from honeclip.device import detect
from honeclip.device.fake import FakeMps
from honeclip.training import run as runs

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import tiny_runs  # noqa: E402

SHARED = HERE.parents[3] / "shared" / "data"

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
    a CLIP of two layers a tower. `before` changes the data; `beside` runs beside it. Of
    the steps every so many are kept.
    """

    data: str = "drawn"
    model: str = "tiny"
    rows: int = 300
    sets: tuple[str, ...] = ()
    before: str = ""
    beside: str = ""
    every: int = 1


PLENTY = 10**12

QUIET = ("evaluate.every=0", "checkpoint.every=0", "report.pictures=false")
LOOKS = ("evaluate.every=10%", "checkpoint.every=0", "report.pictures=false")
TINY = ("train.batch=64", "train.precision=fp32", *LOOKS)
HEADS = ("train.batch=64", *LOOKS)
"""Of `starter`, whose frozen towers' features are computed once: a step takes milliseconds."""

MICROBIOLOGY = "openstax_microbiology"

CASES = {
    "collapse": Case(sets=(*TINY, "train.length=150", "train.lr=0.3", "train.grad_clip=0")),
    "diverging": Case(
        data="openstax_astronomy",
        model="starter",
        sets=(*HEADS, "train.length=150", "train.lr=1.0", "train.warmup=90%", "train.grad_clip=0"),
    ),
    "scale_pinned": Case(
        data="openstax_astronomy",
        model="starter",
        sets=(*HEADS, "train.length=90", "evaluate.every=0", "loss.temperature=auto", "loss.effective_negatives=0"),
    ),
    "overfitting": Case(MICROBIOLOGY, "starter", sets=("train.length=0.75 min", "resolution.stages=auto"), every=5),
    "plateau": Case(MICROBIOLOGY, "starter", sets=("train.length=2 min", "resolution.stages=auto"), every=25),
    "forgetting": Case(MICROBIOLOGY, "starter", before="molecules", sets=("report.pictures=false",)),
    "leaking": Case(before="leak", sets=(*TINY, "train.length=20", "train.lr=1e-3")),
    "leaking_near": Case(
        "openstax_astronomy", "starter", before="near", sets=(*HEADS, "train.length=20", "train.lr=1e-3")
    ),
    "data_bound": Case(
        data="openstax_microbiology", sets=(*TINY, "train.length=25", "train.lr=1e-4", "evaluate.every=0")
    ),
    "thrashing": Case(
        rows=40,
        beside="squeeze",
        sets=("train.batch=8", "memory.micro_batch=2", "train.length=130", "train.precision=fp32", *QUIET),
    ),
    **{
        f"healthy_{name}": Case(data, "starter", sets=("report.pictures=false",))
        for name, data in {
            "astronomy": "openstax_astronomy",
            "microbiology": MICROBIOLOGY,
            "tile": "magnetic_tile",
            "stamps": "tuxpaint_stamps",
            "pneumonia": "pneumoniamnist",
        }.items()
    },
}


def record(name: str, work: Path) -> None:
    """Runs a case in `work` and writes NAME.jsonl beside this file."""
    case = CASES[name]
    data = (
        SHARED / case.data if case.data != "drawn" else tiny_runs.draw(work / "data", case.rows, tiny_runs.ALL_SPLITS)
    )
    if case.before == "leak":
        leak(data / "pairs.csv")
    if case.before == "near":
        data = near(data, work / "data")
    model, sets = case.model, case.sets
    if model == "tiny":
        model = str(tiny_runs.model_folder(work / "model", tiny_runs.text_files(work / "text"), unaligned=False))
    if case.before == "molecules":
        other = SHARED / "molecules"
        fit(other, model, work / "knows", ("report.pictures=false",))
        model, sets = str(work / "knows"), (*sets, f"evaluate.forgetting_data={other}")
    out, started = work / "run", time.monotonic()
    with squeezed() if case.beside == "squeeze" else nullcontext():
        fit(data, model, out, sets)
    trimmed = [trim(json.loads(line)) for line in (out / "events.jsonl").read_text().splitlines()]
    trimmed = [one for one in trimmed if one["event"] != "step" or one["step"] % case.every == 0]
    (HERE / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in trimmed))
    print(f"{name}: {len(trimmed)} events, {time.monotonic() - started:.0f} s", flush=True)


def fit(data: Path, model: str, out: Path, sets: tuple[str, ...]) -> None:
    """As `honeclip fit --data DATA --model MODEL --out OUT --device cpu --set ...`, up to the last step: what comes after it
    tells no event."""
    finish = runs.finish
    runs.finish = lambda *given: finish(*given) if out.name == "knows" else (None, None)
    try:
        runs.fit(data, out, model, sets=sets, device="cpu")
    finally:
        runs.finish = finish


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


def near(data: Path, folder: Path) -> Path:
    """The data, and forty pictures of train once more in val, saved anew as JPEG of quality 70."""
    folder.mkdir()
    with (data / "pairs.csv").open(newline="") as file:
        rows = [{**row, "image": str(data / row["image"])} for row in csv.DictReader(file)]
    copies = []
    for number, row in enumerate([row for row in rows if row["split"] == "train"][:40]):
        copy = folder / f"{number}.jpg"
        Image.open(row["image"]).convert("RGB").save(copy, quality=70)
        copies.append({**row, "image": str(copy), "split": "val"})
    with (folder / "pairs.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, fieldnames=list(rows[0]))
        out.writeheader()
        out.writerows([*rows, *copies])
    return folder


@contextmanager
def squeezed() -> Iterator[None]:
    """A device whose free memory goes as other programs come and go: for a step in thirty next to nothing is free."""
    fake = FakeMps(available_bytes=[PLENTY, *([PLENTY] * 60 + [1, 1]) * 5, PLENTY])
    choose = detect.choose
    detect.choose = lambda wanted="auto": fake
    try:
        yield
    finally:
        detect.choose = choose


if __name__ == "__main__":
    for each in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            record(each, Path(folder))
