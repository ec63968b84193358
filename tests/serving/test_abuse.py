"""A real server under the load of bench/serving/abuse.py, short: bad requests among good ones, faster than it can answer."""

from __future__ import annotations

import asyncio
import importlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from live_server import Faults

from honeclip.bench import clients, material

SCRIPTS = Path(__file__).parents[2] / "bench" / "serving"


@pytest.fixture
def abuse(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("abuse")


def test_good_answers_stay_right_among_bad_requests(serve, offline, abuse):
    server = serve(body_s=5.0, queue_requests=6, stuck_s=20)
    files = material.jpegs(None, 4)
    asked = abuse.Asked(clients.image_bodies(files), np.asarray(offline.encode_image(files)))
    seen = abuse.Seen()
    asyncio.run(abuse._storm(server.url, asked, 80, 1.5, seen))
    assert seen.wrong == []
    assert sum(seen.good.values()) + sum(seen.bad.values()) == 120
    assert seen.good["200"]
    assert set(seen.good) <= {"200", "429"}
    assert {name.split()[0] for name in seen.bad} == set(abuse.BAD_STATUS)
    assert server.get("/readyz").status_code == 200


def test_what_would_wait_past_the_deadline_is_refused_at_once(serve):
    faults = Faults()
    server = serve(faults=faults, stuck_s=20, deadline_s=30)
    server.engine._worker.seconds_a_row["text"] = 7.0  # as a slow machine would have measured
    faults.hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        # 28 s alone: one who would have to wait for nobody may always try
        first = pool.submit(server.post, "/v1/embeddings", json={"input": ["a red", "a blue", "red", "blue"]})
        assert faults.entered.wait(120)
        second = server.post("/v1/embeddings", json={"input": "a green circle"})
        faults.hold.set()
        assert first.result().status_code == 200
    assert (second.status_code, second.json()["error"]["code"]) == (429, "queue_wait")
    assert second.headers["retry-after"] == "28"
    assert server.metric("honeclip_rejected_total", reason="queue_wait") == 1
    server.engine._worker.seconds_a_row["text"] = 0.01
    assert server.post("/v1/embeddings", json={"input": "a green circle"}).status_code == 200
