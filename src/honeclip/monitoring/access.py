"""Who may see the dashboard: this machine alone, or whoever has the token of the address that was printed.

Pure ASGI around the page, its pictures and its websocket. Without a token only this machine's own names are answered, since a
page on another site may call itself by a name that leads here (DNS rebinding).
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from honeclip.hosts import host_of, is_loopback, is_other_site

PARAMETER = "token"

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),  # the address holds the token
)

REFUSED = {
    401: "401: open the whole address that `honeclip watch` printed, with its token.",
    403: "403: without a token this page answers to 127.0.0.1 and localhost only.",
}


class Access:
    """The outermost ASGI application.

    Args:
        app: what is guarded.
        token: what the address has to carry; "" where only this machine asks. It is kept in a cookie for what the page loads.
        port: of the server, since a browser sends the cookies of one host to all its ports.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token = app, token.encode()
        self._cookie = f"honeclip-watch-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status = self._refusal(scope)
        if not status:
            await self._app(scope, receive, self._with_headers(scope, send) if scope["type"] == "http" else send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            body = REFUSED[status].encode()
            headers = [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"%d" % len(body)),
                *HEADERS,
            ]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Scope) -> int:
        """The status with which a request is turned away; 0 where it is not."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if is_other_site(headers.get(b"origin"), host):
            return 403
        if not self._token:
            return 0 if is_loopback(host_of(host)) else 403
        return 0 if self._in_address(scope) or self._is_right(self._from_cookie(headers)) else 401

    def _in_address(self, scope: Scope) -> bool:
        found = parse_qs(scope.get("query_string", b"").decode("latin-1")).get(PARAMETER, [""])
        return self._is_right(found[0])

    def _from_cookie(self, headers: dict[bytes, bytes]) -> str:
        try:
            found = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(self._cookie)
        except CookieError:
            return ""
        return found.value if found else ""

    def _is_right(self, given: str) -> bool:
        """Compared in constant time, so that an answer's time says nothing about the token."""
        return hmac.compare_digest(given.encode("latin-1", "replace"), self._token)

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        added = list(HEADERS)
        if self._token and self._in_address(scope):
            value = f"{self._cookie}={self._token.decode()}; Path=/; HttpOnly; SameSite=Strict"
            added.append((b"set-cookie", value.encode()))

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        return answer
