"""The process around the application: the socket, connections that dawdle, and the way out.

SIGTERM and SIGINT turn readiness off and new requests away; what was admitted is finished, within a bound; then the process
ends.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from honeclip import hosts
from honeclip.errors import BadInput
from honeclip.serving.engine import Engine
from honeclip.serving.guard import Guard
from honeclip.serving.settings import EXIT_STUCK, Settings

log = logging.getLogger(__name__)

BACKLOG = 1024

JOIN_S = 5.0
"""Seconds in which the device's thread ends once its queue is closed and empty."""


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address; nothing listens yet.

    Raises:
        BadInput: the port is taken, or the address is not one of this machine.
    """
    try:
        return hosts.socket_at(host, port)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"--host {host} --port {port}: {reason}; choose another with --port") from None


class Server(uvicorn.Server):
    """uvicorn, which drains before it stops.

    Attributes:
        stopped_by: the number of the signal; 0 where there was none.
        clean: whether everything was finished in time.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, guard: Guard, settings: Settings) -> None:
        super().__init__(config)
        self.stopped_by = 0
        self.clean = True
        self._engine, self._guard, self._settings = engine, guard, settings
        self._until = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, a second one stops at once."""
        if self.stopped_by:
            self.clean = False
            log.warning("stopped at once: %d requests are cut off", self._guard.active)
            # uvicorn prints a traceback for each of them
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            self.should_exit = self.force_exit = True
            return
        self.stopped_by = sig
        self.drain()

    def drain(self) -> None:
        """Turns readiness off; the server ends when what was admitted is answered, or the bound is reached."""
        self._until = time.monotonic() + self._settings.drain_s
        self._engine.drain()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._engine.draining and not self.should_exit:
            left = self._guard.active
            if not left or time.monotonic() > self._until:
                self.clean = self.clean and not left
                self.should_exit = True
        return await super().on_tick(counter)


def make(guard: Guard, engine: Engine, settings: Settings) -> Server:
    """A server that is ready to run."""
    config = uvicorn.Config(
        guard,
        http=timed(settings.body_s),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(settings.body_s),
        timeout_graceful_shutdown=2,
        lifespan="on",
    )
    return Server(config, engine, guard, settings)


def listen(listening: socket.socket) -> None:
    """From now on connections are taken, and wait until `run`.

    Raises:
        BadInput: another process listened there meanwhile.
    """
    try:
        listening.listen(BACKLOG)
    except OSError as error:
        raise BadInput(f"the port is taken by now: {error.strerror}; choose another with --port") from None


def run(server: Server, engine: Engine, listening: socket.socket) -> int:
    """Serves until a signal; gives the exit code: 0 drained, 130 after SIGINT, `EXIT_STUCK` where the device is stuck."""

    async def both() -> bool:
        await engine.cache.connect()
        await server.serve([listening])
        return await engine.stop(JOIN_S)

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        ended = runner.run(both())
    if not ended:
        return EXIT_STUCK
    return 128 + signal.SIGINT if server.stopped_by == signal.SIGINT else 0


def timed(head_s: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which closes a connection that sends no whole head, or reads nothing of an answer, for `head_s` to
    twice `head_s` seconds. uvicorn itself waits for ever for both.
    """

    class Timed(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _seen: Any = None
        _unsent = 0
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._seen = self
            self._check()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def _check(self) -> None:
            transport, cycle = self.transport, self.cycle
            if transport.get_protocol() is not self:
                return  # a websocket now
            unsent = transport.get_write_buffer_size()
            idle = cycle is None or cycle.response_complete
            if unsent and unsent >= self._unsent > 0:
                transport.abort()  # to close it would wait for the reader
            elif idle and self._seen is cycle and not unsent:
                transport.close()
            self._unsent = unsent
            self._seen = cycle if idle else self
            self._timer = self.loop.call_later(head_s, self._check)

    return Timed
