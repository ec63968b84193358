"""Who may ask, how much, and how slowly: keys, hosts, bytes, senders that dawdle, readers that do not read."""

from __future__ import annotations

import base64
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from live_server import b64, encoded, images, message, picture, until
from PIL import Image

from honeclip.errors import BadInput
from honeclip.hosts import is_loopback
from honeclip.serving import keys as key_files
from honeclip.serving.refusals import public

ANNA, BERT = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# clients\nanna:{ANNA}\n\n bert : {BERT}\n")
    return key_files.read(file)


def raw(server, sent: bytes, *, timeout_s: float = 20) -> bytes:
    """Everything that comes back until the server closes the connection."""
    host, port = server.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout_s)) as connection:
        connection.sendall(sent)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


# --- who ----------------------------------------------------------------------------------------------------------


def test_only_known_keys_are_let_in(serve, keys):
    server = serve(keys=keys)
    for key in (ANNA, BERT):
        assert server.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    for header in ({}, {"Authorization": f"Bearer {ANNA}x"}, {"Authorization": "Bearer"}, {"Authorization": ANNA}):
        for path in ("/v1/models", "/health", "/metrics", "/docs", "/openapi.json"):
            answer = server.get(path, headers=header)
            assert (answer.status_code, "Bearer" in answer.headers["www-authenticate"]) == (401, True)
            assert ANNA not in answer.text
    refused = server.post("/v1/embeddings", json={"input": "a"}, headers={"Authorization": "Bearer wrong"})
    assert message(refused).startswith("the API key is not known")
    assert server.get("/livez").status_code == server.get("/readyz").status_code == 200
    as_browser = {"Authorization": "Basic " + base64.b64encode(f"me:{ANNA}".encode()).decode()}
    assert server.get("/docs", headers=as_browser).status_code == 200
    assert server.get("/v1/models", headers=as_browser).status_code == 401, (
        "a browser sends it for other sites' forms too"
    )
    assert server.metric("honeclip_rejected_total", reason="key") >= 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no key in it"),
        ("anna", "line 1 is not name:key"),
        ("anna:short", "line 1: the key of anna has fewer than 16 characters"),
        (f"anna:{ANNA}\nanna:{BERT}", "line 2: anna stands there twice"),
        (f"anna:{ANNA}\nbert:{ANNA}", "line 2: bert has the key of another name"),
        ("anna:0123456789 abcdef", "white space"),
    ],
)
def test_a_faulty_key_file_is_refused_and_shows_no_key(tmp_path, text, words):
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(BadInput) as refused:
        key_files.read(file)
    assert words in str(refused.value)
    assert ANNA not in str(refused.value)


def test_a_missing_key_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        key_files.read(tmp_path / "none")


def test_pages_of_other_sites_get_nothing(shared_server):
    other = shared_server.get("/v1/models", headers={"Host": "evil.example"})
    assert (other.status_code, other.json()["error"]["code"]) == (403, "host")
    crossed = shared_server.post("/v1/embeddings", json={"input": "a"}, headers={"Origin": "https://evil.example"})
    assert (crossed.status_code, crossed.json()["error"]["code"]) == (403, "origin")
    assert "access-control-allow-origin" not in crossed.headers
    own = shared_server.get("/v1/models", headers={"Origin": shared_server.url})
    assert own.status_code == 200
    for name in ("x-content-type-options", "x-frame-options", "content-security-policy", "referrer-policy"):
        assert name in own.headers
    assert "server" not in own.headers


def test_what_is_loopback():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(
        map(is_loopback, ("", "0.0.0.0", "192.168.1.2", "localhost.evil.example", "127.0.0.1.evil.example", "::"))
    )


def test_reasons_hold_no_address_and_no_path():
    assert public("cannot identify <_io.BytesIO object at 0x7f3a2b10>") == "cannot identify (data)"
    assert public("no file /home/me/models/a.bin here") == "no file (a file) here"
    assert public("40x30 pixels / 3.5 megapixels") == "40x30 pixels / 3.5 megapixels"


# --- how much -----------------------------------------------------------------------------------------------------


