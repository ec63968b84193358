"""A run that must not forget: a model that knows shapes learns wrong names of colours, and is held to what it knew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import tiny_runs
import torch
from safetensors.torch import load_file

import honeclip
from honeclip.checkpoint.save import named
from honeclip.errors import ConfigError, DataError, RunError
from honeclip.evaluation.selection import selection_score
from honeclip.monitoring import events
from honeclip.training.run import fit
from honeclip.tuning.study import tune

WEIGHTS = "open_clip_model.safetensors"
QUIET = {"device": "cpu", "report": lambda text: None}


def settings(known, limit, how="stop", **more):
    train = {"length": 6, "batch": 72, "lr": 1e-3, **more.pop("train", {})}
    guarded = {"every": 2, "forgetting_data": str(known), "max_forgetting": limit, "on_forgetting": how}
    return tiny_runs.settings(train=train, evaluate={**guarded, **more.pop("evaluate", {})}, **more)


@pytest.fixture(scope="module")
def free(known, renamed, knowing, tmp_path_factory) -> honeclip.Run:
    """A run that may forget everything, with its page."""
    out = tmp_path_factory.mktemp("free") / "run"
    return fit(data=renamed, out=out, model=knowing, config=settings(known, 1), **QUIET)


def evaluations(out: Path) -> list[dict]:
    return [one for one in events.read(out / "events.jsonl") if one["event"] == "evaluation"]


def score(metrics: dict) -> float:
    return selection_score(metrics, "auto")[0]


def test_the_other_set_is_scored_before_during_and_after(free, known, knowing):
    assert score(free.before["forgetting"]["known"]) > score(free.after["forgetting"]["known"]) + 0.1
    for got, model in ((free.before, knowing), (free.after, free.folder)):
        alone = honeclip.evaluate(str(model), known, domain="general", device="cpu").metrics
        assert got["forgetting"]["known"] == alone
    seen = evaluations(free.folder)
    assert [one["step"] for one in seen] == [0, 2, 4, 6]
    values = [score(one["metrics"]["forgetting"]["known"]) for one in seen]
    assert [one["forgetting"] for one in seen] == pytest.approx([values[0] - value for value in values])
    assert all(one["within"] for one in seen)


def test_the_report_holds_gain_and_loss_with_paired_intervals(free):
    stored = json.loads((free.folder / "report" / "report.json").read_text())
    assert stored["before"] == free.before
    assert stored["after"] == free.after
    assert stored["difference"]["forgetting"]["known"]["retrieval"]["image_to_text"]["R@1"]["value"] < 0
    for name, old, new in (
        ("renamed", free.before, free.after),
        ("known", free.before["forgetting"]["known"], free.after["forgetting"]["known"]),
    ):
        found = stored["selection"]["scores"][name]
        assert (found["before"]["value"], found["after"]["value"]) == (score(old), score(new))
        assert found["change"]["value"] == pytest.approx(score(new) - score(old))
        assert found["change"]["low"] <= found["change"]["value"] <= found["change"]["high"]
    page = (free.folder / "report" / "index.html").read_text()
    assert "Won here, lost elsewhere" in page
    assert "Gain and forgetting between start and end, on val" in page
    card = (free.folder / "model" / "README.md").read_text()
    assert "On 24 pairs of known, which it was not fine-tuned on" in card


def test_the_sweep_is_what_its_models_score_and_its_choice_follows_the_rule(free, known, renamed, knowing):
    found = json.loads((free.folder / "report" / "interpolation.json").read_text())
    points = found["points"]
    assert [one["alpha"] for one in points] == [round(0.1 * tenth, 1) for tenth in range(11)]
    for end, model in ((0, knowing), (10, free.folder)):
        for data, key in ((renamed, "score"), (known, "forgetting_score")):
            for split in ("val", "test"):
                alone = honeclip.evaluate(str(model), data, split=split, domain="general", device="cpu").metrics
                assert points[end][split][key]["value"] == score(alone), (end, split, key)
    gains = np.array([one["val"]["gain"]["value"] for one in points])
    lost = np.array([one["val"]["forgetting"]["value"] for one in points])
    keeps = [place for place in range(11) if gains[place] >= 0.95 * gains[-1] - 1e-9]
    least = min(lost[place] for place in keeps)
    best = max(gains[place] for place in keeps if lost[place] == least)
    first = next(place for place in keeps if lost[place] == least and gains[place] == best)
    assert found["chosen"] == points[first]["alpha"]
    test = points[first]["test"]
    alone = honeclip.evaluate(str(free.folder / "interpolated"), known, domain="general", device="cpu").metrics
    assert test["forgetting_score"]["value"] == score(alone)
    assert test["metrics"]["forgetting"]["known"] == alone


def test_the_interpolated_model_is_what_plain_torch_makes_of_the_two(free, knowing):
    alpha = json.loads((free.folder / "report" / "interpolation.json").read_text())["chosen"]
    start, end, found = (
        load_file(one / WEIGHTS) for one in (knowing / "model", free.folder / "model", free.folder / "interpolated")
    )
    assert start.keys() == end.keys() == found.keys()
    for name, value in found.items():
        plain = start[name].double() * (1 - alpha) + end[name].double() * alpha
        assert torch.allclose(value.double(), plain, atol=1e-6), name
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{free.folder / 'interpolated'}")
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = torch.nn.functional.normalize(model.encode_image(pixels), dim=-1)
    ours = honeclip.load(free.folder / "interpolated", device="cpu").encode_image(pixels)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_past_the_bound_the_run_ends_and_the_best_within_it_is_handed_over(
    free, known, renamed, knowing, quick, tmp_path
):
    """The bound lies between what is forgotten at steps 2 and 4 of the run that may forget everything."""
    seen = {one["step"]: one for one in evaluations(free.folder)}
    limit = (seen[2]["forgetting"] + seen[4]["forgetting"]) / 2
    assert seen[2]["forgetting"] < limit < seen[4]["forgetting"]
    out = tmp_path / "held"
    run = quick(data=renamed, model=knowing, out=out, **settings(known, limit))
    assert run.steps == 4
    assert [(one["step"], one["within"], one.get("best")) for one in evaluations(out)] == [
        (0, True, None),
        (2, True, True),
        (4, False, False),
    ]
    assert named(out / "checkpoints", "BEST") == "step-000002"
    assert "ended after step 4: too much is forgotten" in quick.said
    lost = seen[4]["forgetting"]
    assert any(
        f"was {score(seen[0]['metrics']['forgetting']['known']):.3f} at the start" in one for one in quick.said
    ), lost
    best = honeclip.load(out / "checkpoints" / "step-000002", device="cpu").model.state_dict()
    assert all(torch.equal(best[name], value) for name, value in load_file(out / "model" / WEIGHTS).items())
    assert quick(out=out, resume=True, sets=["train.length=20"]).steps == 4, "it does not go on past the bound"


def test_with_nothing_within_the_bound_the_model_is_the_one_that_it_began_with(
    known, renamed, knowing, quick, tmp_path
):
    out = tmp_path / "run"
    run = quick(data=renamed, model=knowing, out=out, page=True, **settings(known, 0, checkpoint={"keep_last": 1}))
    assert any(one.startswith("no evaluation kept within evaluate.max_forgetting") for one in quick.said)
    start = load_file(knowing / "model" / WEIGHTS)
    assert all(torch.equal(start[name], value) for name, value in load_file(out / "model" / WEIGHTS).items())
    assert run.after["forgetting"] == run.before["forgetting"]
    assert not (out / "interpolated").exists()
    assert "the model as the run began" in (out / "model" / "README.md").read_text()


def test_rewound_it_goes_on_from_the_last_one_within_at_half_the_rate(free, known, renamed, knowing, quick, tmp_path):
    seen = {one["step"]: one for one in evaluations(free.folder)}
    limit = (seen[2]["forgetting"] + seen[4]["forgetting"]) / 2
    out = tmp_path / "run"
    given = settings(known, limit, "rewind", train={"warmup": 0, "schedule": "constant"}, evaluate={"every": 2})
    run = quick(data=renamed, model=knowing, out=out, **given)
    lines = events.read(out / "events.jsonl")
    back = [one for one in lines if one["event"] == "rewind"]
    assert back
    assert [one["rewinds"] for one in back] == list(range(1, len(back) + 1))
    assert len(back) <= 3
    rates, rewinds, last = [], 0, 0
    for one in lines:
        if one["event"] == "rewind":
            rewinds, last = one["rewinds"], one["step"]
        elif one["event"] == "step":
            assert one["step"] == last + 1
            last = one["step"]
            rates.append(one["lr"] * 2**rewinds)
    assert rates == pytest.approx([1e-3] * len(rates))
    assert run.steps == last
    kept = [one for one in events.course(lines) if one["event"] == "step"]
    assert [one["step"] for one in kept] == list(range(1, last + 1))
    best = named(out / "checkpoints", "BEST")
    assert best in {f"step-{one['step']:06d}" for one in evaluations(out) if one["within"]}


def test_a_trial_of_tune_is_the_run_that_is_held_to_the_bound(free, known, renamed, knowing, tmp_path):
    seen = {one["step"]: one for one in evaluations(free.folder)}
    limit = (seen[2]["forgetting"] + seen[4]["forgetting"]) / 2
    sets = [
        f"evaluate.forgetting_data={known}",
        "train.length=6",
        "train.batch=72",
        "train.lr=1e-3",
        "evaluate.every=2",
    ]
    given = {"data": renamed, "model": knowing, "trials": 1, **QUIET}
    found = tune(out=tmp_path / "a", sets=[*sets, f"evaluate.max_forgetting={limit}", "train.precision=fp32"], **given)
    assert found.best.value == seen[2]["score"], "what came after has forgotten too much"
    with pytest.raises(RunError, match=r"no trial .* has ended \(1 forgot more than evaluate.max_forgetting allows\)"):
        tune(out=tmp_path / "b", sets=[*sets, "evaluate.max_forgetting=0", "train.precision=fp32"], **given)


def test_heads_that_were_made_for_the_run_are_there_at_its_end(known, two_towers, quick, tmp_path):
    """Fresh heads exist from the run's beginning on only; alpha 0 is the model with them, and it knew nothing."""
    out = tmp_path / "run"
    given = tiny_runs.settings(evaluate={"forgetting_data": str(known), "max_forgetting": 1})
    quick(model=two_towers, out=out, page=True, **given)
    assert any("knew nothing of known either" in one for one in quick.said)
    assert "knew nothing of known either" in (out / "report" / "index.html").read_text()
    stored = json.loads((out / "report" / "interpolation.json").read_text())
    first, last = stored["points"][0]["val"], stored["points"][-1]["val"]
    seen = evaluations(out)
    assert first["score"]["value"] == seen[0]["score"]
    assert first["forgetting_score"]["value"] == score(seen[0]["metrics"]["forgetting"]["known"])
    assert last["score"]["value"] == max(one["score"] for one in seen[1:])
    learned = load_file(out / "start" / "weights.safetensors")
    assert {name for name in learned if "proj" in name}
    assert not any("trunk" in name or "encoder" in name for name in learned), "only what learns is stored"


