"""A real server on a free port, faults that can be switched on while it runs, and pictures to send."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from honeclip.model.clip import Clip
from honeclip.serving import app as apps
from honeclip.serving import forward
from honeclip.serving import server as servers
from honeclip.serving.cache import Cache
from honeclip.serving.engine import Engine
from honeclip.serving.fetch import Fetch
from honeclip.serving.guard import Guard
from honeclip.serving.keys import Keys
from honeclip.serving.metrics import Metrics
from honeclip.serving.routes import Service
from honeclip.serving.settings import Settings
from honeclip.serving.warmup import loaded

POISON = 251
"""The grey of a picture on which a fault bears."""

QUICK = Settings(warm_up_s=0.5, stuck_s=10, exit_s=300, idle_s=0.2, drain_s=10)


@dataclass
class Faults:
    """Stands around the model call. Each fault is off until it is set.

    Attributes:
        hold: the call waits until the event is set.
        error: is raised where a poisoned picture is in the batch.
        not_finite: a poisoned picture's embedding is NaN.
        room: rows that fit; more raise what MPS says.
        calls: rows of each call that reached the model.
    """

    hold: threading.Event | None = None
    error: Exception | None = None
    not_finite: bool = False
    room: int | None = None
    calls: list[tuple[str, int]] = field(default_factory=list)
    entered: threading.Event = field(default_factory=threading.Event)

    def __call__(self, clip: Clip, precision: str, modality: str, rows: torch.Tensor) -> torch.Tensor:
        if self.hold is not None:
            self.entered.set()
            assert self.hold.wait(60)
        if self.room is not None and len(rows) > self.room:
            raise RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")
        bad = (rows == POISON).flatten(1).all(1)
        if self.error is not None and bool(bad.any()):
            raise self.error
        out = forward.embed(clip, precision, modality, rows)
        self.calls.append((modality, len(rows)))
        if self.not_finite:
            out[bad] = float("nan")
        return out


@dataclass
class Running:
    """A server that runs."""

    url: str
    engine: Engine
    guard: Guard
    server: servers.Server
    faults: Faults
    thread: threading.Thread
    deaths: list[int]
    codes: list[int]

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, **{"timeout": 30, "trust_env": False, **options})

    def post(self, path: str, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.get(path, **options)

    def metric(self, name: str, **labels: str) -> float:
        value = self.engine.metrics.registry.get_sample_value(name, labels)
        return 0.0 if value is None else value

    def stop(self) -> int:
        if self.faults.hold is not None:
            self.faults.hold.set()
        self.server.drain()
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.codes[0]


def start(
    model: Path, settings: Settings, keys: Keys, faults: Faults, fetch: Fetch, index: Any, device: Any = "cpu"
) -> Running:
    metrics = Metrics()
    deaths: list[int] = []
    engine = Engine(
        lambda: loaded(str(model), device),
        settings,
        Cache(settings.cache_bytes, settings.cache_ttl_s),
        metrics,
        call=faults,
        die=deaths.append,
    )
    engine.start()
    service = Service(engine, settings, metrics, fetch, index)
    guard = apps.guarded(apps.create(service), service, keys)
    server = servers.make(guard, engine, settings)
    listening = servers.bound("127.0.0.1", 0)
    codes: list[int] = []

    def run() -> None:
        codes.append(servers.run(server, engine, listening))
        listening.close()

    thread = threading.Thread(target=run)
    thread.start()
    made = Running(
        f"http://127.0.0.1:{listening.getsockname()[1]}", engine, guard, server, faults, thread, deaths, codes
    )
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    return made


def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        threading.Event().wait(0.01)


def encoded(image: Image.Image, format_: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, format_)
    return out.getvalue()


def picture(seed: int, size: tuple[int, int] = (40, 36)) -> bytes:
    """A picture file of smooth colours; equal seeds give equal pictures."""
    coarse = np.random.default_rng(seed).integers(0, 250, (5, 5, 3), dtype=np.uint8)
    return encoded(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def poison() -> bytes:
    return encoded(Image.new("RGB", (32, 32), (POISON, POISON, POISON)))


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def images(*seeds: int) -> list[str]:
    return [b64(picture(seed)) for seed in seeds]


def message(answer: httpx.Response) -> str:
    """The message of an error, whose shape is checked on the way."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    return str(error["message"])
