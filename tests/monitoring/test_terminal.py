"""Progress: a bar that disappears on a terminal, few plain lines in a log, never a word on standard output."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from honeclip.monitoring.terminal import Progress, duration


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def watched(terminal: bool, **more) -> tuple[Progress, io.StringIO, Clock]:
    file, clock = io.StringIO(), Clock()
    console = Console(file=file, force_terminal=terminal, width=120)
    return Progress(console, clock=clock, **more), file, clock


def train(progress: Progress, clock: Clock, steps: int, seconds: float, first: int = 1) -> None:
    for number in range(first, steps + 1):
        clock.now += seconds
        progress.step(number, steps, loss=5.0 / number, samples_per_second=85.4, memory_bytes=1_230_000_000)


def test_a_log_gets_the_first_the_last_and_about_ten_lines_between():
    progress, file, clock = watched(terminal=False)
    with progress:
        train(progress, clock, steps=200, seconds=0.5)
    lines = file.getvalue().splitlines()
    assert lines[0] == "training 1/200, loss 5, 85.4 samples/s, 1.23 GB"
    assert lines[-1] == "training 200/200, loss 0.025, 85.4 samples/s, 1.23 GB"
    assert 10 <= len(lines) <= 12
    assert "training 101/200, loss 0.0495, 85.4 samples/s, 1.23 GB, 50 s left" in lines
    assert "\x1b" not in file.getvalue()


def test_memory_stands_against_the_budget_and_the_best_score_beside_it_once_they_are_known():
    progress, file, clock = watched(terminal=False)
    figures = {"loss": 2.0, "samples_per_second": 85.4, "memory_bytes": 1_230_000_000, "budget_bytes": 6_000_000_000}
    with progress:
        progress.step(1, 2, **figures)
        clock.now += 2.0
        progress.step(2, 2, **figures, best=0.4271)
    assert file.getvalue().splitlines() == [
        "training 1/2, loss 2, 85.4 samples/s, 1.23 of 6 GB",
        "training 2/2, loss 2, 85.4 samples/s, 1.23 of 6 GB, best 0.427",
    ]


def test_the_newest_checkpoint_stands_beside_the_steps_with_its_size_and_time():
    progress, file, clock = watched(terminal=False)
    figures = {"loss": 2.0, "samples_per_second": 85.4, "memory_bytes": 1_230_000_000}
    with progress:
        progress.step(1, 2, **figures)
        progress.saved(1, 316_200_000, 1.234)
        clock.now += 2.0
        progress.step(2, 2, **figures, best=0.4271)
    assert file.getvalue().splitlines() == [
        "training 1/2, loss 2, 85.4 samples/s, 1.23 GB",
        "training 2/2, loss 2, 85.4 samples/s, 1.23 GB, best 0.427, saved at 1 (316 MB in 1.2 s)",
    ]


def test_a_log_of_slow_steps_gets_a_line_every_so_many_seconds():
    progress, file, clock = watched(terminal=False, every_s=30.0)
    with progress:
        train(progress, clock, steps=100, seconds=20.0)
    assert len(file.getvalue().splitlines()) in range(50, 53), "every second step"


def test_time_left_counts_from_where_this_process_began():
    progress, file, clock = watched(terminal=False)
    with progress:
        train(progress, clock, steps=100, seconds=2.0, first=91)
    lines = file.getvalue().splitlines()
    assert "left" not in lines[0], "one step says nothing of the speed"
    progress.step(95, 100, loss=1.0, samples_per_second=1.0, memory_bytes=0)
    clock.now += 2.0
    progress.update("training", 96, 100)
    assert lines[-1].startswith("training 100/100")


def test_a_terminal_gets_a_bar_with_all_figures_and_a_clean_screen_after():
    progress, file, clock = watched(terminal=True)
    with progress:
        train(progress, clock, steps=10, seconds=1.0, first=1)
        shown = file.getvalue()
    for part in ("training", "5/10", "loss 1,", "85.4 samples/s", "1.23 GB", "5 s left"):
        assert part in shown, part
    assert file.getvalue().rstrip().endswith(("\x1b[2K", "\x1b[?25h")), (
        "the last thing is: erase the line, show the cursor"
    )


def test_what_is_said_stays_and_is_taken_word_for_word(capsys):
    for terminal in (False, True):
        progress, file, _ = watched(terminal)
        with progress:
            progress.update("features", 1, 2)
            progress.say("batch lowered to 120 [all rows] 100%")
        assert "batch lowered to 120 [all rows] 100%\n" in file.getvalue()
    assert capsys.readouterr() == ("", "")


def test_counters_of_several_works_run_side_by_side_and_again():
    progress, file, clock = watched(terminal=False)
    images, texts = progress.counter("image features"), progress.counter("text features")
    with progress:
        for done in (10, 20):
            clock.now += 1
            images(done, 20)
            texts(done, 40)
        images(5, 20)
    assert file.getvalue().splitlines() == [
        "image features 10/20",
        "text features 10/40",
        "image features 20/20",
        "text features 20/40, 2 s left",
        "image features 5/20",
    ]


def test_standard_error_is_the_default(capsys):
    with Progress() as progress:
        progress.update("features", 1, 1)
    assert capsys.readouterr() == ("", "features 1/1\n")


def test_an_error_inside_leaves_the_terminal_whole():
    progress, file, _ = watched(terminal=True)

    def work() -> None:
        with progress:
            progress.update("features", 1, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert "\x1b[?25h" in file.getvalue(), "the cursor is shown again"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (47 * 3600, "47 h 00 min"),
        (71 * 3600, "2 days"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
