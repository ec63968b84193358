"""What nobody thought of: requests by the schema and beside it, and picture files with bytes changed."""

from __future__ import annotations

import random

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from live_server import b64, encoded, picture
from PIL import Image
from schemathesis.checks import CHECKS

CHECKED = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")

ROUTES = (
    ("POST", "/v1/similarity"),
    ("POST", "/v1/similarity/pairs"),
    ("POST", "/v1/classify"),
    ("POST", "/v1/search"),
    ("POST", "/v1/embeddings"),
    ("GET", "/v1/models"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/health"),
    ("GET", "/metrics"),
)

# derandomize and no database: each example is a request to a server that keeps what it computed
BOUNDED = settings(
    max_examples=25,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_the_openapi_holds(shared_server, method, path, mode):
    schema = schemathesis.openapi.from_dict(shared_server.get("/openapi.json").json())
    operation = schema[path][method]
    generation = schemathesis.GenerationMode(mode)
    chosen = [check for name, check in ((one.__name__, one) for one in CHECKS.get_all()) if name in CHECKED]
    assert len(chosen) == len(CHECKED)
    asked = 0

    @given(case=operation.as_strategy(generation_mode=generation))
    @BOUNDED
    def every(case):
        nonlocal asked
        asked += 1
        case.call_and_validate(base_url=shared_server.url, checks=chosen, timeout=30)

    if mode == "negative" and method == "GET":
        pytest.skip("a request without a body cannot be wrong")
    every()
    assert asked


KINDS = {
    "JPEG": encoded(Image.effect_noise((64, 48), 60).convert("RGB"), "JPEG"),
    "PNG": picture(3),
    "WEBP": encoded(Image.effect_noise((64, 48), 60).convert("RGB"), "WEBP"),
    "GIF": encoded(Image.effect_noise((64, 48), 60), "GIF"),
    "BMP": encoded(Image.effect_noise((24, 18), 60), "BMP"),
    "TIFF": encoded(Image.effect_noise((24, 18), 60), "TIFF"),
    "PPM": encoded(Image.effect_noise((24, 18), 60), "PPM"),
}


def mutated(kind: str, draw: random.Random) -> bytes:
    """A file cut, with bytes changed, doubled or taken out, more of it near the header."""
    content = bytearray(KINDS[kind])
    for _ in range(draw.randint(1, 6)):
        place = min(len(content) - 1, int(len(content) * draw.random() ** 3))
        match draw.randrange(4):
            case 0:
                content[place] = draw.randrange(256)
            case 1:
                del content[place : place + draw.randint(1, 9)]
            case 2:
                content[place:place] = content[place : place + draw.randint(1, 40)]
            case _:
                del content[max(1, place) :]
        content = content or bytearray(b"\0")
    return bytes(content)


def check(server, content: bytes, client: httpx.Client) -> int:
    answer = client.post("/v1/embeddings", json={"input": [{"image": b64(content)}]})
    assert answer.status_code in (200, 400, 413), (answer.status_code, answer.text, content)
    assert " at 0x" not in answer.text
    return answer.status_code


def many(server, count: int) -> None:
    draw, seen = random.Random(0), set()
    with server.client() as client:
        for number in range(count):
            seen.add(check(server, mutated(list(KINDS)[number % len(KINDS)], draw), client))
        assert {200, 400} <= seen, "the files were all broken, or none was"
        assert check(server, picture(1), client) == 200
    assert server.get("/readyz").status_code == 200


def test_changed_picture_files(shared_server):
    many(shared_server, 200)


@pytest.mark.slow
def test_two_thousand_changed_picture_files(shared_server):
    many(shared_server, 2000)


@given(head=st.sampled_from(sorted(KINDS)), tail=st.binary(max_size=300), length=st.integers(2, 60))
@settings(BOUNDED, max_examples=60)
def test_a_right_beginning_and_anything_behind(shared_server, head, tail, length):
    with shared_server.client() as client:
        check(shared_server, KINDS[head][:length] + tail, client)
