"""`honeclip serve` under abuse: bad requests among good ones at twice its capacity, and what dies beside it and of it.

    python bench/serving/abuse.py --seconds 120

prints one JSON object, and exits 1 where something was answered wrongly, lost in silence, or not in time. Every good answer
is compared with an embedding that was computed offline. README.md says what each part does.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import itertools
import json
import os
import random
import shutil
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import processes
import psutil
from PIL import Image

from honeclip.bench import clients, material
from honeclip.model.load import load
from honeclip.serving.settings import EXIT_STUCK

TOLERANCE = 1e-5
BAD_SHARE = 0.2
FILES = 16
BAD_STATUS = {"truncated": (400,), "bomb": (413,), "types": (422,), "large": (413,), "nonsense": (400,), "slow": (408,)}
"""Of each kind of bad request; besides those a good one may have."""

GROWTH = 0.05
SETTLED_S = 15.0
"""Without work memory is given back after 10 s."""

TRUSTED = ssl.create_default_context()

HANGS_S = 60.0
"""An answer takes at most the deadline of 30 s, or twice the 20 s in which a body must arrive."""


@dataclass
class Seen:
    """What clients got."""

    good: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """Good requests, none twice: the n-th has the picture n % N, whose embedding is the row of that number."""

    bodies: Iterator[bytes]
    rows_ND: np.ndarray[Any, Any]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def next(self) -> tuple[int, bytes]:
        """A row of `rows_ND`, and the request for it."""
        return next(self.numbers) % len(self.rows_ND), next(self.bodies)


def main() -> None:
    """All parts, or those of --only."""
    args = _arguments()
    asked = asked_of(args.model)
    figures: dict[str, Any] = {"load_average_before": os.getloadavg(), "model": args.model}
    for name in args.only:
        figures[name] = PARTS[name](args, asked)
        print(name, json.dumps(figures[name]), file=sys.stderr, flush=True)
    figures["load_average_after"] = os.getloadavg()
    print(json.dumps(figures, indent=1))
    if any(one["failed"] for name, one in figures.items() if name in PARTS):
        sys.exit(1)


def asked_of(model: str) -> Asked:
    """Pictures with their offline embeddings."""
    clip = load(model, device="cpu")
    files = material.jpegs(None, FILES)
    return Asked(clients.image_bodies(files), np.asarray(clip.encode_image(files)))


def storm(args: argparse.Namespace, asked: Asked) -> dict[str, Any]:
    """20 % bad requests among good ones, coming at twice the rate that the server can answer."""
    port = processes.free_port()
    with processes.started(processes.honeclip(args.model, port), port, "/readyz") as server:
        process = psutil.Process(server.process.pid)
        capacity = clients.load(server.url, (asked.next()[1] for _ in itertools.count()), 16, 5.0).per_second
        asyncio.run(_storm(server.url, asked, 2 * capacity, 15.0, Seen()))  # what grows once has grown
        time.sleep(SETTLED_S)
        before, seen = process.memory_info().rss, Seen()
        asyncio.run(_storm(server.url, asked, 2 * capacity, args.seconds, seen))
        time.sleep(SETTLED_S)
        after = process.memory_info().rss
        ready = httpx.get(f"{server.url}/readyz", trust_env=False, timeout=30).status_code
    growth = after / before - 1
    return {
        "capacity_per_second": capacity,
        "seconds": args.seconds,
        "good": dict(seen.good),
        "bad": dict(seen.bad),
        "wrong": seen.wrong[:20],
        "p50_ms": float(np.percentile(seen.latency_s, 50) * 1e3),
        "p99_ms": float(np.percentile(seen.latency_s, 99) * 1e3),
        "slowest_ms": max(seen.latency_s) * 1e3,
        "memory_bytes": [before, after],
        "memory_growth": growth,
        "ready_afterwards": ready == 200,
        "failed": bool(seen.wrong) or growth > GROWTH or ready != 200,
    }


def redis(args: argparse.Namespace, asked: Asked) -> dict[str, Any]:
    """kill -9 of Redis in the middle of a load, and its return."""
    port, at = processes.free_port(), processes.free_port()
    command = ["redis-server", "--port", str(at), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    if shutil.which(command[0]) is None:
        return {"skipped": "redis-server is not installed", "failed": False}
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    others = [first]
    try:
        ours = processes.honeclip(args.model, port, "--cache-url", f"redis://127.0.0.1:{at}/0")
        with processes.started(ours, port, "/readyz") as server:
            phases: dict[str, Any] = {}
            failed = False
            for name, act in (
                ("up", lambda: None),
                ("killed", lambda: first.kill()),
                ("back", lambda: others.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))),
            ):
                seen = Seen()
                asyncio.run(_steady(server.url, asked, 8, args.part_seconds, seen, after=(args.part_seconds / 3, act)))
                state = httpx.get(f"{server.url}/health", trust_env=False, timeout=30).json()["cache"]["remote"]
                phases[name] = {**_short(seen), "remote": state}
                failed = failed or bool(seen.wrong) or set(seen.good) != {"200"}
    finally:
        for one in others:
            one.kill()
            one.wait()
    return {**phases, "failed": failed or [one["remote"] for one in phases.values()] != ["up", "down", "up"]}


def kill(args: argparse.Namespace, asked: Asked) -> dict[str, Any]:
    """kill -9 of the server in the middle of a load: its clients must see that at once; then a new one."""
    port, seen = processes.free_port(), Seen()
    with processes.started(processes.honeclip(args.model, port), port, "/readyz") as server:
        died: list[float] = []

        def act() -> None:
            server.process.kill()
            died.append(time.monotonic())

        asyncio.run(_steady(server.url, asked, 8, args.part_seconds, seen, after=(args.part_seconds / 2, act)))
        noticed = time.monotonic() - died[0]
    began = time.perf_counter()
    with processes.started(processes.honeclip(args.model, port), port, "/readyz"):
        back = time.perf_counter() - began
    cut = sum(count for name, count in seen.good.items() if name in ("ReadError", "RemoteProtocolError"))
    return {
        **_short(seen),
        "in_flight_cut_off": cut,
        "all_clients_knew_after_s": noticed,
        "ready_again_s": back,
        "failed": bool(seen.wrong) or not 0 < cut <= 8,
    }


def stuck(args: argparse.Namespace, asked: Asked) -> dict[str, Any]:
    """A batch that never returns: 503 with Retry-After for whoever waits, and the end with 75."""
    port, seen = processes.free_port(), Seen()
    command = [sys.executable, str(Path(__file__).with_name("stuck_server.py")), args.model, str(port)]
    with processes.started(command, port, "/readyz") as server:
        began = time.monotonic()
        asyncio.run(_steady(server.url, asked, 8, 120.0, seen))
        code = server.process.wait(60)
        ended = time.monotonic() - began
    return {
        **_short(seen),
        "exit_code": code,
        "ended_after_s": ended,
        "failed": bool(seen.wrong) or code != EXIT_STUCK or not seen.good["503"],
    }


async def _storm(url: str, asked: Asked, rate: float, seconds: float, seen: Seen) -> None:
    """Requests at a fixed rate, whatever the answers; each fifth one is bad."""
    chance, bad = random.Random(0), bad_bodies()
    free: list[httpx.AsyncClient] = []
    began, tasks = time.monotonic(), []

    async def one(number: int) -> None:
        kind = chance.choice(list(BAD_STATUS)) if chance.random() < BAD_SHARE else None
        if kind == "slow":
            await _slow(url, seen)
            return
        client = free.pop() if free else _client(url)
        await _ask(client, kind, bad[kind] if kind else None, asked, seen)
        free.append(client)

    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        tasks.append(asyncio.ensure_future(one(number)))
    await asyncio.gather(*tasks)
    for client in free:
        await client.aclose()


async def _steady(
    url: str,
    asked: Asked,
    count: int,
    seconds: float,
    seen: Seen,
    after: tuple[float, Callable[[], object]] | None = None,
) -> None:
    """Good requests of so many clients, each after its last answer; a client whose connection breaks stops."""
    until = time.monotonic() + seconds

    async def one() -> None:
        async with _client(url) as client:
            while time.monotonic() < until and await _ask(client, None, None, asked, seen):
                pass

    async def act() -> None:
        if after:
            await asyncio.sleep(after[0])
            after[1]()

    await asyncio.gather(act(), *(one() for _ in range(count)))


async def _ask(client: httpx.AsyncClient, kind: str | None, body: bytes | None, asked: Asked, seen: Seen) -> bool:
    """Asks and judges; False where the connection broke."""
    counts, place = (seen.bad if kind else seen.good), -1
    if body is None:
        place, body = asked.next()
    began = time.monotonic()
    try:
        answer = await client.post(clients.PATH, content=body, headers=clients.HEADERS)
    except httpx.TransportError as error:
        counts[type(error).__name__] += 1
        if isinstance(error, httpx.TimeoutException):
            seen.wrong.append(f"{kind or 'good'}: no answer within {HANGS_S:g} s")
        return False
    seen.latency_s.append(time.monotonic() - began)
    status = answer.status_code
    counts[f"{kind} {status}" if kind else str(status)] += 1
    allowed = BAD_STATUS[kind] if kind else (200,)
    if status not in (*allowed, 429, 503):
        seen.wrong.append(f"{kind or 'good'}: {status} {answer.text[:200]}")
    elif status in (429, 503) and "retry-after" not in answer.headers:
        seen.wrong.append(f"{kind or 'good'}: {status} without Retry-After")
    elif status == 200:
        row = np.frombuffer(base64.b64decode(answer.json()["data"][0]["embedding"]), "<f4")
        far = float(np.abs(row - asked.rows_ND[place]).max())
        if not far <= TOLERANCE:
            seen.wrong.append(f"good: an embedding that is {far:.1e} away")
    if status in (429, 503):
        await asyncio.sleep(0.2)  # short of what Retry-After asks, so that the load stays
    return True


async def _slow(url: str, seen: Seen) -> None:
    """A head that promises a body of which only a beginning comes."""
    host, port = url.removeprefix("http://").split(":")
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {clients.PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
    writer.write(head.encode() + b'{"input":')
    try:
        status = (await asyncio.wait_for(reader.readline(), HANGS_S)).split(b" ")[1].decode()
    except (TimeoutError, OSError, IndexError) as error:
        status = type(error).__name__
    seen.bad[f"slow {status}"] += 1
    if status not in ("408", "429", "503"):
        seen.wrong.append(f"slow: {status} after {time.monotonic() - began:.0f} s")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def bad_bodies() -> dict[str, bytes]:
    """A body for each kind of bad request but the slow one."""
    whole = material.jpegs(None, 1)[0]
    bomb = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(bomb, "PNG")
    pictures = {"truncated": whole[: len(whole) // 2], "bomb": bomb.getvalue(), "nonsense": b"no picture at all" * 50}
    bodies = {
        name: json.dumps({"input": [{"image": base64.b64encode(one).decode()}]}).encode()
        for name, one in pictures.items()
    }
    return {**bodies, "types": b'{"input": [{"image": 5}], "dimensions": "x"}', "large": b" " * (33 * 2**20)}


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=HANGS_S, trust_env=False, verify=TRUSTED)


def _short(seen: Seen) -> dict[str, Any]:
    return {"good": dict(seen.good), "wrong": seen.wrong[:20], "slowest_ms": max(seen.latency_s, default=0.0) * 1e3}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="random:ViT-B-32", help="any model source")
    parser.add_argument("--seconds", type=float, default=120.0, help="of the storm")
    parser.add_argument("--part-seconds", type=float, default=12.0, help="of each load while something dies")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if unknown := [name for name in args.only if name not in PARTS]:
        parser.error(f"--only {unknown[0]}: give some of {', '.join(PARTS)}")
    return args


PARTS = {"storm": storm, "redis": redis, "kill": kill, "stuck": stuck}


if __name__ == "__main__":
    main()
