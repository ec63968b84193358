"""Those who are told of runs in tests: real servers on this machine for mail and for HTTP, and one that never answers."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

WAIT_S = 120
"""Until a message must have come; a test that fails waits so long, one that passes does not."""


class Received:
    """What came, in order.

    Attributes:
        address: host and port.
        status: what an HTTP receiver answers.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.status = 200
        self.messages: queue.Queue[dict[str, Any]] = queue.Queue()

    def next(self) -> dict[str, Any]:
        return self.messages.get(timeout=WAIT_S)

    def rest(self) -> list[dict[str, Any]]:
        found = []
        while not self.messages.empty():
            found.append(self.messages.get())
        return found


@contextmanager
def http() -> Iterator[Received]:
    """Takes what apprise's json:// sends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.messages.put({**body, "path": self.path, "authorization": self.headers["Authorization"]})
            self.send_response(received.status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = Received(f"127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def smtp(user: str, password: str) -> Iterator[Received]:
    """Takes mail from who knows user and password."""

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            mail = message_from_bytes(envelope.content)
            parts = [part for part in mail.walk() if part.get_content_type() == "text/plain"]
            text = parts[0].get_payload(decode=True).decode()
            received.messages.put({"to": envelope.rcpt_tos, "title": mail["Subject"], "message": text})
            return "250 OK"

    def known(server: Any, session: Any, envelope: Any, mechanism: str, given: Any) -> AuthResult:
        return AuthResult(success=(given.login, given.password) == (user.encode(), password.encode()))

    controller = Controller(
        Handler(),
        hostname="127.0.0.1",
        port=free_port(),
        authenticator=known,
        auth_required=True,
        auth_require_tls=False,
    )
    received = Received(f"127.0.0.1:{controller.port}")
    controller.start()
    try:
        yield received
    finally:
        controller.stop()


@contextmanager
def silent() -> Iterator[str]:
    """An address at which connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
