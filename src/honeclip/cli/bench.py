"""`honeclip bench`: figures of this machine, each of a part that decides speed or memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from honeclip.cli.bench_device import device
from honeclip.cli.options import Device, Json

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

AnyModel = Annotated[str, typer.Option("--model", help="Any model source.", metavar="M")]
RealOrMade = Annotated[
    str | None, typer.Option("--data", help="Real pictures and captions; else made ones.", metavar="D")
]

PRECISIONS = ("fp32", "bf16", "fp16")
"""Of inference."""


@app.callback()
def bench() -> None:
    """Benchmark parts of honeclip on this machine.

    Example: honeclip bench loss --batch 32768 --dim 512
    """


@app.command()
def train(
    model: AnyModel = "random:ViT-B-32",
    batch: Annotated[int, typer.Option("--batch", help="Effective batch in pairs.", metavar="B")] = 32,
    micro_batch: Annotated[
        int | None, typer.Option("--micro-batch", help="Pairs through a tower at once.", metavar="m")
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", help="Micro-batches whose graphs stay from the first pass.", metavar="k")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Side of the images; the model's own.", metavar="PX")
    ] = None,
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32, bf16, fp16 or fp64.")] = "auto",
    steps: Annotated[int, typer.Option("--steps", help="Steps that are measured.", metavar="N")] = 3,
    data: Annotated[
        str | None, typer.Option("--data", help="Real pairs; else noise and the longest captions.", metavar="D")
    ] = None,
    slice_: Annotated[int | None, typer.Option("--slice", help="Queries of attention at once; 0: all.")] = None,
    recompute: Annotated[
        bool | None, typer.Option("--recompute/--no-recompute", help="Whether blocks compute their inside again.")
    ] = None,
    budget_gb: Annotated[float | None, typer.Option("--budget-gb", help="Memory of the process in GB.")] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Beside open_clip and sentence-transformers; in a checkout.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time and memory of whole training steps, and the memory that was predicted. What is not given is planned.

    With --peers and no --data all learn the molecules that quickstart draws.

    Example: honeclip bench train --model random:ViT-B-32 --batch 64 --micro-batch 8 --keep 4 --json
    """
    if peers:
        from honeclip.cli import bench_peers
        from honeclip.cli.output import show

        planned = {
            "--keep": keep,
            "--size": size,
            "--slice": slice_,
            "--recompute": recompute,
            "--budget-gb": budget_gb,
        }
        figures = bench_peers.train(model, batch, micro_batch or 8, precision, steps, data, planned, device)
        if as_json:
            _print(figures, as_json)
        else:
            show("\n".join(bench_peers.train_lines(figures)))
        return
    from honeclip.bench import train as work

    figures = work.run(
        model,
        batch,
        micro_batch,
        keep,
        size=size,
        precision=precision,
        steps=steps,
        data=data,
        attention_slice=slice_,
        recompute=recompute,
        budget_gb=budget_gb,
        device=device,
    )
    _print(figures, as_json)


