"""Images by URL: only from hosts that were named, only from public addresses, and never anywhere else."""

from __future__ import annotations

import asyncio
import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import b64, message, picture

from honeclip.serving.fetch import Fetch, is_public
from honeclip.serving.refusals import Refused

HOST = "images.example"


async def loopback(host: str) -> list[str]:
    assert host == HOST
    return ["127.0.0.1"]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "2002:7f00:1::", "64:ff9b::7f00:1", "2001:0:0:0:0:0:0:1", "240.0.0.1", "198.18.0.1", "not an address", "127.1",
    ],
)  # fmt: skip
def test_no_private_address(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8"]
)
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"http://{HOST}/a.png", "https://HOST/PATH"),
        (f"https://{HOST}:8443/a.png", "without a port"),
        (f"https://me:secret@{HOST}/a.png", "without a port, a user"),
        (f"https://{HOST}@evil.example/a.png", "without a port, a user"),
        ("https://evil.example/a.png", "not one that this server may ask"),
        (f"https://{HOST}.evil.example/a.png", "not one that this server may ask"),
        (f"https://evil.example\\@{HOST}/a.png", "not a URL"),
        (f"https://{HOST} /a.png", "not a URL"),
        ("https://127.0.0.1/a.png", "not one that this server may ask"),
        ("https://2130706433/a.png", "not one that this server may ask"),
        ("https://[::1]/a.png", "not one that this server may ask"),
        (f"ftp://{HOST}/a.png", "https://HOST/PATH"),
        (f"https://{HOST}/a.png", "the URL cannot be fetched"),  # its name leads to 127.0.0.1
    ],
)
def test_what_is_not_fetched(url, words):
    with pytest.raises(Refused) as refused:
        asyncio.run(Fetch(frozenset({HOST}), resolve=loopback)(url))
    assert refused.value.status == 400
    assert words in refused.value.message
    assert "127.0.0.1" not in refused.value.message


class _Site(http.server.BaseHTTPRequestHandler):
    seen: list[str]

    def do_GET(self) -> None:
        type(self).seen.append(f"{self.headers['Host']}{self.path}")
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", f"https://{HOST}/a.png")
            self.end_headers()
            return
        content = picture(1) if self.path == "/a.png" else b"x" * 50_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Fetch, list[str]]]:
    """A TLS site on loopback that calls itself images.example, and a Fetch that may go there."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={HOST}"]
    subprocess.run(
        [*made, "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    handler = type("Site", (_Site,), {"seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        trust = ssl.create_default_context(cafile=str(certificate))
        yield (
            Fetch(
                frozenset({HOST}),
                most_bytes=20_000,
                resolve=loopback,
                public=lambda _: True,
                trust=trust,
                port=server.server_port,
            ),
            handler.seen,
        )
        server.shutdown()
        thread.join()


def test_an_image_is_fetched_by_its_name_from_the_address_that_was_judged(site, serve):
    fetch, seen = site
    assert asyncio.run(fetch(f"https://{HOST}/a.png")) == picture(1)
    assert seen == [f"{HOST}/a.png"]
    with pytest.raises(Refused, match="redirects are not followed"):
        asyncio.run(fetch(f"https://{HOST}/moved"))
    assert seen[1:] == [f"{HOST}/moved"]
    with pytest.raises(Refused, match="too large") as large:
        asyncio.run(fetch(f"https://{HOST}/large"))
    assert large.value.status == 413
    server = serve(fetch=fetch)
    body = {"images": [b64(picture(1)), f"https://{HOST}/a.png"], "texts": ["a", "number"]}
    first, second = server.post("/v1/similarity", json=body).json()["cosine"]
    assert first == second
    refused = server.post("/v1/similarity", json={"images": ["https://evil.example/a"], "texts": ["a"]})
    assert message(refused).startswith("images[0]: the host of the URL")


def test_a_certificate_of_another_name_is_not_trusted(site):
    fetch, seen = site
    other = Fetch(frozenset({HOST}), resolve=loopback, public=lambda _: True, port=fetch.port)
    with pytest.raises(Refused, match="the URL cannot be fetched"):
        asyncio.run(other(f"https://{HOST}/a.png"))
    assert seen == []
