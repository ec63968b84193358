"""How long a run is, how much it sees at once, and when it ends early."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from honeclip import config as configs
from honeclip.config import Train
from honeclip.monitoring import events
from honeclip.training import asked, planning, prepared, session, setup
from honeclip.training.state import Position
from honeclip.training.validation import Score, judge


def steps(result) -> list[dict]:
    return [one for one in events.read(result.folder / "events.jsonl") if one["event"] == "step"]


def scores(result) -> list[dict]:
    return [one for one in events.read(result.folder / "events.jsonl") if one["event"] == "evaluation"]


@pytest.mark.parametrize(
    ("length", "batch", "expected"),
    [(4, 8, 4), ("2 epochs", 8, 6), ("1.5 epochs", 24, 2), ("2 epochs", 7, 7), ("1 epoch", 1000, 1)],
)
def test_a_length_in_steps_and_in_epochs(length, batch, expected, quick):
    result = quick(train={"length": length, "batch": batch}, evaluate={"every": 0})
    assert result.steps == expected
    assert [one["step"] for one in steps(result)] == list(range(1, expected + 1))


@pytest.mark.parametrize(
    ("rows", "batch", "heads_only", "expected"),
    [
        (100, 100, False, 60),  # never under sixty steps
        (100, 100, True, 100),  # or a hundred of milliseconds
        (2560, 256, False, 100),  # ten times through the data
        (2561, 256, True, 101),
        (24, 8, False, 60),
    ],
)
def test_a_length_of_its_own_is_enough_for_the_data(rows, batch, heads_only, expected):
    assert planning.total_steps(Train(), rows, batch, None, heads_only) == expected


def test_a_length_in_minutes_follows_from_a_step_that_was_timed_and_stays_when_resumed(quick, monkeypatch):
    """The clock is a script: half a second a step, a tenth of which is reserve."""
    monkeypatch.setattr(setup, "seconds_per_step", lambda *_: 0.45)
    assert quick(train={"length": "0.05 min"}, evaluate={"every": 3}, checkpoint={"every": 2}).steps == 6
    monkeypatch.setattr(setup, "seconds_per_step", lambda *_: 0.9)
    assert quick(resume=True, sets=["train.length=0.05 min"]).steps == 6, "finished"
    assert quick(resume=True, sets=["train.length=0.15 min"]).steps == 9


def test_a_step_is_really_timed_and_teaches_nothing(quick, tmp_path):
    """Two runs of as many steps, one of which was timed before: the same losses."""
    timed = quick(train={"length": 2, "warmup": "0.0001 min"}, evaluate={"every": 0}, out=tmp_path / "timed")
    plain = quick(train={"length": 2, "warmup": 1}, evaluate={"every": 0}, out=tmp_path / "plain")
    assert [one["loss"] for one in steps(timed)] == [one["loss"] for one in steps(plain)]


def test_evaluations_and_saves_come_as_often_as_asked(quick):
    result = quick(train={"length": 6}, evaluate={"every": "50%"}, checkpoint={"every": 4, "keep_last": 9})
    assert [one["step"] for one in scores(result)] == [0, 3, 6]
    kept = sorted(path.name for path in (result.folder / "checkpoints").glob("step-*"))
    assert set(kept) >= {"step-000004", "step-000006"}


def test_evaluations_oftener_than_never_but_longer_than_the_run_do_not_happen(quick):
    result = quick(train={"length": 3}, evaluate={"every": 100})
    assert scores(result) == []
    assert not (result.folder / "checkpoints" / "BEST").exists()
    assert result.after["split"] == "test"


def test_saves_by_a_share_of_the_run_are_not_oftener_than_every_minute(quick, monkeypatch):
    given = {"evaluate": {"every": 0}, "checkpoint": {"every": "20%", "keep_last": 9}}
    rare = quick(train={"length": 5}, **given)
    assert [path.name for path in (rare.folder / "checkpoints").glob("step-*")] == ["step-000005"]
    monkeypatch.setattr(session, "SAVE_SHARE_S", 0.0)
    often = quick(train={"length": 5}, overwrite=True, **given)
    assert len(list((often.folder / "checkpoints").glob("step-*"))) == 5


def test_a_batch_larger_than_the_data_is_lowered_and_said(quick):
    result = quick(train={"batch": 512, "length": 2})
    assert "the batch of 512 is lowered to the 24 rows of the train split" in quick.said
    assert {one["micro_batch"] for one in steps(result)} == {24}


def test_patience_ends_a_run_early_and_resuming_it_adds_nothing(quick):
    """At this rate nothing moves, so the first evaluation is the best one and two more are worse or equal."""
    given = {"train": {"length": 40, "lr": 1e-12, "patience": 2}, "evaluate": {"every": 1}}
    result = quick(**given)
    assert result.steps == 3
    assert [one["step"] for one in scores(result)] == [0, 1, 2, 3]
    assert "ended after step 3: 2 evaluations without a better score" in quick.said
    (result.folder / "result.json").unlink()  # as if it had been killed while the end was written
    assert quick(resume=True).steps == 3
    assert len(steps(result)) == 3


def test_a_score_below_the_start_is_said_at_once(quick, monkeypatch):
    """A rate that destroys the model: whatever it knew by chance, or not, the first score is compared with the start."""
    found = iter([0.75, 0.5, 0.8])
    monkeypatch.setattr(session, "measure", lambda *_, **__: Score(next(found), "mean of both R@1", {}))
    quick(train={"length": 2}, evaluate={"every": 1})
    said = [text for text in quick.said if "on val is" in text]
    assert said == ["step 1: mean of both R@1 on val is 0.500, below the 0.750 that the model had at the start"]


def test_judgement_of_scores():
    start = Position(3, 10, start_score=0.5)
    first, best, said = judge(start, Score(0.4, "R", {}))
    assert (best, first.best_score, first.worse) == (True, 0.4, 0)
    assert "below the 0.500" in said
    worse, best, _ = judge(first, Score(0.4, "R", {}))
    assert (best, worse.worse, worse.best_score) == (False, 1, 0.4), "equal is not better"
    better, best, said = judge(worse, Score(0.6, "R", {}))
    assert (best, better.worse, better.best_score, said) == (True, 0, 0.6, "")
    unscored, best, said = judge(Position(1, 10), Score(0.1, "R", {}))
    assert (best, said, unscored.best_score) == (True, "", 0.1)


def test_the_best_checkpoint_is_handed_over_not_the_last(quick, monkeypatch):
    found = iter([0.1, 0.9, 0.2, 0.3])
    monkeypatch.setattr(session, "measure", lambda *_, **__: Score(next(found), "R", {}))
    result = quick(train={"length": 3, "lr": 1e-2}, evaluate={"every": 1})
    folder = result.folder / "checkpoints"
    assert [(folder / name).read_text().strip() for name in ("BEST", "LATEST")] == ["step-000001", "step-000003"]
    assert {"step-000001", "step-000002", "step-000003"} == {path.name for path in folder.glob("step-*")}
    assert "checkpoint step-000001" in (result.model_folder / "README.md").read_text()


def test_without_keeping_the_best_the_last_is_handed_over(quick):
    result = quick(train={"length": 3}, evaluate={"every": 1}, sets=["checkpoint.keep_best=false"])
    assert not (result.folder / "checkpoints" / "BEST").exists()
    assert "checkpoint step-000003" in (result.model_folder / "README.md").read_text()


def test_a_set_without_val_is_trained_without_looking_and_without_test_is_not_scored(quick, tmp_path, monkeypatch):
    """A manifest's own split column always gives all three, so rows are taken away afterwards."""
    real = prepared.pairs.load

    def only_train(*arguments, **options):
        everything = real(*arguments, **options)
        return everything.select([row for row, split in enumerate(everything.splits) if split == "train"])

    monkeypatch.setattr(prepared.pairs, "load", only_train)
    result = quick(page=True)
    assert (result.before, result.after) == ({}, {})
    assert scores(result) == []
    assert not (result.folder / "report").exists()
    assert "no test split, so nothing was scored" in (result.model_folder / "README.md").read_text()
    assert isinstance(result.to_json()["after"], dict)


def test_the_start_is_scored_once_and_kept_for_a_resumed_run(quick, tmp_path, monkeypatch):
    quick(train={"length": 2}, out=tmp_path / "run")
    real, scored = asked.score, []
    monkeypatch.setattr(asked, "score", lambda *given, **named: scored.append(named["split"]) or real(*given, **named))
    result = quick(resume=True, out=tmp_path / "run", sets=["train.length=3"])
    assert scored.count("test") == 1, "the end is scored, and the start is not scored again"
    assert result.steps == 3
    assert result.before["split"] == "test"


@pytest.mark.parametrize(
    ("wanted", "kind", "expected"), [("auto", "cpu", {0}), ("auto", "gpu", set(range(1, 9))), (3, "cpu", {3})]
)
def test_decoding_processes_are_as_asked_and_none_on_a_cpu(wanted, kind, expected):
    """On a CPU the model needs the cores, and threads decode."""
    found = SimpleNamespace(
        config=configs.load(values={"data": {"workers": wanted}}), device=SimpleNamespace(type=kind)
    )
    assert setup.workers(found) in expected
