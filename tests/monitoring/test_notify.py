"""Notifications from a process of their own: to real servers, past those that hang or refuse, of runs that hang or are killed.

What is waited for is a message; no test waits for a time to pass.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apprise
import pytest
import receivers
import tiny_runs

from honeclip import notices
from honeclip.errors import BadInput, Interrupted
from honeclip.monitoring.events import EventLog
from honeclip.monitoring.notify import telling

EVERYTHING = ("first", "best", "plateau", "stalled", "memory", "failed", "interrupted", "done", "R@10>0.6")
PASSWORD = "pa55word"


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def http() -> Iterator[receivers.Received]:
    with receivers.http() as received:
        yield received


class Said:
    """What was said, as it is said in a thread of its own."""

    def __init__(self) -> None:
        self.sentences: queue.Queue[str] = queue.Queue()

    def __call__(self, text: str) -> None:
        self.sentences.put(text)

    def next(self) -> str:
        return self.sentences.get(timeout=receivers.WAIT_S)

    def rest(self) -> list[str]:
        return [self.sentences.get() for _ in range(self.sentences.qsize())]


@contextmanager
def run(file: Path, *urls: str, say: Callable[[str], None] = print, **more) -> Iterator[EventLog]:
    """Events written by a run of which the addresses are told."""
    more.setdefault("when", EVERYTHING)
    found = [(f"address {number}", url) for number, url in enumerate(urls)]
    with telling(file, "runs-a", found, say=say, **more), closing(EventLog(file)) as log:
        yield log


def evaluated(log: EventLog, step: int, score: float, best: bool = True) -> None:
    figures = {way: {"R@10": {"value": score}} for way in ("image_to_text", "text_to_image")}
    log.append(
        "evaluation", step=step, score=score, words="mean of both R@10", best=best, metrics={"retrieval": figures}
    )


def test_what_happens_is_told_over_http_while_the_run_goes_on_and_at_its_end(file, http):
    with run(file, f"json://me:{PASSWORD}@{http.address}/hook") as log:
        log.append("step", step=1)
        evaluated(log, 4, 0.7)
        first = http.next()  # the run has not ended
        log.append("end", status="done", words="R@10 rose from 0.1 to 0.7")
    last = http.next()
    assert (first["title"], first["type"], first["path"]) == ("honeclip, runs-a: R@10>0.6", "info", "/hook")
    assert first["authorization"].startswith("Basic ")
    assert first["message"].splitlines() == [
        "first evaluation, after step 4: mean of both R@10 on val is 0.700",
        "new best after step 4: mean of both R@10 on val is 0.700",
        "R@10>0.6 is reached after step 4: R@10 is 0.700 on val",
    ]
    assert (last["title"], last["type"]) == ("honeclip, runs-a: done", "success")
    assert last["message"] == "done after step 1: R@10 rose from 0.1 to 0.7"
    assert http.rest() == []


AUTH = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


@AUTH
def test_what_happens_is_told_by_mail(file):
    with receivers.smtp("me", PASSWORD) as mail:
        host, port = mail.address.split(":")
        options = "from=me@example.org&to=you@example.org&mode=insecure"
        with run(file, f"mailto://me:{PASSWORD}@{host}:{port}?smtp={host}&{options}") as log:
            log.append("end", status="failed", words="step 3: the loss is not finite")
        found = mail.next()
    assert (found["to"], found["title"]) == (["you@example.org"], "honeclip, runs-a: failed")
    assert "failed after step 0: step 3: the loss is not finite" in found["message"]


@AUTH
@pytest.mark.slow
def test_mail_with_a_wrong_password_is_said_once_without_it(file):
    said = Said()
    with receivers.smtp("me", "another") as mail:
        host, port = mail.address.split(":")
        url = f"mailto://me:{PASSWORD}@{host}:{port}?smtp={host}&from=a@example.org&to=b@example.org&mode=insecure&retry=0"
        with run(file, url, say=said) as log:
            log.append("end", status="done")
        assert mail.rest() == []
    assert said.rest() == ["address 0: the message was not taken. The run goes on; this is not said again"]


def test_only_what_is_asked_for_is_told(file, http):
    with run(file, f"json://{http.address}", when=("plateau", "done")) as log:
        for step in range(1, 8):
            evaluated(log, step, 0.7, best=step == 1)
        log.append("end", status="done")
    assert [line.split(",")[0] for line in http.next()["message"].splitlines()] == [
        "no better score in 3 evaluations",
        "done after step 0",
    ]
    assert http.rest() == []


def test_many_new_bests_at_once_are_one_line(file, http):
    with run(file, f"json://{http.address}", when=("best", "done")) as log:
        for step in range(1, 200):
            evaluated(log, step, step / 1000)
        log.append("end", status="done")
    messages = [http.next()]
    while not messages[-1]["message"].splitlines()[-1].startswith("done"):
        messages.append(http.next())
    assert len(messages) <= 2, "what happens within seconds comes together"
    assert "new best after step 199" in messages[-1]["message"]


def test_a_wrong_address_one_that_refuses_and_one_that_hangs_are_each_said_once_and_hold_up_nobody(file, http):
    said = Said()
    with receivers.silent() as silent, receivers.http() as refusing:
        refusing.status = 503
        urls = [
            f"nothing://me:{PASSWORD}@example.org",
            f"json://me:{PASSWORD}@{silent}/{PASSWORD}?rto=0.2&retry=0",
            f"json://me:{PASSWORD}@{refusing.address}/{PASSWORD}?retry=1&wait=0",
            f"json://{http.address}",
        ]
        with run(file, *urls, say=said, when=("best", "stalled", "done")) as log:
            evaluated(log, 1, 0.7)
            assert "new best after step 1" in http.next()["message"]
            sentences = sorted(said.next() for _ in range(3))
            log.append("end", status="done")
        assert "done after step 0" in http.next()["message"]
        assert refusing.messages.qsize() == 4, "two messages, each tried twice"
    assert [one[: one.index(".")] for one in sentences] == [
        "address 0: apprise knows no such address, or lacks what it needs for it; see docs/notifications",
        "address 1: the message was not taken",
        "address 2: the message was not taken, the answer is status 503",
    ]
    assert all("The run goes on; this is not said again" in one for one in sentences)
    assert PASSWORD not in "".join(sentences)
    assert said.rest() == []


@pytest.mark.parametrize("cut", [True, False])
def test_what_was_there_before_a_run_goes_on_is_not_told_again(cut, file, http):
    with closing(EventLog(file)) as log:
        log.append("step", step=1)
        evaluated(log, 2, 0.7)
        offset = log.offset
        evaluated(log, 4, 0.8)
        log.append("end", status="interrupted")
    with run(file, f"json://{http.address}") as log:
        if cut:
            log.truncate(offset)
            evaluated(log, 4, 0.8)  # as before: a resumed run repeats what its checkpoint does not know
        evaluated(log, 6, 0.9)
        log.append("end", status="done")
    lines = http.next()["message"].splitlines()
    assert [line.partition(":")[0] for line in lines] == ["new best after step 6", "done after step 1"]


def test_a_run_that_hangs_is_told_of_while_it_does(file, http):
    with run(file, f"json://{http.address}", when=("stalled",), stalled_least_s=0.2) as log:
        for step in range(1, 6):
            log.append("step", step=step, time=step / 100)
        found = http.next()  # this thread does nothing now, as one that hangs
        assert (found["title"], found["type"]) == ("honeclip, runs-a: stalled", "warning")
        assert "after step 5; a step took 0.01 s" in found["message"]
        log.append("step", step=6, time=0.06)
        assert "after step 6" in http.next()["message"]
        log.append("finishing", step=6)
    assert http.rest() == []


@pytest.mark.parametrize(
    ("error", "title", "words"),
    [
        (BadInput("no such size"), "failed", "failed after step 3: no such size"),
        (ZeroDivisionError("oops"), "failed", "failed after step 3: ZeroDivisionError: oops"),
        (Interrupted(15, "stopped and saved"), "interrupted", "interrupted after step 3: stopped and saved"),
    ],
)
def test_an_error_that_left_no_event_is_told_all_the_same(file, http, error, title, words):
    with pytest.raises(type(error)), run(file, f"json://{http.address}") as log:
        log.append("step", step=3)
        raise error
    found = http.next()
    assert (found["title"], found["message"]) == (f"honeclip, runs-a: {title}", words)
    assert http.rest() == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals the POSIX way")
def test_a_run_whose_process_is_killed_is_told_of(file, http, session_home):
    code = f"""
        import os, signal
        from pathlib import Path
        from honeclip.monitoring.events import EventLog
        from honeclip.monitoring.notify import telling

        file = Path({str(file)!r})
        with telling(file, "runs-a", [("here", "json://{http.address}")], ["failed"], print):
            EventLog(file).append("step", step=5)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=tiny_runs.environment(session_home), timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    found = http.next()
    assert found["title"] == "honeclip, runs-a: failed"
    assert found["message"].startswith("failed after step 5: its process ended without a word")


