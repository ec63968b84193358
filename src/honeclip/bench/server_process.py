"""`honeclip serve` in a process of its own, for a benchmark: started, asked for its metrics, ended."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from honeclip.errors import HoneclipError, Interrupted

ENDS_WITHIN_S = 60


@dataclass(frozen=True)
class Running:
    """A server that takes requests.

    Attributes:
        url: where.
        seconds: from the start of its process to the first answer that it is ready.
        process: its id.
    """

    url: str
    seconds: float
    process: int

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample of /metrics; 0 where there is none."""
        return self.metrics().get((name, frozenset(labels.items())), 0.0)

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample of /metrics by its name and labels."""
        import httpx
        from prometheus_client.parser import text_string_to_metric_families

        text = httpx.get(f"{self.url}/metrics", trust_env=False, timeout=30).text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@contextlib.contextmanager
def running(model: str, *, device: str, precision: str) -> Iterator[Running]:
    """Starts a server at a free port of this machine and ends it with SIGTERM.

    Raises:
        HoneclipError: it ends before it is ready, or not with 0 at the end; what it said stands in the message.
        Interrupted: SIGTERM came meanwhile; the server does not outlive who started it.
    """
    before = signal.signal(signal.SIGTERM, _interrupted)
    try:
        with _started(model, device, precision) as server:
            yield server
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _started(model: str, device: str, precision: str) -> Iterator[Running]:
    began = time.perf_counter()
    words = ["serve", model, "--port", "0", "--device", device, "--precision", precision]
    process = subprocess.Popen([sys.executable, "-m", "honeclip", *words], stderr=subprocess.PIPE, text=True)
    said: list[str] = []
    # a full pipe would stop the server
    rest = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
    try:
        url = _address(process, said)
        rest.start()
        _wait(url, process, said)
        yield Running(url, time.perf_counter() - began, process.pid)
        process.send_signal(signal.SIGTERM)
        code = process.wait(ENDS_WITHIN_S)
        if code:
            raise HoneclipError(f"the server ended with {code} after SIGTERM: {_last(said)}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if rest.is_alive():
            rest.join()
        if process.stderr:
            process.stderr.close()


def _interrupted(number: int, _: FrameType | None) -> None:
    raise Interrupted(number, "stopped by SIGTERM; the server that was measured is ended as well")


def _address(process: subprocess.Popen[str], said: list[str]) -> str:
    for line in process.stderr or ():
        said.append(line)
        found = re.match(r"ready\s.* at (http://\S+)", line)
        if found:
            return found[1]
    raise HoneclipError(f"the server ended with {process.wait()} before it was ready: {_last(said)}")


def _wait(url: str, process: subprocess.Popen[str], said: list[str]) -> None:
    """Until /readyz answers 200: the address is said a moment before anybody listens."""
    import httpx

    while process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", trust_env=False, timeout=30).status_code == 200:
                return
        time.sleep(0.02)
    raise HoneclipError(f"the server ended with {process.returncode} before it was ready: {_last(said)}")


def _last(said: list[str]) -> str:
    return " ".join("".join(said[-5:]).split()) or "it said nothing"
