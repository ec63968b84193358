"""The dashboard in a real browser, against `honeclip watch` as a stranger starts it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import made_runs
import pytest
import tiny_runs

from honeclip.monitoring.events import EventLog

OPEN = re.compile(r"^open (http://\S+)$", re.MULTILINE)
UNTIL_MS = 60_000
SICK = Path(__file__).parent / "sick"


class Dashboard:
    """A `honeclip watch` that runs."""

    def __init__(self, home: Path, *arguments: str | Path) -> None:
        command = [sys.executable, "-W", "error", "-m", "honeclip", "watch", *map(str, arguments)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=tiny_runs.environment(home))
        self.said = ""
        for line in self.process.stderr:
            self.said += line
            if found := OPEN.search(line):
                self.address = found[1]
                break
        else:
            raise AssertionError(self.said)
        self.listener = threading.Thread(target=self._listen)
        self.listener.start()

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.said += line

    def stop(self, by: int = signal.SIGTERM) -> int:
        self.process.send_signal(by)
        code = self.process.wait(60)
        self.listener.join()
        self.process.stderr.close()
        assert "Traceback" not in self.said
        assert "Warning" not in self.said
        return code


@pytest.fixture
def watch(session_home) -> Iterator[Callable[..., Dashboard]]:
    """watch(RUN, "--port", "0") -> a dashboard, which has to end with 143 after SIGTERM."""
    started: list[Dashboard] = []

    def start(*arguments: str | Path) -> Dashboard:
        started.append(Dashboard(session_home, *arguments))
        return started[-1]

    yield start
    codes = [one.stop() for one in started if one.process.poll() is None]
    assert set(codes) <= {143}, [one.said for one in started]


@pytest.fixture
def opened(browser) -> Iterator[Callable[..., Any]]:
    """opened(address) -> a page; nothing may go wrong on it or come from elsewhere until the test ends."""
    pages, wrong = [], []

    def open_(address: str, width: int = 1600, scheme: str = "light") -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        root = address.split("?")[0].rstrip("/")
        page.on("console", lambda one: wrong.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda one: wrong.append(str(one)))
        page.on("requestfailed", lambda one: wrong.append(one.url))
        mine = (root, root.replace("http", "ws"), "data:", "blob:")
        page.on("request", lambda one: None if one.url.startswith(mine) else wrong.append(one.url))
        page.goto(address)
        pages.append(page)
        page.wait_for_selector('[data-figure="step"]', timeout=UNTIL_MS)
        return page

    yield open_
    for page in pages:
        page.close()
    assert not wrong


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[Path, list[tuple[str, str]]]:
    """A data folder, and its files with their captions."""
    folder = tiny_runs.draw(tmp_path_factory.mktemp("data") / "shapes", 6)
    rows = (folder / "pairs.csv").read_text().splitlines()[1:]
    return folder, [(row.split(",")[0], row.split('"')[1]) for row in rows]


def figure(page: Any, name: str) -> str:
    return page.locator(f'[data-figure="{name}"]').inner_text()


def until(page: Any, name: str, text: str) -> None:
    """Waits until a figure of the page is a text."""
    known = f"""document.querySelector('[data-figure="{name}"]').innerText === {json.dumps(text)}"""
    page.wait_for_function(known, timeout=UNTIL_MS)


def titles(page: Any) -> list[str]:
    """The charts that are shown."""
    return page.evaluate(
        "[...document.querySelectorAll('[data-chart]')].filter(e => e.offsetParent).map(e => e.dataset.chart)"
    )


def points(page: Any, title: str) -> dict[str, list[list[float]]]:
    """What a chart draws: the data of its series, the last of each name."""
    code = """title => {
        const element = getElement(+document.querySelector(`[data-chart="${title}"]`).id.slice(1));
        return Object.fromEntries(element.chart.getOption().series.map(one => [one.name, one.data]));
    }"""
    return page.evaluate(code, title)


def until_drawn(page: Any, title: str, name: str, count: int) -> list[list[float]]:
    """Waits until a curve has so many points: figures come at once, curves as often as drawing them takes little time."""
    code = """([title, name, count]) => {
        const element = getElement(+document.querySelector(`[data-chart="${title}"]`).id.slice(1));
        return element.chart?.getOption()?.series.some(one => one.name === name && one.data.length === count);
    }"""
    page.wait_for_function(code, arg=[title, name, count], timeout=UNTIL_MS)
    return points(page, title)[name]


def read_until(lines: Any, is_it: Callable[[str], Any]) -> Iterator[str]:
    """Lines up to and with the first one that is it."""
    for line in lines:
        yield line
        if is_it(line):
            return
    raise AssertionError("the line never came")


def test_a_made_run_shows_everything_that_its_events_hold(watch, opened, pictures, tmp_path):
    data, files = pictures
    run = made_runs.long_run(tmp_path / "run", 600, data, files)
    page = opened(watch(run, "--port", "0").address)
    until(page, "step", "600 / 600")
    assert figure(page, "memory") == "3.4 / 6 GB"
    assert figure(page, "busy") == "99%"
    assert figure(page, "micro") == "32"
    assert figure(page, "state") == "all steps are done, the report is not there yet"
    assert len(titles(page)) == 15
    assert [step for step, _ in until_drawn(page, "Loss", "run", 600)] == list(range(1, 601))
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    scores = [[one["step"], float(f"{one['score']:.5g}")] for one in events if one["event"] == "evaluation"]
    assert points(page, "Selection score on val")["run"] == scores
    memory = points(page, "Memory (GB)")
    assert memory["counts for the budget"][0] == [1, 2.6]
    assert memory["kept by the driver"][0] == pytest.approx([1, 4.1235 - 2.6])
    text = page.inner_text("body")
    assert "images at 224 px instead of 160 px: half of the steps are done" in text
    assert "10 evaluations took 2 min 05 s" in text
    assert files[0][1] in text
    shown = page.locator("[data-example] img")
    shown.first.wait_for()
    page.wait_for_function("[...document.querySelectorAll('[data-example] img')].every(one => one.naturalWidth > 0)")
    assert shown.count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_needs_no_scrolling_sideways(watch, opened, pictures, tmp_path, scheme):
    data, files = pictures
    run = made_runs.long_run(tmp_path / "a_run_with_rather_a_long_name_for_a_telephone", 50, data, files)
    page = opened(watch(run, "--port", "0").address, 375, scheme)
    until(page, "step", "50 / 50")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.slow
def test_a_new_event_moves_the_page_and_how_soon_is_printed(watch, opened, pictures, tmp_path):
    """Measured where it happens: the browser notes when its text changed, and both read one clock."""
    data, files = pictures
    run = made_runs.long_run(tmp_path / "run", 40, data, files)
    page = opened(watch(run, "--port", "0").address)
    until(page, "step", "40 / 40")
    page.evaluate(
        """() => { const seen = document.querySelector('[data-figure="step"]'); window.moved = [];
        new MutationObserver(() => moved.push(Date.now() / 1000)).observe(seen, {childList: true, subtree: true,
        characterData: true}); }"""
    )
    took = []
    log = EventLog(run / "events.jsonl")
    for step in range(41, 46):
        log.append("step", step=step, loss=1.0, lr=1e-3, samples_per_second=1.0, micro_batch=4, memory_bytes=5)
        written = time.time()
        until(page, "step", f"{step} / 40")
        took.append(page.evaluate("moved.at(-1)") - written)
    log.close()
    said = ", ".join(f"{1000 * one:.0f}" for one in took)
    print(f"new events were seen after {said} ms at a load of {os.getloadavg()[0]:.1f} (the aim is 2,000)")
    assert until_drawn(page, "Loss", "run", 45)[-1][0] == 45


def test_a_torn_line_and_a_run_that_is_begun_anew_are_followed(watch, opened, pictures, tmp_path):
    data, files = pictures
    run = made_runs.long_run(tmp_path / "run", 40, data, files)
    page = opened(watch(run, "--port", "0").address)
    until(page, "step", "40 / 40")
    with (run / "events.jsonl").open("a") as out:
        out.write('{"event": "step", "step": 41, "lo')
    log = EventLog(run / "events.jsonl")  # as a resume does: half a line is cut off, and the file goes on
    log.append("new_in_2030", step=40, spin="up")
    log.append("step", step=41, loss=1.0)
    until(page, "step", "41 / 40")
    page.get_by_text('{"spin": "up"}').wait_for(timeout=UNTIL_MS)
    log.truncate(0)
    log.append("begin", step=0, steps=7, device="cpu", precision="fp32")
    log.append("step", step=1, loss=2.0)
    log.close()
    until(page, "step", "1 / 7")
    assert until_drawn(page, "Loss", "run", 1) == [[1, 2.0]]


def test_a_copied_folder_says_that_its_pictures_are_elsewhere(watch, opened, pictures, tmp_path):
    data, files = pictures
    shutil.copytree(data, tmp_path / "gone")
    made = made_runs.long_run(tmp_path / "run", 20, tmp_path / "gone", files)
    shutil.copytree(made, tmp_path / "copy")
    shutil.rmtree(tmp_path / "gone")
    shutil.rmtree(made)
    page = opened(watch(tmp_path / "copy", "--port", "0").address)
    until(page, "step", "20 / 20")
    assert f"The pictures are not shown: {tmp_path / 'gone'} is not on this machine." in page.inner_text("body")
    assert page.locator("[data-example]").count() == 4
    assert page.locator("[data-example] img").count() == 0


def test_several_runs_share_the_charts_and_one_is_shown_in_detail(watch, opened, pictures, tmp_path):
    data, files = pictures
    runs = [made_runs.long_run(tmp_path / name / "run", steps, data, files) for name, steps in (("a", 30), ("b", 60))]
    page = opened(watch(*runs, "--port", "0").address)
    until(page, "step", "30 / 30")
    assert {name: len(data) for name, data in points(page, "Loss").items()} == {"a/run": 30, "b/run": 60}
    assert page.locator("tbody tr").first.inner_text().split()[0] == "a/run"
    page.get_by_label("one run in detail").click()
    page.get_by_role("option", name="b/run").click()
    until(page, "step", "60 / 60")


def test_what_looks_sick_is_said_of_each_run_with_what_to_try(watch, opened, pictures, tmp_path):
    data, files = pictures
    healthy = made_runs.long_run(tmp_path / "healthy", 60, data, files)
    (tmp_path / "sick").mkdir()
    shutil.copy(SICK / "overfitting.jsonl", tmp_path / "sick" / "events.jsonl")
    page = opened(watch(healthy, tmp_path / "sick", "--port", "0").address)
    findings = page.locator("[data-finding]")
    findings.first.wait_for(timeout=UNTIL_MS)
    said = findings.all_inner_texts()
    assert said[0].startswith("sick, overfitting: the score on val was 0.587 at step 248 and is 0.534")
    assert not [one for one in said if one.startswith("healthy")]
    assert "try: train.patience=3" in page.inner_text("body")


def test_outside_of_this_machine_the_token_is_needed(watch, pictures, tmp_path, opened):
    data, files = pictures
    run = made_runs.long_run(tmp_path / "run", 20, data, files)
    dashboard = watch(run, "--port", "0", "--host", "0.0.0.0")
    address, _, token = dashboard.address.partition("/?token=")
    address = f"http://127.0.0.1:{address.rpartition(':')[2]}"
    assert len(token) >= 32
    picture = f"/pictures/0?file={files[0][0]}"
    with httpx.Client(base_url=address, trust_env=False) as client:
        for path in (
            "/",
            "/?token=",
            f"/?token={token[:-1]}x",
            picture,
            "/_nicegui_ws/socket.io/?EIO=4&transport=polling",
        ):
            answer = client.get(path)
            assert (answer.status_code, "<html" in answer.text) == (401, False), path
            assert "set-cookie" not in answer.headers
        answer = client.get(f"/?token={token}")
        assert answer.status_code == 200
        assert "httponly" in answer.headers["set-cookie"].lower()
        assert client.get(picture).headers["content-type"] == "image/jpeg", "the cookie was sent"
        for other in ("../../etc/passwd", "/etc/passwd", "pairs.csv", "images/none.png", "\0", ""):
            assert client.get("/pictures/0", params={"file": other}).status_code == 404
        assert client.get("/pictures/7", params={"file": files[0][0]}).status_code == 404
        assert client.get("/", headers={"Origin": "http://evil.example"}).status_code == 403
    page = opened(f"{address}/?token={token}")
    until(page, "step", "20 / 20")


def test_without_a_token_only_names_of_this_machine_are_answered(watch, pictures, tmp_path):
    data, files = pictures
    address = watch(made_runs.long_run(tmp_path / "run", 2, data, files), "--port", "0").address
    assert "token" not in address
    assert httpx.get(address, trust_env=False).status_code == 200
    assert httpx.get(address, headers={"Host": "rebound.example"}, trust_env=False).status_code == 403


def test_a_port_in_use_gives_the_next_free_one_and_says_so(watch, pictures, tmp_path):
    data, files = pictures
    run = made_runs.long_run(tmp_path / "run", 2, data, files)
    first = watch(run, "--port", "0")
    port = int(first.address.rstrip("/").rpartition(":")[2])
    second = watch(run, "--port", port)
    other = int(second.address.rstrip("/").rpartition(":")[2])
    assert other > port
    assert f"port {port} is in use, so this is port {other}" in second.said
    assert second.stop(signal.SIGINT) == 130


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_follows_a_real_run_from_before_its_first_step_to_its_end(watch, opened, session_home, tmp_path):
    data = tiny_runs.draw(tmp_path / "shapes", 60, tiny_runs.ALL_SPLITS, labels=True)
    model = tiny_runs.model_folder(tmp_path / "model", tiny_runs.text_files(tmp_path / "text"))
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.toml").touch()  # where the run will be
    page = opened(watch(run, "--port", "0").address)
    assert titles(page) == []
    assert figure(page, "state") == "waiting for the first step"
    settings = [
        "train.length=900",
        "train.batch=16",
        "train.precision=fp32",
        "evaluate.every=225",
        "report.pictures=false",
    ]
    sets = [word for one in settings for word in ("--set", one)]
    command = [
        sys.executable,
        "-m",
        "honeclip",
        "fit",
        "--data",
        data,
        "--model",
        model,
        "--out",
        run,
        "--overwrite",
        *sets,
    ]
    environment = tiny_runs.environment(session_home)
    with subprocess.Popen(
        [*map(str, command), "--device", "cpu"], stderr=subprocess.PIPE, text=True, env=environment
    ) as fit:
        # a tenth of the steps is done: the run is held there until the page has shown it, however long that takes
        words = "".join(read_until(fit.stderr, lambda line: re.match(r"training \d{2,}/900", line)))
        fit.send_signal(signal.SIGSTOP)
        try:
            page.wait_for_function(
                """() => {
                    const shown = name => document.querySelector(`[data-figure="${name}"]`).innerText;
                    const [done, of] = shown('step').split(' / ');
                    return of === '900' && +done >= 90 && +done < 900 && shown('left') !== '-';
                }""",
                timeout=UNTIL_MS,
            )
            # a run that says nothing for a minute is said to be quiet, and a busy machine may take that long to draw
            assert re.fullmatch("training|no event for .*", figure(page, "state"))
        finally:
            fit.send_signal(signal.SIGCONT)
        words += fit.stderr.read()
    assert fit.returncode == 0, words
    until(page, "step", "900 / 900")
    until(page, "state", "finished")
    until_drawn(page, "Loss", "run", 900)
    until_drawn(page, "Selection score on val", "run", 5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_steps_are_painted_at_once_and_read_while_the_page_is_served(watch, opened, pictures, tmp_path):
    data, files = pictures
    run = made_runs.long_run(tmp_path / "run", 1_000_000, data, files)
    assert (run / "events.jsonl").stat().st_size <= 1_000_000 * 1024
    page = opened(watch(run, "--port", "0").address)
    until(page, "step", "1,000,000 / 1,000,000")
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    print(f"first paint after {painted:.0f} ms at a load of {os.getloadavg()[0]:.1f} (the aim is 3,000)")
    page.get_by_text("1,000,000 steps are drawn as").wait_for(timeout=5 * UNTIL_MS)
    assert 500 <= len(points(page, "Loss")["run"]) <= 1024
    assert 333_333 in [step for step, _ in points(page, "Gradient norm")["run"]], "the step of the spike is kept"
