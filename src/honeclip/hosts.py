"""Names and addresses of machines, as far as a server has to tell its own from others."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit


def host_of(header: str) -> str:
    """The host of a Host header, without its port and brackets."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def is_other_site(origin: bytes | None, host: str) -> bool:
    """Whether a request comes from a page of another site: its Origin header, where there is one, is not that of its Host."""
    return origin is not None and urlsplit(origin.decode("latin-1")).netloc.lower() != host.lower()


def socket_at(host: str, port: int) -> socket.socket:
    """A socket bound to an address; nothing listens yet.

    Raises:
        OSError, OverflowError, UnicodeError: the port is taken or no port, or the address is not one of this machine.
    """
    (family, kind, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    made = socket.socket(family, kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made


def is_loopback(host: str) -> bool:
    """Whether a name or an address means this machine and no other."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
