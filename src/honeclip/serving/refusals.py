"""Why a request, or one item of it, gets no answer: a status, a word for the metrics, and a sentence for the client.

The sentence never holds a path, an address in memory, an address on the network or a trace.
"""

from __future__ import annotations

import math
import re


class Refused(Exception):
    """A request or an item that is turned away.

    Args:
        status: of HTTP.
        reason: one word, the label of `honeclip_rejected_total`.
        message: what is wrong, the rule and the way out.
        retry_after_s: seconds after which it may be worth another try.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message
        self.retry_after_s = retry_after_s

    def at(self, place: str) -> Refused:
        """The same, naming the item: "images[3]: ..."."""
        return Refused(self.status, self.reason, f"{place}: {self.message}", self.retry_after_s)

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After in whole seconds, where there is one."""
        return {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


def bad_item(message: str) -> Refused:
    """400: an input that cannot be used."""
    return Refused(400, "item", message)


def too_large(message: str, reason: str) -> Refused:
    """413: bytes or pixels beyond a limit."""
    return Refused(413, reason, message)


def stuck() -> Refused:
    """503: the device does not answer."""
    return Refused(503, "stuck", "the device has not answered in time; the server is recovering, try again", 10)


def failed() -> Refused:
    """500: the model raised for this item alone; the server's log has the trace."""
    return Refused(500, "model", "the model could not compute this item; the server's log says why")


def not_finite() -> Refused:
    """500: the model gave NaN or infinity for this item."""
    return Refused(500, "not_finite", "the model gave numbers that are not finite for this item")


def no_memory() -> Refused:
    """503: a single item does not fit."""
    return Refused(503, "memory", "the server has no memory for this item now; try again, or send a smaller one", 5)


_ADDRESS = re.compile(r"<[^<>]*\bat 0x[0-9a-fA-F]+[^<>]*>|\b0x[0-9a-fA-F]{6,}\b")
_PATH = re.compile(r"(?<![\w.])(?:/[\w.+@%-]+){2,}/?|\b[A-Za-z]:\\[^\s'\"]+")


def public(text: str) -> str:
    """A reason from below without addresses in memory and without paths."""
    return _PATH.sub("(a file)", _ADDRESS.sub("(data)", text))
