"""Names and addresses of machines, as far as a server has to tell its own from others."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def host_of(header: str) -> str:
    """The host of a Host header, without its port and brackets."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a name or an address means this machine and no other."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
