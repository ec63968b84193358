"""The alert rules of docs/deploy: promtool's tests of them, and a real Prometheus that watches a server whose device hangs."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path

import httpx
import pytest
from live_server import Faults, images
from programs import needed

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy"
PATIENCE_S = 90.0


def test_rules_and_configuration_are_what_prometheus_takes(tmp_path: Path):
    promtool = needed("promtool")
    # the secret of the compose file is not there
    config = (DEPLOY / "prometheus.yml").read_text(encoding="utf-8").replace("/run/secrets/prometheus_key", "key")
    (tmp_path / "prometheus.yml").write_text(config, encoding="utf-8")
    (tmp_path / "key").write_text("secret", encoding="utf-8")
    (tmp_path / "honeclip.rules.yml").write_bytes((DEPLOY / "honeclip.rules.yml").read_bytes())
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", str(DEPLOY / "honeclip.rules.test.yml")]):
        done = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_in_which_it_fires():
    rules = (DEPLOY / "honeclip.rules.yml").read_text(encoding="utf-8")
    tests = (DEPLOY / "honeclip.rules.test.yml").read_text(encoding="utf-8")
    names = [line.split(":")[1].strip() for line in rules.splitlines() if line.strip().startswith("- alert:")]
    assert len(names) >= 8
    for name in names:
        assert f"alertname: {name}\n        exp_alerts:" in tests, f"no test in which {name} fires"


def test_every_metric_in_the_rules_is_one_that_the_server_has(serve):
    rules = (DEPLOY / "honeclip.rules.yml").read_text(encoding="utf-8")
    known = set(re.findall(r"^# TYPE (\S+)", serve().get("/metrics").text, re.MULTILINE))
    used = {word.removesuffix("_bucket") for word in re.findall(r"\bhoneclip_\w+", rules)}
    assert len(used) > 6
    assert used <= known


@pytest.fixture
def prometheus(tmp_path: Path):
    """prometheus(target) -> its address: a real one, that asks every second by the rules of docs/deploy."""
    running: list[subprocess.Popen[bytes]] = []

    def started(target: str) -> str:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(DEPLOY / "honeclip.rules.yml")],
            "scrape_configs": [{"job_name": "honeclip", "static_configs": [{"targets": [target]}]}],
        }
        (tmp_path / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
        port = _free_port()
        command = [
            needed("prometheus"),
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
        running.append(subprocess.Popen(command))
        return f"http://127.0.0.1:{port}"

    yield started
    for one in running:
        one.kill()
        one.wait()


def test_a_real_prometheus_fires_when_the_device_hangs(serve, prometheus):
    """The batch is held until the alert is there; the server meanwhile says of itself that it is stuck."""
    hold = threading.Event()
    server = serve(faults=Faults(), stuck_s=0.5)
    address = prometheus(urllib.parse.urlsplit(server.url).netloc)
    _until(lambda: _ask(address, "honeclip_worker_up == 1"), "Prometheus has not read the server")
    assert not _ask(address, 'ALERTS{alertname="HoneclipWorkerStuck"}')
    server.faults.hold = hold
    assert server.post("/v1/similarity", json={"images": images(1), "texts": ["a"]}).status_code == 503
    _until(
        lambda: _ask(address, 'ALERTS{alertname="HoneclipWorkerStuck", alertstate="firing"}'), "the alert did not fire"
    )
    hold.set()
    _until(
        lambda: not _ask(address, 'ALERTS{alertname="HoneclipWorkerStuck"}'),
        "the alert stayed after the device came back",
    )


def _ask(address: str, query: str) -> list[object]:
    try:
        answer = httpx.get(f"{address}/api/v1/query", params={"query": query}, timeout=5, trust_env=False)
    except httpx.TransportError:
        return []  # it has not begun to listen
    found: list[object] = answer.json()["data"]["result"] if answer.status_code == 200 else []
    return found


def _until(true, otherwise: str) -> None:
    """Asks until it is so: what is waited for is another program's clock."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, otherwise
        threading.Event().wait(0.2)


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
