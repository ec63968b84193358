"""`serve`: from the options of the command to a running server, with each stage of the start said."""

from __future__ import annotations

import logging
import re
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from honeclip.embedding.index import Index
from honeclip.errors import BadInput
from honeclip.hosts import is_loopback
from honeclip.serving import app as apps
from honeclip.serving import keys as key_files
from honeclip.serving import page
from honeclip.serving import server as servers
from honeclip.serving.cache import Cache
from honeclip.serving.engine import Engine
from honeclip.serving.fetch import Fetch
from honeclip.serving.keys import Keys
from honeclip.serving.metrics import Metrics
from honeclip.serving.routes import Service
from honeclip.serving.settings import Settings
from honeclip.serving.warmup import Loaded, loaded


@dataclass(frozen=True)
class Options:
    """What `honeclip serve` was asked for."""

    model: str
    host: str = "127.0.0.1"
    port: int = 8117
    api_key_file: Path | None = None
    cache_url: str | None = None
    index: Path | None = None
    allow_url: tuple[str, ...] = ()
    precision: str = "auto"
    device: str = "auto"


def serve(options: Options, settings: Settings | None = None) -> int:
    """Serves until a signal.

    Returns:
        The exit code: 0 drained, 130 after SIGINT, 75 where the device is stuck.

    Raises:
        BadInput: the port is taken, keys are missing or wrong, the model or the index is not there.
    """
    settings = settings or Settings()
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING
    )
    keys = Keys() if options.api_key_file is None else key_files.read(options.api_key_file)
    if not keys and not is_loopback(options.host):
        raise BadInput(
            f"--host {options.host}: others can reach this address, so it needs --api-key-file, a file with a line name:key "
            "for each client (`openssl rand -hex 24` makes a key); or serve at 127.0.0.1"
        )
    fetch = Fetch(frozenset(_host(one) for one in options.allow_url), settings.image_bytes)
    listening = servers.bound(options.host, options.port)
    try:
        return _served(options, settings, keys, fetch, listening)
    finally:
        listening.close()


def _served(options: Options, settings: Settings, keys: Keys, fetch: Fetch, listening: socket.socket) -> int:
    began = time.perf_counter()
    metrics = Metrics()
    cache = Cache(settings.cache_bytes, settings.cache_ttl_s, options.cache_url)

    index = None if options.index is None else Index.open(options.index)

    def load() -> Loaded:
        found = loaded(options.model, options.device, options.precision, _say_stage)
        if index is not None:
            index.check(found.clip)  # it looks at the weights, which only this thread may
        return found

    engine = Engine(load, settings, cache, metrics)
    found = engine.start()
    _say_stage("warm-up", found.seconds["warm-up"])
    service = Service(engine, settings, metrics, fetch, index)
    app = apps.create(service)
    page.mount(app, metrics.registry, engine.facts)
    guard = apps.guarded(app, service, keys)
    server = servers.make(guard, engine, settings)
    servers.listen(listening)  # before anybody is told that it is there
    address = _address(listening)
    largest = {name: one["largest_batch"] for name, one in engine.facts()["queue"].items()}
    _say(f"model       {found.name}, {found.precision.name} on {found.clip.device.name}")
    _say(f"batches     images up to {largest['image']}, texts up to {largest['text']}")
    _say(f"ready       after {time.perf_counter() - began:.1f} s at {address}")
    _say(f"try it      curl {address}/v1/models{_with_key(keys)}    (all routes: {address}/docs)")
    return servers.run(server, engine, listening)


def _host(given: str) -> str:
    """A host of --allow-url, checked."""
    host = given.strip().lower().rstrip(".")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", host):
        raise BadInput(f"--allow-url {given}: give a host name, such as images.example.com, without https:// and path")
    return host


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _with_key(keys: Keys) -> str:
    return " -H 'Authorization: Bearer KEY'" if keys else ""


def _say_stage(name: str, seconds: float) -> None:
    _say(f"{name:<12}{seconds:.1f} s")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