def test_adapters_are_merged_before_anything_lies_between(known, renamed, knowing, quick, tmp_path):
    out = tmp_path / "run"
    given = settings(known, 1, train={"length": 4, "lr": 1e-2})
    quick(data=renamed, model=knowing, out=out, page=True, sets=["model.lora_rank=2"], **given)
    alpha = json.loads((out / "report" / "interpolation.json").read_text())["chosen"]
    start, end, found = (load_file(one / WEIGHTS) for one in (knowing / "model", out / "model", out / "interpolated"))
    assert start.keys() == end.keys() == found.keys()
    assert any(not torch.equal(start[name], end[name]) for name in start if "in_proj" in name)
    for name, value in found.items():
        assert torch.allclose(value, torch.lerp(start[name], end[name], alpha), atol=1e-6), name


def test_over_several_sizes_each_is_measured_against_the_start_at_it(known, renamed, knowing, quick, tmp_path):
    out = tmp_path / "run"
    sizes = {"stages": [[0.0, 32], [0.5, 48]]}
    given = settings(known, 1, resolution=sizes, train={"lr": 1e-7})
    quick(data=renamed, model=knowing, out=out, page=True, **given)
    stored = json.loads((out / "start" / "scores.json").read_text())
    assert stored.keys() == {"32", "48", "sha256"}
    seen = evaluations(out)
    assert [(one["step"], one["size_px"]) for one in seen] == [(0, 32), (2, 32), (4, 48), (6, 48)]
    assert [one["forgetting"] for one in seen] == pytest.approx([0] * 4, abs=0.05), "it learned next to nothing"
    points = json.loads((out / "report" / "interpolation.json").read_text())["points"]
    assert points[0]["val"]["forgetting_score"]["value"] == stored["48"]["value"]