def test_a_body_is_counted_whatever_it_promises(serve):
    server = serve(body_bytes=20_000)
    body = json.dumps({"input": "a" * 30_000}).encode()
    large = server.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body")

    def chunks():
        for _ in range(30):
            yield b" " * 1000

    streamed = server.post("/v1/embeddings", content=chunks(), headers={"Content-Type": "application/json"})
    assert streamed.status_code == 413
    assert server.post("/v1/embeddings", json={"input": "a"}).status_code == 200
    until(lambda: server.guard._held == 0)


def test_the_bodies_of_all_requests_are_bounded_together(serve):
    server = serve(held_bytes=30_000, body_s=5)
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 25000\r\n\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), 20)) as slow:
        slow.sendall(head + b" " * 24_000)
        until(lambda: server.guard._held >= 24_000)
        refused = server.post("/v1/embeddings", json={"input": "a " * 9000})
        assert (refused.status_code, "retry-after" in refused.headers) == (429, True)
    until(lambda: server.guard._held == 0)


BOMB = encoded(Image.new("1", (12_000, 12_000)))


def test_a_bomb_is_refused_by_its_header(shared_server):
    assert len(BOMB) < 40_000
    began = time.monotonic()
    answer = shared_server.post("/v1/similarity", json={"images": [*images(1), b64(BOMB)], "texts": ["a"]})
    assert answer.status_code == 413
    assert message(answer).startswith("images[1]: 12000x12000 pixels are 144.0 megapixels, and the limit is 50")
    assert time.monotonic() - began < 5


def test_an_image_file_may_only_be_so_large(serve):
    server = serve(image_bytes=3000)
    big = encoded(Image.effect_noise((100, 100), 90))
    answer = server.post("/v1/similarity", json={"images": [b64(big)], "texts": ["a"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "image")


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", picture(1)[:60], picture(1)[:-40], b"\xff\xd8\xff" + b"\0" * 100, b"%PDF-1.4", b"\0" * 600],
)
def test_a_damaged_file_is_the_clients_fault(shared_server, content):
    answer = shared_server.post("/v1/similarity", json={"images": [b64(content) or "="], "texts": ["a"]})
    assert answer.status_code == 400
    assert message(answer).startswith("images[0]: ")
    assert " at 0x" not in answer.text


# --- how slowly ---------------------------------------------------------------------------------------------------


def test_senders_that_dawdle_are_sent_away(serve):
    server = serve(body_s=1)
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    with ThreadPoolExecutor(3) as pool:
        body = pool.submit(raw, server, head)
        begun = pool.submit(raw, server, b"POST /v1/emb")
        silent = pool.submit(raw, server, b"")
        assert server.post("/v1/embeddings", json={"input": "a"}).status_code == 200
        assert body.result().startswith(b"HTTP/1.1 408")
        assert begun.result() == silent.result() == b""


def test_a_reader_that_does_not_read_holds_nothing_up(serve):
    server = serve(body_s=1, stuck_s=20)
    body = json.dumps({"images": images(*range(20)), "texts": [f"number {n} , a" for n in range(60)] * 150}).encode()
    head = f"POST /v1/similarity HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    with closing(socket.socket()) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((host, int(port)))
        deaf.sendall(head.encode() + body)
        until(lambda: server.metric("honeclip_requests_total", route="/v1/similarity", status="200") == 1)
        (connection,) = server.server.server_state.connections
        assert connection.transport.get_write_buffer_size() > 0, (
            "the answer was small enough to be sent: nothing is shown"
        )
        until(lambda: not server.server.server_state.connections)
    assert server.guard.active == 0
    assert server.post("/v1/embeddings", json={"input": "a"}).status_code == 200


def test_pipelined_requests_are_answered_in_order(shared_server):
    def one(word: str, last: bool) -> bytes:
        body = json.dumps({"input": word}).encode()
        close = "Connection: close\r\n" if last else ""
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\n{close}Content-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    got = raw(shared_server, one("a", False) + one("", False) + one("number", True))
    assert [int(part[:3]) for part in got.split(b"HTTP/1.1 ")[1:]] == [200, 422, 200]
