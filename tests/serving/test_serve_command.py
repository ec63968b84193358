"""`honeclip serve` as a process: what it refuses to start with, what it says, and how it ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
import tiny_runs
from redis_server import running as redis_running


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "honeclip", "serve", *map(str, arguments)]


@contextmanager
def running(home: Path, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A process, its address, and what it said until it was ready."""
    process = subprocess.Popen(
        command(*arguments, "--port", 0, "--device", "cpu"),
        stderr=subprocess.PIPE,
        text=True,
        env=tiny_runs.environment(home),
    )
    said = ""
    try:
        while "try it" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield process, re.search(r"http://\S+:\d+", said)[0], said
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def refused(home: Path, *arguments: object) -> str:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=120, env=tiny_runs.environment(home)
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_it_says_where_it_is_and_sigterm_drains(model, session_home):
    with running(session_home, model) as (process, url, said):
        for stage in ("model ", "self-check", "warm-up", "batches", "ready", "/docs"):
            assert stage in said
        assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
        answer = httpx.post(f"{url}/v1/embeddings", json={"input": "a red circle"}, trust_env=False)
        assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_sigint_exits_as_the_shell_expects(model, session_home):
    with running(session_home, model) as (process, _, _said):
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_a_taken_port_is_named_before_anything_is_loaded(session_home):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = refused(session_home, "starter", "--port", taken.getsockname()[1])
    assert "Address already in use" in said
    assert "--port" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--host", "no.such.host.invalid"], "--api-key-file"),
        (["--host", "127.0.0.1", "--allow-url", "https://a.example/x"], "give a host name"),
        (["--cache-url", "http://a"], "redis://"),
        (["--api-key-file", "none"], "--api-key-file none"),
        (["--index", "none", "--port", "0"], "none"),
    ],
)
def test_what_cannot_be_is_refused(session_home, model, arguments, words):
    assert words in refused(session_home, model, *arguments)


@pytest.mark.slow
def test_a_source_that_is_not_there_is_refused(session_home):
    assert "nearest" in refused(session_home, "random:ViT-B-3", "--port", 0)


def test_a_second_signal_stops_at_once_and_says_what_was_cut_off(model, session_home):
    with running(session_home, model) as (process, url, _said):
        host, port = url.removeprefix("http://").split(":")
        with closing(socket.create_connection((host, int(port)))) as slow:
            head = ("POST /v1/embeddings HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 500", "Expect: 100-continue")
            slow.sendall("\r\n".join((*head, "Content-Type: application/json", "\r\n")).encode())
            assert slow.recv(12) == b"HTTP/1.1 100"  # from here on the request is being answered
            process.send_signal(signal.SIGTERM)
            while httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                pass  # until the first signal has been seen: it waits for the request that is half sent
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        said = process.stderr.read()
    assert "1 requests are cut off" in said
    assert "Traceback" not in said


@pytest.fixture
def redis(tmp_path):
    yield from redis_running(tmp_path)


def test_what_one_server_computed_another_finds_in_redis(model, session_home, redis):
    def asked(url: str) -> tuple[list[float], str]:
        answer = httpx.post(f"{url}/v1/embeddings", json={"input": "a red circle"}, trust_env=False)
        assert answer.status_code == 200
        return answer.json()["data"][0]["embedding"], httpx.get(f"{url}/metrics", trust_env=False).text

    with running(session_home, model, "--cache-url", redis.url) as (_process, url, _said):
        first, counted = asked(url)
        assert 'honeclip_items_total{modality="text"} 1.0' in counted
    with running(session_home, model, "--cache-url", redis.url) as (_process, url, _said):
        second, counted = asked(url)
        assert second == first
        assert 'honeclip_items_total{modality="text"} 1.0' not in counted, "it was computed again"
        redis.kill()
        answer = httpx.post(f"{url}/v1/embeddings", json={"input": "a green cross"}, trust_env=False, timeout=30)
        assert answer.status_code == 200, "without Redis a server is slower, never wrong"
