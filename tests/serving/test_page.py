"""The live page in a real browser, against a server that was started as a stranger starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_server import images

READY = re.compile(r"ready .* at (http://\S+)")
UNTIL_MS = 30_000


@pytest.fixture(scope="module")
def address(model: Path, session_home: Path, tmp_path_factory) -> Iterator[str]:
    """Where `honeclip serve` listens; the process ends with 0 after SIGTERM."""
    said = tmp_path_factory.mktemp("serve") / "said"
    with said.open("w") as out:
        command = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "honeclip",
            "serve",
            str(model),
            "--port",
            "0",
            "--device",
            "cpu",
        ]
        environment = {**os.environ, "HONECLIP_HOME": str(session_home), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        lines = []
        for line in process.stderr:
            lines.append(line)
            out.write(line)
            if found := READY.search(line):
                break
        else:
            raise AssertionError("".join(lines))
        yield found[1]
        process.terminate()
        rest = process.communicate(timeout=60)[1]
    assert process.returncode == 0, rest
    assert "Warning" not in rest
    assert "Traceback" not in rest


def shown(page: Any, figure: str) -> str:
    text: str = page.locator(f'[data-figure="{figure}"]').inner_text()
    return text


def test_the_numbers_move_under_load_and_agree_with_the_metrics(address, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    failed: list[str] = []
    page.on("requestfailed", lambda one: failed.append(one.url))
    page.on("pageerror", lambda one: failed.append(str(one)))
    # nothing may come from elsewhere: the page has to work without a network
    page.on(
        "request", lambda one: None if one.url.startswith((address, "data:", "ws", "blob:")) else failed.append(one.url)
    )
    page.goto(f"{address}/dashboard")
    page.wait_for_function("document.querySelector('[data-figure=answered]').innerText === '0'", timeout=UNTIL_MS)
    with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
        for number in range(20):
            body = {"images": images(number), "texts": [f"text {number}", "the same"]}
            assert client.post("/v1/similarity", json=body).status_code == 200
        for _ in range(3):
            assert client.post("/v1/similarity", json={"images": ["AAAA"], "texts": ["a"]}).status_code == 400
        page.wait_for_function("document.querySelector('[data-figure=answered]').innerText === '23'", timeout=UNTIL_MS)
        said = client.get("/metrics").text
    sample = lambda start: sum(float(line.split()[-1]) for line in said.splitlines() if line.startswith(start))  # noqa: E731
    assert sample('honeclip_requests_total{route="/v1/similarity"') == 23
    assert sample('honeclip_items_total{modality="image"}') == 20
    assert float(shown(page, "requests")) > 0
    assert float(shown(page, "images")) > 0
    hit, miss = (sample(f'honeclip_cache_requests_total{{result="{one}"}}') for one in ("hit", "miss"))
    assert shown(page, "hits") == f"{hit / (hit + miss):.0%}"
    assert re.fullmatch(r"\d+ ms", shown(page, "p95"))
    rows = page.locator("tbody tr").all_inner_texts()
    assert any(re.split(r"\s+", row.strip())[:5] == ["/v1/similarity", "23", "20", "3", "0"] for row in rows), rows
    assert any(row.split() == ["item", "3"] for row in rows), rows
    assert page.locator("canvas").count() == 6
    assert not failed


def test_a_narrow_screen_needs_no_scrolling_sideways(address, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.goto(f"{address}/dashboard")
    page.wait_for_selector("canvas", timeout=UNTIL_MS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
