"""Throughput of `honeclip serve` beside infinity, at equal model, files, texts, clients and machine.

    python bench/serving/peers.py --only images

prints one JSON object. Both servers run from the start; the one that is not measured is held still. Rounds alternate, every
second one the other way round. README.md says what is not fair, and to whom.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import open_clip
import processes
from processes import Process

from honeclip.bench import clients, material
from honeclip.device.facts import machine, versions

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv"
PACKAGES = ("infinity_emb[server,torch]==0.0.78", "pillow", "aiohttp", "diskcache", "transformers>=4.47,<5")
MERGES = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
GOALS = {"images": 1.25, "texts": 1.8}
FILES = 32


def main() -> None:
    """Measures both in rounds and prints the figures."""
    args = _arguments()
    python = environment(args.environment)
    folder = args.environment / "vit-b-32"
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    if not (folder / "preprocessor_config.json").is_file():
        subprocess.run(
            [python, HERE / "infinity_model.py", folder, MERGES],
            check=True,
            env={**os.environ, **quiet},
            stdout=sys.stderr,
        )
    ours, theirs = processes.free_port(), processes.free_port()
    command = [str(python.parent / "infinity_emb"), "v2", "--model-id", str(folder), "--port", str(theirs)]
    command += ["--host", "127.0.0.1", "--engine", "torch", "--device", "cpu", "--batch-size", "32"]
    command += ["--no-bettertransformer", "--no-trust-remote-code", "--served-model-name", "m"]
    with (
        processes.started(processes.honeclip("random:ViT-B-32", ours), ours, "/readyz") as honeclip,
        honeclip.held_still(),
        processes.started(command, theirs, "/health", quiet) as infinity,
        infinity.held_still(),
    ):
        figures: dict[str, Any] = {
            "start_seconds": {"honeclip": honeclip.seconds, "infinity": infinity.seconds},
            "clients": args.clients,
            "rounds": args.rounds,
            "load_average_before": os.getloadavg(),
        }
        for name in args.only:
            figures[name] = measured(name, {"honeclip": honeclip, "infinity": infinity}, args)
        figures["load_average_after"] = os.getloadavg()
    print(json.dumps({**figures, "machine": machine(), "versions": {**versions(), "infinity_emb": "0.0.78"}}, indent=1))


def measured(name: str, servers: dict[str, Process], args: argparse.Namespace) -> dict[str, Any]:
    """Items per second and p50 of both in each round; the ratio of the medians, and of each round."""
    files, texts = material.jpegs(None, FILES), material.captions(None, FILES)
    bodies = {
        "honeclip": clients.image_bodies(files) if name == "images" else clients.text_bodies(texts),
        "infinity": infinity_images(files) if name == "images" else clients.text_bodies(texts),
    }
    paths = {"honeclip": clients.PATH, "infinity": "/embeddings"}
    seen: dict[str, list[dict[str, float]]] = {one: [] for one in servers}
    for number in range(1 + args.rounds):  # the first one does not count: both grow their buffers in it
        for one in list(servers) if number % 2 else list(servers)[::-1]:
            process = servers[one].process
            process.send_signal(processes.signal.SIGCONT)
            found = clients.load(
                servers[one].url, bodies[one], args.clients, args.seconds, path=paths[one], cycles=args.cycles
            ).to_json()
            process.send_signal(processes.signal.SIGSTOP)
            print(f"{name} {one} {found['per_second']:.1f}/s p50 {found['p50_ms']:.0f} ms", file=sys.stderr, flush=True)
            if number:
                seen[one].append(found)
    rates = {one: [round_["per_second"] for round_ in some] for one, some in seen.items()}
    return {
        "goal": GOALS[name],
        "ratio": median(rates["honeclip"]) / median(rates["infinity"]),
        "ratio_rounds": [a / b for a, b in zip(rates["honeclip"], rates["infinity"], strict=True)],
        "per_second": {one: median(some) for one, some in rates.items()},
        "p50_ms": {one: median(round_["p50_ms"] for round_ in some) for one, some in seen.items()},
        "p99_ms": {one: median(round_["p99_ms"] for round_ in some) for one, some in seen.items()},
        "errors": {one: sum(round_["errors"] for round_ in some) for one, some in seen.items()},
    }


def infinity_images(files: Sequence[bytes]) -> Iterator[bytes]:
    """The same files in infinity's shape; all different as well, though its cache is off."""
    for number in itertools.count():
        file = files[number % len(files)]
        coded = base64.b64encode(file).decode()
        yield (
            b'{"model": "m", "encoding_format": "base64", "modality": "image", "input": ["data:image/jpeg;base64,'
            + coded.encode()
            + b'"]}'
        )


def environment(folder: Path) -> Path:
    """The Python of infinity's environment, which is made where it is not there: with the torch that honeclip has."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "infinity_emb").is_file():
        torch = versions()["torch"].partition("+")[0]
        subprocess.run(["uv", "venv", "--python", sys.executable, folder], check=True, stdout=sys.stderr)
        # from outside of the project, whose constraints would hold for infinity too
        command = ["uv", "pip", "install", "--python", python.absolute(), *PACKAGES, f"torch=={torch}"]
        subprocess.run(command, check=True, stdout=sys.stderr, cwd=tempfile.gettempdir())
    return python


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, help="of infinity; made where it is not there")
    parser.add_argument("--only", default="images,texts", help="images, texts, or both with a comma")
    parser.add_argument("--clients", type=int, default=32, help="at once")
    parser.add_argument("--seconds", type=float, default=8.0, help="of load on each server in each round")
    parser.add_argument("--cycles", type=int, default=clients.CYCLES, help="answers of each client at least")
    parser.add_argument("--rounds", type=int, default=5, help="that count")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if unknown := [name for name in args.only if name not in GOALS]:
        parser.error(f"--only {unknown[0]}: give some of {', '.join(GOALS)}")
    return args


if __name__ == "__main__":
    main()
