"""Images by URL, off unless hosts are named: https only, a name resolved once, no private address, no redirect.

The URL is parsed once; the address that was judged is the one that is connected to, so that a name cannot lead elsewhere
between the two (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import httpx

from honeclip.serving import refusals
from honeclip.serving.refusals import Refused

log = logging.getLogger(__name__)

SECONDS = 10.0
NAT64 = ipaddress.ip_network("64:ff9b::/96")

Resolve: TypeAlias = Callable[[str], Awaitable[list[str]]]


async def resolved(host: str) -> list[str]:
    """Addresses of a name, as the system knows them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet, whatever form it comes in."""
    try:
        one = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(one, ipaddress.IPv6Address):
        if one.ipv4_mapped is not None:
            return is_public(str(one.ipv4_mapped))
        if one.sixtofour is not None or one.teredo is not None or one in NAT64:
            return False  # an IPv4 address travels inside
    return one.is_global and not one.is_multicast and not one.is_reserved


@dataclass(frozen=True)
class Fetch:
    """What may be fetched, and how.

    Attributes:
        hosts: names that may be asked, lower case; none: nothing is fetched.
        most_bytes: of one image.
        resolve: from a name to addresses.
        public: which addresses may be connected to.
        trust: whose certificates count.
        port: that is connected to.
    """

    hosts: frozenset[str] = frozenset()
    most_bytes: int = 20 * 2**20
    resolve: Resolve = resolved
    public: Callable[[str], bool] = is_public
    trust: ssl.SSLContext | None = None
    port: int = 443

    async def __call__(self, url: str) -> bytes:
        """The bytes behind a URL.

        Raises:
            Refused: it may not be fetched (400), or cannot be; the message names no address.
        """
        if not self.hosts:
            raise Refused(400, "url", "fetching URLs is off; send the image itself, as base64")
        asked = self._checked(url)
        try:
            async with asyncio.timeout(SECONDS):
                addresses = await self.resolve(asked.host)
                if not addresses or not all(self.public(one) for one in addresses):
                    log.warning("a URL of %s leads to an address that is not public", asked.host)
                    raise Refused(400, "url", "the URL cannot be fetched")
                return await self._read(asked, addresses)
        except TimeoutError:
            raise Refused(400, "url", f"the URL did not answer within {SECONDS:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            log.info("a URL of %s could not be fetched: %s", asked.host, type(error).__name__)
            raise Refused(400, "url", "the URL cannot be fetched") from None

    def _checked(self, url: str) -> httpx.URL:
        try:
            asked = httpx.URL(url)
        except (httpx.InvalidURL, ValueError, TypeError):
            raise Refused(400, "url", "this is not a URL") from None
        if "\\" in url or any(ord(letter) < 33 for letter in url):
            raise Refused(400, "url", "this is not a URL")
        if asked.scheme != "https" or asked.port not in (None, 443) or asked.userinfo:
            raise Refused(400, "url", "a URL is https://HOST/PATH, without a port, a user or a password")
        if asked.host.lower() not in self.hosts:
            raise Refused(400, "url", "the host of the URL is not one that this server may ask")
        return asked

    async def _read(self, asked: httpx.URL, addresses: Sequence[str]) -> bytes:
        trust = self.trust or ssl.create_default_context()
        async with httpx.AsyncClient(verify=trust, trust_env=False, follow_redirects=False) as client:
            pinned = asked.copy_with(host=addresses[0], port=self.port)
            headers = {"Host": asked.netloc.decode(), "Accept": "image/*", "Accept-Encoding": "identity"}
            extensions = {"sni_hostname": asked.host}
            async with client.stream("GET", pinned, headers=headers, extensions=extensions) as answer:
                if answer.status_code != 200:
                    raise Refused(400, "url", "the URL did not answer with an image (redirects are not followed)")
                parts, size = [], 0
                async for part in answer.aiter_raw():
                    size += len(part)
                    if size > self.most_bytes:
                        raise refusals.too_large("the image behind the URL is too large", "image")
                    parts.append(part)
                return b"".join(parts)
