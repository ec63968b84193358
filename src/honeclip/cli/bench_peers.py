"""`--peers` of `honeclip bench`: honeclip beside the projects that it competes with, by scripts that only a checkout has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def train(
    model: str,
    batch: int,
    micro_batch: int,
    precision: str,
    steps: int,
    data: str | None,
    planned: Mapping[str, object],
    device: str,
) -> dict[str, Any]:
    """Runs bench/peers/run.py of the checkout that this file lies in; the peers are no part of the package.

    Without data the script draws the molecules of `quickstart`, and says so.

    Args:
        model: as in `bench train`, and so are the next five.
        batch: see there.
        micro_batch: see there.
        precision: see there; "auto" is fp32 here.
        steps: see there.
        data: see there.
        planned: options that are honeclip's alone, by name; none may be given.
        device: see there.

    Raises:
        BadInput: an option that the peers have nothing for, or no checkout.
        HoneclipError: the script failed.
    """
    from honeclip.device import detect
    from honeclip.errors import BadInput

    script = _in_checkout("bench/peers/run.py")
    if precision not in ("auto", "fp32"):
        raise BadInput(f"--precision {precision}: the peers are compared in fp32")
    for name, value in planned.items():
        if value is not None:
            raise BadInput(f"{name} with --peers: what honeclip keeps follows from its peers' memory; leave {name} out")
    numbers = {"--batch": batch, "--micro-batch": micro_batch, "--steps": steps}
    if too_small := [name for name, value in numbers.items() if value < 1]:
        raise BadInput(f"{too_small[0]} {numbers[too_small[0]]}: it is at least 1")
    given = {"--model": model, "--device": detect.choose(device).type, **numbers}
    if data is not None:
        given["--data"] = data
    return _figures_of(script, [str(word) for pair in given.items() for word in pair])


def train_lines(figures: Mapping[str, Any]) -> list[str]:
    """What `train` found, for people."""
    return [
        f"data: {figures['data']}",
        *(
            f"{name:<16}{one['samples_per_second']:8.2f} pairs/s {one['peak_memory_bytes'] / 1e9:8.2f} GB"
            for name, one in figures["contestants"].items()
        ),
        *(
            f"{name:<36}{one['median']:6.2f} (goal {one['goal']}), CPU {one['cpu']:.2f}, memory {one['peak_share']:.2f}"
            for name, one in figures["ratios"].items()
        ),
    ]


def serving(
    model: str, data: str | None, precision: str, slo: Path | None, soak: float, device: str, seconds: float
) -> dict[str, Any]:
    """Runs bench/serving/peers.py of the checkout that this file lies in.

    Raises:
        BadInput: an option that both servers cannot have, or no checkout.
        HoneclipError: the script failed.
    """
    from honeclip.errors import BadInput

    given = {"--data": data, "--slo": slo, "--soak": soak or None}
    if other := [name for name, value in given.items() if value is not None]:
        raise BadInput(
            f"{other[0]} with --peers: two servers are compared, on made pictures and captions; leave it out"
        )
    if model != "random:ViT-B-32" or precision != "fp32" or device not in ("auto", "cpu"):
        raise BadInput("--peers: what is compared is random:ViT-B-32 in fp32 on the CPU; leave the other options out")
    if not seconds > 0:
        raise BadInput(f"--seconds {seconds:g}: it is more than 0")
    return _figures_of(_in_checkout("bench/serving/peers.py"), ["--seconds", str(seconds)])


def _in_checkout(name: str) -> Path:
    """A script that is no part of the package."""
    from honeclip.errors import BadInput

    script = Path(__file__).resolve().parents[3] / name
    if not script.is_file():
        raise BadInput(
            "--peers: the peers' benchmarks are not in the installed package; they are in honeclip's repository, as "
            f"{name}. Clone it, `uv sync`, and run the same command there"
        )
    return script


def _figures_of(script: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON that a script prints."""
    import json
    import subprocess
    import sys

    from honeclip.errors import HoneclipError

    done = subprocess.run([sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise HoneclipError(f"{script.name} ended with exit code {done.returncode}; what it said stands above")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures
