"""Threads that read, and what is said and asked while a file does not answer."""

from __future__ import annotations

import os

import pytest

from honeclip.data.reading import ASK_S, PATIENCE_S, Waiting, Watch, readers, waits


def test_results_come_in_order_and_errors_where_they_belong():
    with readers(3) as pool:
        assert list(pool.map(lambda number: number * number, range(50))) == [number * number for number in range(50)]
        good, bad = (pool.submit(int, text, text) for text in ("7", "seven"))
        assert pool.result(good) == 7
        with pytest.raises(ValueError, match="seven"):
            pool.result(bad)


def test_closing_waits_for_nobody_and_a_file_that_never_answers_holds_up_no_other(tmp_path):
    silent = tmp_path / "silent"
    os.mkfifo(silent)
    with readers(2) as pool:
        stuck = pool.submit(lambda path: os.close(os.open(path, os.O_RDONLY)), silent, str(silent))
        assert list(pool.map(str, range(20))) == [str(number) for number in range(20)]
    assert not stuck.done()
    os.close(os.open(silent, os.O_WRONLY))  # the reader comes free
    assert stuck.result(30) is None


def test_a_file_is_named_once_and_whoever_waits_is_asked_before():
    said, asked = [], []
    watch = Watch()
    with waits(Waiting(said.append, lambda: asked.append(1))):
        watch.look([("a.png", ASK_S - 1)])
        assert (said, asked) == ([], [])
        watch.look([("a.png", ASK_S)])
        assert (said, asked) == ([], [1])
        watch.look([("a.png", PATIENCE_S), ("b.png", 1.0)])
        watch.look([("a.png", PATIENCE_S + 1)])
    assert len(said) == 1
    assert said[0].startswith("a.png does not answer: it is being read for 15 s")
    assert len(asked) == 3


def test_who_asks_may_end_the_wait():
    def stop() -> None:
        raise KeyboardInterrupt

    with waits(Waiting(print, stop)), pytest.raises(KeyboardInterrupt):
        Watch().look([("a.png", ASK_S)])