def test_no_address_means_no_process(file):
    with run(file), run(file, "json://127.0.0.1:1", when=()):
        pass
    # every other test has waited for its own
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.skipif(sys.platform == "win32", reason="programs the POSIX way")
def test_the_desktop_shows_title_and_text_whatever_is_in_them(file, tmp_path, monkeypatch):
    name = "osascript" if sys.platform == "darwin" else "notify-send"
    program = tmp_path / "bin" / name
    program.parent.mkdir()
    shown = tmp_path / "shown"
    program.write_text(f'#!/bin/sh\nfor one in "$@"; do printf "%s\\0" "$one"; done > {shown}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with run(file, "desktop://") as log:
        log.append("end", status="failed", words='a "quoted" $(word)\nand `more`')
    arguments = shown.read_text().split("\0")[:-1]
    assert arguments[-2:] == [
        "honeclip, runs-a: failed",
        'failed after step 0: a "quoted" $(word)\nand `more`',
    ]


def test_a_desktop_without_such_a_program_is_said_once(file, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = Said()
    with run(file, "desktop://", say=said) as log:
        log.append("end", status="done")
    assert "is not installed, which shows messages on a desktop" in said.next()
    assert said.rest() == []


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # by a plugin's library
def test_every_address_in_the_guide_is_one_that_apprise_knows():
    guide = Path(__file__).parents[2] / "docs" / "notifications.md"
    block = guide.read_text(encoding="utf-8").partition("## Whom")[2].split("```")[1].removeprefix("toml\n")
    urls = [url for url in tomllib.loads(block)["urls"] if url != "desktop://"]
    assert len(urls) > 4
    assert [url for url in urls if not apprise.Apprise().add(url)] == []


def test_every_moment_and_figure_is_in_the_guide():
    guide = (Path(__file__).parents[2] / "docs" / "notifications.md").read_text(encoding="utf-8")
    for name in (*notices.MOMENTS, *notices.BOTH, *notices.ZERO_SHOT, "score", "forgetting"):
        assert f"`{name}`" in guide, name
