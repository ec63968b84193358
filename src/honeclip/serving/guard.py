"""What every request passes before any of it is looked at: host and origin, key, bytes, time; and what it leaves by.

Pure ASGI, outside of the application: the body is counted while it arrives (Content-Length is only a promise), an answer that
nobody waits for is stopped, headers for browsers are added, and each request is counted by route and status.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from honeclip.hosts import host_of, is_loopback, is_other_site
from honeclip.serving import refusals
from honeclip.serving.keys import Keys
from honeclip.serving.metrics import Metrics
from honeclip.serving.refusals import Refused
from honeclip.serving.settings import Settings

log = logging.getLogger(__name__)

OPEN = frozenset({"/livez", "/readyz"})
"""Asked without a key: a probe has none, and they say nothing but yes or no."""

ROUTES = (
    "/v1/similarity",
    "/v1/similarity/pairs",
    "/v1/classify",
    "/v1/search",
    "/v1/embeddings",
    "/v1/models",
    "/livez",
    "/readyz",
    "/health",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/dashboard",
)
"""Labels of the metrics; any other path is "other", so that nobody can fill the memory with names."""

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
API_HEADERS = (*HEADERS, (b"cache-control", b"no-store"), (b"content-security-policy", b"default-src 'none'"))

LEFT = 499
"""The status by which nginx, and `honeclip_requests_total`, count a client that left."""

TIMEOUT_HEADER = b"x-request-timeout"


class _Left(Exception):
    """The client is gone."""


class Guard:
    """The outermost ASGI application.

    Args:
        app: what is guarded.
        settings: limits and times.
        keys: who may ask; without any, only requests to this machine's own names are answered.
        metrics: where requests are counted.
        draining: whether new requests are turned away.

    Attributes:
        active: requests to the API that are being answered now.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, keys: Keys, metrics: Metrics, draining: Callable[[], bool]
    ) -> None:
        self.active = 0
        self._app, self._settings, self._keys = app, settings, keys
        self._metrics, self._draining = metrics, draining
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            try:
                self._admit(scope)
            except Refused:
                await receive()
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), 0
        path: str = scope["path"]
        api = path.startswith("/v1/")
        extra = API_HEADERS if api or path in OPEN or path in ("/health", "/metrics") else HEADERS

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message.get("headers", ())}
                added = [one for one in extra if one[0] not in own]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            async with asyncio.timeout(self._settings.send_s):  # a client that never reads
                await send(message)

        self.active += api
        try:
            try:
                self._admit(scope)
                await self._within_limits(scope, receive, answer, api=api, began=began)
            except Refused as error:
                self._metrics.rejected(error.reason)
                if not status:
                    await refuse(answer, error)
        except _Left:
            self._metrics.cancelled()
            status = LEFT
        except TimeoutError:
            self._metrics.rejected("slow_reader")
            status = LEFT
        finally:
            self.active -= api
            self._metrics.request(_route(path), status or 500, time.monotonic() - began)

    # --- who ------------------------------------------------------------------------------------------------------

    def _admit(self, scope: Scope) -> None:
        """Raises Refused for a request from another site, without a key, or while the server drains."""
        headers = dict(scope["headers"])
        path: str = scope["path"]
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._keys and not is_loopback(host_of(host)):
            # a page on another site may call itself by a name that leads here (DNS rebinding); a key stops it as well
            raise Refused(403, "host", "without API keys this server answers to 127.0.0.1 and localhost only")
        if is_other_site(headers.get(b"origin"), host):
            raise Refused(403, "origin", "requests from pages of other sites are not answered")
        if self._keys and path not in OPEN:
            page = not path.startswith("/v1/")
            authorization = headers.get(b"authorization")
            name = self._keys.name(authorization.decode("latin-1") if authorization else None, page=page)
            if name is None:
                said = "the API key is not known" if authorization else "an API key is needed"
                raise Refused(401, "key", f"{said}: send the header `Authorization: Bearer KEY`")
            scope["client_name"] = name
        if path.startswith("/v1/") and self._draining():
            raise Refused(503, "draining", "the server is about to stop; send this to another one", 5)

    # --- how much and how long ------------------------------------------------------------------------------------

    async def _within_limits(self, scope: Scope, receive: Receive, answer: Send, *, api: bool, began: float) -> None:
        headers = dict(scope["headers"])
        deadline_s = self._deadline(headers)
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self._held + size > self._settings.held_bytes and self._held:
                raise Refused(429, "held_bytes", "the requests that are being answered fill the memory; try again", 1)
            held += size
            self._held += size

        try:
            body = await self._body(headers, receive, hold)
            if not api:
                await self._app(scope, _replay(body, receive), answer)
                return
            await self._answered(scope, body, receive, answer, until=began + deadline_s)
        finally:
            self._held -= held

    async def _body(self, headers: dict[bytes, bytes], receive: Receive, hold: Callable[[int], None]) -> bytes:
        most = self._settings.body_bytes
        words = f"the request is larger than {most / 2**20:g} MiB: send fewer items at once, or smaller images"
        promised = headers.get(b"content-length", b"")
        if promised.isdigit() and int(promised) > most:
            raise refusals.too_large(words, "body")
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Left
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise refusals.too_large(words, "body")
                    hold(len(part))
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            limit = self._settings.body_s
            raise Refused(408, "slow_sender", f"the request's body did not arrive within {limit:g} s") from None

    async def _answered(self, scope: Scope, body: bytes, receive: Receive, answer: Send, until: float) -> None:
        """Runs the application until it answers, the client leaves, or the deadline passes."""
        work = asyncio.ensure_future(self._app(scope, _replay(body, None), answer))
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait(
                {work, gone}, timeout=max(0.0, until - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            if work.done():
                await work
                return
            if gone.done():
                raise _Left
            raise Refused(
                504, "deadline", "the answer was not there within the deadline; try again, or send fewer items"
            )
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    def _deadline(self, headers: dict[bytes, bytes]) -> float:
        most, given = self._settings.deadline_s, headers.get(TIMEOUT_HEADER)
        if given is None:
            return most
        try:
            wanted = float(given)
        except ValueError:
            wanted = -1.0
        if not wanted > 0:
            raise Refused(400, "header", "X-Request-Timeout is a number of seconds above 0")
        return min(most, wanted)


def _route(path: str) -> str:
    """The label of a path; what belongs to the page counts as the page."""
    if path.startswith("/dashboard/"):
        return "/dashboard"
    return path if path in ROUTES else "other"


def _replay(body: bytes, receive: Receive | None) -> Receive:
    """A `receive` that gives a body that has been read, and then waits for the end."""
    given = False

    async def again() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        if receive is not None:
            return await receive()
        await asyncio.Event().wait()  # the guard itself listens to the client, and cancels
        return {"type": "http.disconnect"}

    return again


def error_body(status: int, reason: str, message: str) -> dict[str, Any]:
    """The JSON of every error, in OpenAI's shape."""
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    return {"error": {"message": message, "type": kind, "code": reason, "param": None}}


async def refuse(send: Send, error: Refused) -> None:
    """Answers with an error before there is an application."""
    content = json.dumps(error_body(error.status, error.reason, error.message)).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **error.headers}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="honeclip", Basic realm="honeclip"'
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": content})
