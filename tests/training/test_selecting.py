"""A domain's own selection score decides in a run: which checkpoint is BEST, when it stops, what the report begins with."""

from __future__ import annotations

import json

import pytest

from honeclip.checkpoint.save import named
from honeclip.evaluation.selection import selection_score
from honeclip.monitoring import events

WEIGHTS = {"accuracy": 1.0, "median_rank": 3.0}


@pytest.fixture
def field(tmp_path):
    """A domain with weights, as a file."""
    file = tmp_path / "field.toml"
    table = "\n".join(f"{name} = {weight}" for name, weight in WEIGHTS.items())
    file.write_text(
        f'title = "Shapes"\ntemplates = ["a {{label}}"]\nselection = "metrics"\n[metrics]\n{table}\n', encoding="utf-8"
    )
    return str(file)


def test_best_early_stopping_and_the_report_follow_a_domains_metrics(quick, field, tmp_path):
    run = quick(
        page=True,
        domain=field,
        train={"length": 30, "patience": 2, "lr": 1e-2},
        evaluate={"every": 1},
        checkpoint={"every": 1, "keep_last": 40},
    )
    seen = [one for one in events.read(tmp_path / "run" / "events.jsonl") if one["event"] == "evaluation"]
    words = "weighted mean of zero-shot accuracy (1) and 1 / median rank (3)"
    for one in seen:
        assert (one["score"], one["words"]) == (
            pytest.approx(selection_score(one["metrics"], "metrics", WEIGHTS)[0]),
            words,
        )
    scores = [one["score"] for one in seen[1:]]  # what the model had at the start is no checkpoint
    best = scores.index(max(scores)) + 1
    assert named(tmp_path / "run" / "checkpoints", "BEST") == f"step-{best:06d}"
    assert run.steps == best + 2 < 30, "two evaluations without a better score end it"
    by_default = [selection_score(one["metrics"], "auto")[0] for one in seen[1:]]
    assert by_default != scores

    stored = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert set(stored["difference"]["selection"]) == {"score"}
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert '<p class="verdict">Weighted mean of zero-shot accuracy (1) and 1 / median rank (3) ' in page
