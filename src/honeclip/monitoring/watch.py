"""`watch`: from run folders to a dashboard that is served, on this machine or on the local network."""

from __future__ import annotations

import errno
import logging
import secrets
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from PIL import Image

from honeclip.errors import BadInput
from honeclip.hosts import is_loopback, socket_at
from honeclip.monitoring import dashboard
from honeclip.monitoring.access import PARAMETER, Access
from honeclip.monitoring.watched import is_run, open_runs

PORTS = 100
"""Ports that are tried, from the one that was asked for."""

BACKLOG = 128

LOOK_S = 0.5
"""Between two looks for a folder that is not there yet."""


def watch(runs: Sequence[Path], host: str, port: int, decode: Callable[[Path], Image.Image], wait_s: float = 0) -> int:
    """Serves the dashboard of these runs until a signal.

    Args:
        runs: run folders: being written, finished, or copied from elsewhere.
        host: address to listen at. For one that others can reach a token is made up, without which nothing is answered.
        port: to listen at; the next free one where it is taken, any where it is 0.
        decode: how an image file becomes a picture.
        wait_s: how long a folder that is not there yet is waited for: `fit` makes it when it has looked at all images.

    Returns:
        The exit code: 128 and the number of the signal.

    Raises:
        BadInput: no run folders, or an address that is not one of this machine.
    """
    _wait(runs, wait_s)
    watched = open_runs(runs)
    listening = bound(host, port)
    try:
        taken = listening.getsockname()[1]
        token = "" if is_loopback(host) else secrets.token_urlsafe(24)
        logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
        app = FastAPI(openapi_url=None)
        dashboard.mount(app, watched, decode)
        config = uvicorn.Config(
            Access(app, token, taken),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            lifespan="on",
        )
        said = [f"port {port} is in use, so this is port {taken}"] if port and taken != port else []
        said += [f"watching {one.folder}" for one in watched]
        said += [f"open {_address(host, taken)}/{f'?{PARAMETER}={token}' if token else ''}"]
        if token:
            said += ["whoever has this address sees the runs and their pictures; the token is made anew at each start"]
        server = _Server(config, "\n".join(said))
        server.run([listening])
        return 128 + server.stopped_by
    finally:
        listening.close()


def _wait(runs: Sequence[Path], seconds: float) -> None:
    """Until every folder that is not there at all holds a run; a folder that is there and holds none is not waited for."""
    missing = [path for path in runs if not path.exists()]
    if not missing or not seconds:
        return
    print(
        f"not there yet: {', '.join(map(str, missing))}; waiting up to {seconds:g} s for fit",
        file=sys.stderr,
        flush=True,
    )
    until = time.monotonic() + seconds
    while not all(is_run(path) for path in missing) and time.monotonic() < until:
        time.sleep(LOOK_S)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens at a host, at the first free port from `port` on.

    Raises:
        BadInput: the address is not one of this machine, or none of the ports is free.
    """
    last = min(port + PORTS, 65535) if port else 0
    for one in range(port, last + 1):
        try:
            return _listening(host, one)
        except (OSError, OverflowError, UnicodeError) as error:
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE and one < last:
                continue
            reason = getattr(error, "strerror", None) or str(error)
            raise BadInput(f"--host {host} --port {one}: {reason}; choose another with --host or --port") from None
    raise BadInput(f"--port {port}: a port is a number from 0 to 65535")


def _listening(host: str, port: int) -> socket.socket:
    made = socket_at(host, port)
    try:
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def _address(host: str, port: int) -> str:
    """How a browser calls the server; where it listens at every address, by the one that the network knows."""
    if host in ("0.0.0.0", "::", ""):
        host = _own_address()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _own_address() -> str:
    """This machine's address in the local network; a datagram socket finds it without sending anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address of documentations (RFC 5737): nobody has it
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


class _Server(uvicorn.Server):
    """uvicorn, which says where it is once it answers, and remembers the signal that ended it."""

    def __init__(self, config: uvicorn.Config, welcome: str) -> None:
        super().__init__(config)
        self.stopped_by = 0
        self._welcome = welcome

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._welcome, file=sys.stderr, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal closes the connections, a second one waits for nothing."""
        self.force_exit = bool(self.stopped_by)
        self.stopped_by = self.stopped_by or int(sig)
        self.should_exit = True
