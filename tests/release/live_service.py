"""A service as launchd or systemd would run it, for docs/deploy/replace.sh: two commands that start and stop it, and a link."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx

REPLACE = Path(__file__).resolve().parents[2] / "docs" / "deploy" / "replace.sh"


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@dataclass(frozen=True)
class Service:
    """`honeclip serve FOLDER/current` in a process that nobody waits for.

    Attributes:
        folder: with the link, the two commands, the process's number and its log.
        environment: of replace.sh, which finds the service by it.
    """

    folder: Path
    url: str
    environment: dict[str, str]

    @property
    def current(self) -> Path:
        return self.folder / "current"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        subprocess.run([self.environment["HONECLIP_START"]], env=self.environment, check=True, timeout=60)
        end = time.monotonic() + 240
        while self.status("/readyz") != 200:
            assert time.monotonic() < end, self.log

    def replace(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(REPLACE), *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
        )

    def status(self, path: str) -> int:
        """0 where nobody answers."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self.url + path, trust_env=False, timeout=30).status_code
        return 0

    def serves(self) -> str:
        """The model's public name."""
        key = self.environment.get("HONECLIP_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = httpx.get(f"{self.url}/v1/models", headers=headers, trust_env=False, timeout=30)
        return str(answer.json()["data"][0]["id"])

    def kill(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.folder / "pid").read_text()), signal.SIGKILL)


def make(folder: Path, honeclip: Path, model: Path, environment: dict[str, str], *options: object) -> Service:
    """A service that is not started yet."""
    folder.mkdir()
    port, trial = free_port(), free_port()
    (folder / "current").symlink_to(model)
    serve = " ".join(map(str, (honeclip, "serve", folder / "current", "--port", port, *options)))
    commands = {
        "start": f"#!/bin/sh\n{serve} >>{folder}/log 2>&1 </dev/null &\necho $! >{folder}/pid\n",
        "stop": f"#!/bin/sh\nkill -TERM $(cat {folder}/pid)\n",
    }
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    url = f"http://127.0.0.1:{port}"
    own = {
        "HONECLIP": str(honeclip),
        "HONECLIP_CURRENT": str(folder / "current"),
        "HONECLIP_URL": url,
        "HONECLIP_TRIAL_PORT": str(trial),
        "HONECLIP_START": str(folder / "start"),
        "HONECLIP_STOP": str(folder / "stop"),
    }
    return Service(folder, url, {**environment, **own})


def until_gone(service: Service, within_s: float = 60) -> None:
    """Until nobody answers any more."""
    end = time.monotonic() + within_s
    while service.status("/livez"):
        assert time.monotonic() < end, "it did not end"
