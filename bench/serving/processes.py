"""Servers as processes of a benchmark: started at a free port, held still while another one is measured, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx

READY_WITHIN_S = 300.0


@dataclass(frozen=True)
class Process:
    """A server that takes requests.

    Attributes:
        url: where.
        process: its process.
        seconds: from its start until it was ready.
    """

    url: str
    process: subprocess.Popen[bytes]
    seconds: float

    @contextlib.contextmanager
    def held_still(self) -> Iterator[None]:
        """It gets no core meanwhile: some servers look for work hundreds of times a second."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def honeclip(model: str, port: int, *more: str) -> list[str]:
    """The command of our own server, on the CPU in float32."""
    return [sys.executable, "-m", "honeclip", "serve", model, "--port", str(port), "--device", "cpu", *more]


@contextlib.contextmanager
def started(
    command: Sequence[str], port: int, ready: str, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Starts a server and waits until `ready` answers 200; kills it at the end, where it still is there.

    Raises:
        RuntimeError: it ended, or was not ready within `READY_WITHIN_S`.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}{ready}", process)
        yield Process(url, process, time.perf_counter() - began)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until an address answers 200."""
    until = time.monotonic() + READY_WITHIN_S
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode} before it was ready")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False, timeout=5).status_code == 200:
                return
        if time.monotonic() > until:
            raise RuntimeError(f"the server was not ready within {READY_WITHIN_S:g} s")
        time.sleep(0.1)