def test_data_to_evaluate_on_only_guards_with_what_it_has(known, renamed, knowing, quick, tmp_path):
    lines = (known / "pairs.csv").read_text().splitlines()
    only = [lines[0], *(str(known) + "/" + line for line in lines[1:] if line.endswith("test"))]
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "pairs.csv").write_text("\n".join(only))
    out = tmp_path / "run"
    run = quick(data=renamed, model=knowing, out=out, **settings(tmp_path / "only", 1, train={"length": 2}))
    assert any("only has test rows only: they both guard during the run and are reported" in one for one in quick.said)
    assert evaluations(out)[-1]["metrics"]["forgetting"]["only"]["split"] == "test"
    assert run.after["forgetting"]["only"]["pairs"] == 24


def test_what_cannot_be_is_said_before_anything_is_written(known, quick, tmp_path):
    with pytest.raises(DataError, match=r"evaluate\.forgetting_data: .*nothing"):
        quick(evaluate={"forgetting_data": str(tmp_path / "nothing")})
    rewinds = {"forgetting_data": str(known), "on_forgetting": "rewind"}
    with pytest.raises(ConfigError, match=r"evaluate\.on_forgetting=rewind goes back within one image size"):
        quick(evaluate=rewinds, resolution={"stages": [[0.0, 32], [0.5, 48]]})
    assert not (tmp_path / "run").exists()


def test_where_nothing_is_scored_between_steps_that_is_said(known, quick, tmp_path):
    quick(evaluate={"every": 0, "forgetting_data": str(known), "max_forgetting": 0}, train={"length": 2})
    assert any("nothing is scored between steps" in one for one in quick.said)


def test_another_bound_would_be_another_run(free, known, quick):
    with pytest.raises(RunError, match=r"evaluate\.max_forgetting: the run has 1\.0, this call says 0\.5"):
        quick(out=free.folder, resume=True, sets=["evaluate.max_forgetting=0.5"])
