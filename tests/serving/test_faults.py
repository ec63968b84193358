"""What goes wrong on the device: one item, a batch, memory, numbers that are not finite, a call that never returns."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from live_server import Faults, Running, b64, message, picture, poison, until

from honeclip.serving import engine as engines
from honeclip.serving import server as servers
from honeclip.serving.settings import EXIT_STUCK


def embed(server: Running, *inputs, **headers):
    return server.post("/v1/embeddings", json={"input": list(inputs)}, headers=headers)


def image(content: bytes) -> dict[str, str]:
    return {"image": b64(content)}


def at_once(server: Running, faults: Faults, contents: list[bytes]) -> list[int]:
    """Status of one request a picture, all of which wait while one that came before is computed: one batch of them."""
    faults.hold, faults.entered = threading.Event(), threading.Event()
    with server.client() as client, ThreadPoolExecutor(len(contents) + 1) as pool:

        def ask(content: bytes) -> int:
            return client.post("/v1/embeddings", json={"input": [image(content)]}).status_code

        first = pool.submit(ask, picture(999_999))
        assert faults.entered.wait(120)
        asked = [pool.submit(ask, content) for content in contents]
        until(lambda: server.engine.facts()["queue"]["image"]["items"] == len(contents))
        hold, faults.hold = faults.hold, None
        hold.set()
        assert first.result() == 200
        return [one.result() for one in asked]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def server(serve, faults) -> Running:
    made = serve(faults=faults, stuck_s=20)
    made.engine._queue.largest.update(image=8, text=8)  # what the warm-up measures on a busy machine is not known
    faults.calls.clear()
    return made


def test_a_batch_that_fails_is_narrowed_down_to_the_item(server, faults):
    faults.error = ValueError("a kernel that dislikes this picture")
    contents = [picture(seed) for seed in range(7)]
    contents[4] = poison()
    assert at_once(server, faults, contents) == [200, 200, 200, 200, 500, 200, 200]
    answer = embed(server, image(poison()), image(picture(1)))
    assert answer.status_code == 500
    assert message(answer) == "input[0]: the model could not compute this item; the server's log says why"
    assert embed(server, image(picture(50))).status_code == 200


def test_out_of_memory_halves_the_batch_and_loses_nothing(server, faults):
    faults.room = 3
    assert at_once(server, faults, [picture(seed) for seed in range(8)]) == [200] * 8
    assert server.engine.facts()["queue"]["image"]["largest_batch"] == 2
    assert max(rows for _, rows in faults.calls) <= 3
    assert server.metric("honeclip_out_of_memory_total", modality="image") >= 1
    faults.room = 0
    refused = embed(server, image(picture(60)))
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    faults.room = None
    assert embed(server, image(picture(60))).status_code == 200, "a fault of the moment was kept in the cache"


def test_numbers_that_are_not_finite_fail_alone_and_repeats_turn_readiness_off(server, faults):
    faults.not_finite = True
    assert at_once(server, faults, [picture(1), poison(), picture(2)]) == [200, 500, 200]
    assert server.get("/readyz").status_code == 200
    for _ in range(3):
        assert embed(server, image(poison())).status_code == 500
    assert server.engine.unready.startswith("failing")
    faults.not_finite = False
    until(lambda: server.get("/readyz").status_code == 200)  # a canary brings it back


def test_a_stuck_batch_gets_503_and_readiness_comes_back_with_it(serve, faults):
    server = serve(faults=faults, stuck_s=0.6)
    faults.hold = threading.Event()
    with server.client() as client, ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(client.post, "/v1/embeddings", json={"input": [one]})
            for one in map(image, map(picture, range(4)))
        ]
        answers = [one.result() for one in asked]
        assert [one.status_code for one in answers] == [503] * 4
        assert all("retry-after" in one.headers for one in answers)
        ready = server.get("/readyz")
        assert (ready.status_code, ready.json()["reason"]) == (503, "stuck")
        assert server.get("/livez").status_code == 200
        began = time.monotonic()
        assert embed(server, "a").status_code == 503
        assert time.monotonic() - began < 5, "the answer waited for the device"
        assert server.metric("honeclip_worker_up") == 0
    faults.hold.set()
    until(lambda: server.get("/readyz").status_code == 200)
    faults.hold = None
    assert embed(server, image(picture(1))).status_code == 200
    assert server.deaths == []


def test_a_batch_that_never_returns_ends_the_process(serve, faults):
    server = serve(faults=faults, stuck_s=0.3, exit_s=1)
    faults.hold = threading.Event()
    assert embed(server, "a").status_code == 503
    until(lambda: server.codes == [EXIT_STUCK])
    assert server.deaths == [], "the process was ended before the server had answered and closed"


def test_where_the_server_does_not_end_by_itself_the_process_is_ended(serve, faults, monkeypatch):
    monkeypatch.setattr(engines, "LAST_S", 0.2)
    server = serve(faults=faults, stuck_s=0.3, exit_s=1)
    monkeypatch.setattr(servers.Server, "on_tick", _never_ends)
    faults.hold = threading.Event()
    assert embed(server, "a").status_code == 503
    until(lambda: server.deaths == [EXIT_STUCK])
    monkeypatch.undo()  # from here on it may end


async def _never_ends(self, counter):
    return False


def test_the_queue_is_bounded_and_says_when_to_come_back(serve, faults):
    server = serve(faults=faults, stuck_s=20, queue_requests=4)
    faults.hold = threading.Event()
    with server.client() as client, ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(client.post, "/v1/embeddings", json={"input": f"number {n}"}) for n in range(12)]
        until(lambda: sum(one.done() for one in asked) == 8)
        full = [one.result() for one in asked if one.done()]
        assert {one.status_code for one in full} == {429}
        assert all(1 <= int(one.headers["retry-after"]) <= 60 for one in full)
        assert server.get("/readyz").json()["reason"] == "busy"
        faults.hold.set()
        assert sorted(one.result().status_code for one in asked) == [200] * 4 + [429] * 8
    assert server.metric("honeclip_rejected_total", reason="queue_full") == 8
    assert server.engine.requests == 0


def test_bytes_that_wait_are_bounded_too(serve, faults):
    server = serve(faults=faults, stuck_s=20, queue_bytes=20_000)
    faults.hold = threading.Event()
    with server.client() as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/v1/embeddings", json={"input": [image(picture(1)) for _ in range(1)]})
        assert faults.entered.wait(120)
        answer = embed(server, *(image(picture(seed)) for seed in range(10, 16)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_bytes")
        faults.hold.set()
        assert first.result().status_code == 200


def test_the_deadline_answers_and_frees_the_place(serve, faults):
    server = serve(faults=faults, stuck_s=60, deadline_s=5)
    assert embed(server, "a", **{"X-Request-Timeout": "soon"}).status_code == 400
    faults.hold = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(embed, server, image(picture(1)))
        assert faults.entered.wait(120)
        second = pool.submit(embed, server, image(picture(2)), **{"X-Request-Timeout": "2"})
        until(lambda: server.engine.facts()["queue"]["image"]["items"] == 1)
        assert second.result().status_code == 504
        until(lambda: server.engine.requests == 1)
        assert first.result().status_code == 504
        late = embed(server, image(picture(3)), **{"X-Request-Timeout": "100"})
        assert late.status_code == 504, "a client may only ask for less"
    assert server.engine.requests == 0
    faults.hold.set()
    faults.hold = None
    until(lambda: embed(server, image(picture(4))).status_code == 200)
    assert server.engine.facts()["dropped_items"] == 2, "what nobody waited for was computed"


def test_a_client_that_leaves_frees_its_place(serve, faults):
    import httpx

    server = serve(faults=faults, stuck_s=20)
    faults.hold = threading.Event()
    with server.client(timeout=httpx.Timeout(10, read=0.3)) as client:
        for seed in (1, 2):
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/embeddings", json={"input": [image(picture(seed))]})
    until(lambda: server.engine.requests == 0)
    until(lambda: server.metric("honeclip_cancelled_total") == 2)
    faults.hold.set()
    faults.hold = None
    assert embed(server, image(picture(3))).status_code == 200
    until(lambda: server.metric("honeclip_requests_total", route="/v1/embeddings", status="499") == 2)


def test_who_asked_for_the_same_is_not_hurt_by_one_who_leaves(serve, faults):
    import httpx

    server = serve(faults=faults, stuck_s=20)
    faults.hold = threading.Event()
    body = {"input": [image(picture(1))]}
    with ThreadPoolExecutor(1) as pool, server.client(timeout=httpx.Timeout(10, read=3)) as impatient:
        leader = pool.submit(impatient.post, "/v1/embeddings", json=body)
        assert faults.entered.wait(120)
        with ThreadPoolExecutor(1) as other:
            follower = other.submit(server.post, "/v1/embeddings", json=body)
            until(lambda: server.guard.active == 2)
            with pytest.raises(httpx.ReadTimeout):
                leader.result()
            until(lambda: server.guard.active == 1)
            faults.hold.set()
            assert follower.result().status_code == 200


def test_a_large_request_does_not_hold_up_a_small_one(server, faults):
    faults.hold = threading.Event()
    server.engine._worker.seconds_a_row["text"] = 0.01  # a fast model: 600 texts fit into half of the deadline
    with ThreadPoolExecutor(3) as pool:
        blocked = pool.submit(embed, server, "number 59")
        assert faults.entered.wait(120)
        large = pool.submit(embed, server, *(f"number {one} , a red" for one in range(600)))
        until(lambda: server.engine.facts()["queue"]["text"]["items"] == 600)
        small = pool.submit(embed, server, "a blue bar")
        until(lambda: server.engine.facts()["queue"]["text"]["items"] == 601)
        faults.calls.clear()
        faults.hold.set()
        assert small.result().status_code == 200
        computed = sum(rows for _, rows in list(faults.calls))
        assert {blocked.result().status_code, large.result().status_code} == {200}
    assert computed < 600


@pytest.mark.parametrize("works", [True, False])
def test_draining_finishes_what_was_admitted(serve, faults, works):
    server = serve(faults=faults, stuck_s=20, drain_s=5 if works else 0.5)
    faults.hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(embed, server, image(picture(1)))
        assert faults.entered.wait(120)
        server.server.drain()
        assert server.get("/readyz").json()["reason"] == "draining"
        refused = embed(server, "a")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        if works:
            faults.hold.set()
            assert asked.result().status_code == 200
            server.thread.join(20)
            assert server.codes == [0]
        else:
            assert asked.exception(30) is not None or asked.result().status_code in (500, 503)
            server.thread.join(30)
            assert server.codes == [EXIT_STUCK]
            faults.hold.set()


def test_every_item_is_counted(server, faults):
    assert embed(server, *map(image, map(picture, range(5))), "a", "number").status_code == 200
    assert server.metric("honeclip_items_total", modality="image") == 5
    assert server.metric("honeclip_items_total", modality="text") == 2
    assert sum(rows for kind, rows in faults.calls if kind == "image") == 5