@app.command()
def text(
    data: Annotated[str, typer.Option("--data", help="Real captions.", metavar="D")],
    model: AnyModel = "random:ViT-B-32",
    captions: Annotated[int, typer.Option("--captions", help="Captions of the train split.", metavar="N")] = 256,
    micro_batch: Annotated[
        int, typer.Option("--micro-batch", help="Captions through the tower at once.", metavar="m")
    ] = 8,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time of a text tower over real captions, trimmed and grouped by length, against all of them padded.

    Example: honeclip bench text --data ../shared/data/tuxpaint_stamps --json
    """
    from honeclip.bench import text as work

    _print(work.run(model, data, captions, micro_batch, device=device), as_json)


@app.command()
def preprocess(
    data: Annotated[
        str | None, typer.Option("--data", help="Pictures of a data set; else drawn ones.", metavar="D")
    ] = None,
    count: Annotated[int, typer.Option("--images", help="How many.", metavar="N")] = 64,
    size: Annotated[int, typer.Option("--size", help="Side of the square.", metavar="PX")] = 224,
    as_json: Json = False,
) -> None:
    """Time from image files to a model's pixels on one thread, against Pillow alone, and where it goes.

    Example: honeclip bench preprocess --json
    """
    from honeclip.bench import preprocess as work

    _print(work.run(data, count, size), as_json)


@app.command()
def loss(
    batch: Annotated[int, typer.Option("--batch", help="Pairs.", metavar="B")] = 4096,
    dim: Annotated[int, typer.Option("--dim", help="Dimensions of an embedding.", metavar="D")] = 512,
    tile: Annotated[
        int | None, typer.Option("--tile", help="Rows of logits at once; 0: the plain loss.", metavar="T")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time and memory of InfoNCE over a whole batch, forward and backward, in tiles or plainly (--tile 0).

    Example: honeclip bench loss --batch 32768 --dim 512 --json
    """
    from honeclip.bench import loss as work

    _print(work.run(batch, dim, tile, device=device), as_json)


@app.command()
def attention(
    model: AnyModel = "random:ViT-L-14-336",
    size: Annotated[
        int | None, typer.Option("--size", help="Side of the images; the model's own.", metavar="PX")
    ] = None,
    slice_: Annotated[
        int | None, typer.Option("--slice", help="Queries at once; 0: SDPA's math path.", metavar="S")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time of one transformer block and memory of its attention, in slices or by SDPA's math path (--slice 0).

    Example: honeclip bench attention --model random:ViT-L-14-336 --size 336 --json
    """
    from honeclip.bench import attention as work

    _print(work.run(model, size, slice_, device=device), as_json)


app.command()(device)


@app.command()
def inference(
    model: AnyModel = "random:ViT-B-32",
    data: RealOrMade = None,
    batches: Annotated[str, typer.Option("--batches", help="Batch sizes.", metavar="B,...")] = "1,2,4,8,16,32",
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16.")] = "fp32",
    rounds: Annotated[int, typer.Option("--rounds", help="Of which the median counts.", metavar="N")] = 5,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Images and texts per second of the model alone, by batch size, and the time to decode and to tokenise.

    Example: honeclip bench inference --model random:ViT-B-32 --json
    """
    from honeclip.bench import inference as work

    _check(precision)
    sizes = _numbers("--batches", batches)
    _print(work.run(model, data, sizes, precision=precision, device=device, rounds=rounds), as_json)


@app.command()
def serving(
    model: AnyModel = "random:ViT-B-32",
    data: RealOrMade = None,
    clients: Annotated[str, typer.Option("--clients", help="Clients at once.", metavar="N,...")] = "1,2,4,8,16,32",
    seconds: Annotated[float, typer.Option("--seconds", help="Of load for each number of clients.", metavar="S")] = 8.0,
    rounds: Annotated[int, typer.Option("--rounds", help="Of server and model alone in turn.", metavar="N")] = 3,
    soak: Annotated[
        float, typer.Option("--soak", help="Then both at 0.8 of capacity for so long; 600 shows a leak.", metavar="S")
    ] = 0.0,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16, of both.")] = "fp32",
    slo: Annotated[
        Path | None, typer.Option("--slo", help="Limits of figures; exit 1 where one is missed.", metavar="F.toml")
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Beside infinity, which uv installs; random ViT-B/32, CPU; in a checkout.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Start a server and put it under load: throughput, percentiles, saturation, cache, against the model alone.

    An --slo file has tables [at_least] and [at_most] with lines such as "images.ratio_to_bound" = 0.9.

    Example: honeclip bench serving --model random:ViT-B-32 --json
    """
    from honeclip.bench import serving as work
    from honeclip.bench import slo as limits
    from honeclip.cli.output import say

    _check(precision)
    if peers:
        from honeclip.cli import bench_peers

        _print(bench_peers.serving(model, data, precision, slo, soak, device, seconds), as_json)
        return
    wanted = limits.read(slo) if slo else {}
    figures = work.run(
        model,
        data,
        ramp=_numbers("--clients", clients),
        seconds=seconds,
        rounds=rounds,
        soak=soak,
        precision=precision,
        device=device,
        say=say,
    )
    if slo:
        figures["slo"] = limits.judged(figures, wanted, slo)
    _print({name: one for name, one in figures.items() if as_json or name != "slo"}, as_json)
    for check in figures.get("slo", {}).get("checks", ()):
        words = "passed" if check["passed"] else "MISSED"
        say(
            f"{words}: {check['figure']} is {check['value']:.4g}, {check['bound'].replace('_', ' ')} {check['limit']:g}"
        )
    if slo and not figures["slo"]["passed"]:
        raise typer.Exit(1)


def _check(precision: str) -> None:
    from honeclip.errors import BadInput

    if precision not in PRECISIONS:
        raise BadInput(f"--precision {precision}: it is {', '.join(PRECISIONS)}")


def _numbers(option: str, text: str) -> list[int]:
    """`1,2,4` as numbers."""
    from honeclip.errors import BadInput

    if not all(one.strip().isdecimal() for one in text.split(",")):
        raise BadInput(f"{option} {text}: numbers with commas between them, as in 1,8,32")
    return [int(one) for one in text.split(",")]


def _print(figures: Mapping[str, Any], as_json: bool) -> None:
    from honeclip.cli.output import emit, show

    if as_json:
        emit(figures)
        return
    for name, value in _flat(figures):
        words = (
            f"{value / 1e6:.1f} MB" if name.endswith("_bytes") else f"{value:.4g}" if _is_number(value) else str(value)
        )
        show(f"{name.removesuffix('_bytes'):<16}{words}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flat(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Figures in figures as one line each: `images 8`."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name} ")
        else:
            yield f"{before}{name}", value
