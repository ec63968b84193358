"""NaN, too little memory, pictures that vanish, and the rules of MPS: a whole run in each of them."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree, rmtree

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import tiers

from honeclip.checkpoint.save import named
from honeclip.device import detect
from honeclip.device.fake import FakeMps, RuleBroken, rules
from honeclip.errors import DataError, NonFiniteError
from honeclip.model.load import load
from honeclip.monitoring import events
from honeclip.training import feeds, loop, prepared, setup

OUT_OF_MEMORY = (
    "MPS backend out of memory (MPS allocated: 18.13 GB, other allocations: 384.00 KiB, max allowed: 18.13 GB). Tried to "
    "allocate 256 bytes on shared pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory "
    "allocations (may cause system failure)."
)


def steps(folder: Path) -> list[dict]:
    return [one for one in events.read(folder / "events.jsonl") if one["event"] == "step"]


# --- not finite ----------------------------------------------------------------------------------------------------


def test_a_rate_that_is_far_too_high_stops_with_step_part_and_checkpoint(quick, tmp_path):
    with pytest.raises(NonFiniteError) as caught:
        quick(train={"lr": 1e30}, evaluate={"every": 0}, checkpoint={"every": 1})
    assert caught.value.exit_code == 1
    said = str(caught.value)
    assert said.startswith("step 2: the loss (infonce nan) is not finite, so the weights were left as they were")
    assert "the last good checkpoint is step-000001. Lower train.lr" in said
    assert [one["step"] for one in steps(tmp_path / "run")] == [1]
    assert named(tmp_path / "run" / "checkpoints", "LATEST") == "step-000001"


def test_an_evaluation_that_is_not_finite_stops_with_step_and_checkpoint(quick):
    with pytest.raises(NonFiniteError, match=r"step 1: the image tower of .* the last good checkpoint is none yet"):
        quick(train={"lr": 1e30}, evaluate={"every": 1})


def poisoned(model: Path, folder: Path, name: str) -> Path:
    """A copy of a model folder with one NaN in one tensor."""
    copytree(model, folder)
    weights = load_file(folder / "open_clip_model.safetensors")
    weights[name].flatten()[0] = torch.nan
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    return folder


def test_weights_that_are_not_finite_stop_before_the_first_step(quick, vit, tmp_path):
    model = poisoned(vit, tmp_path / "poisoned", "visual.ln_post.weight")
    with pytest.raises(NonFiniteError, match="the image tower of .* gives NaN or infinite embeddings") as caught:
        quick(model=model)
    assert caught.value.exit_code == 1
    assert steps(tmp_path / "run") == []


def test_a_loss_that_is_not_finite_in_the_first_step_names_it(quick, vit, tmp_path):
    """Only the loss is broken here: without labels the scale is not looked at when embeddings are scored."""
    model = poisoned(vit, tmp_path / "poisoned", "logit_scale")
    data = tiny_runs.draw(tmp_path / "data", 20, tiny_runs.ALL_SPLITS)
    with pytest.raises(NonFiniteError, match=r"step 1: the loss \(infonce nan\) .* checkpoint is none yet"):
        quick(model=model, data=data)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gradient_that_is_not_finite_is_named(precision, quick, tmp_path, monkeypatch):
    """A finite loss with a NaN in the backward. With a scaler (fp16) smaller scales are tried first, and then it stops."""
    real = prepared.load

    def broken(source, device):
        clip = real(source, device)
        clip.model.visual.class_embedding.register_hook(lambda gradient: gradient * torch.nan)
        return clip

    monkeypatch.setattr(prepared, "load", broken)
    with pytest.raises(NonFiniteError, match=r"the gradient of visual\.class_embedding is not finite") as caught:
        quick(train={"precision": precision, "length": 40}, evaluate={"every": 0})
    done = len(steps(tmp_path / "run"))
    assert f"step {done + 1}:" in str(caught.value)
    assert done == (0 if precision == "fp32" else 16), "the scale begins at 2 ** 16 and is halved each time"


def test_half_precision_with_a_scaler_learns_and_resumes_with_its_scale(quick, tmp_path):
    run = quick(
        train={"precision": "fp16", "lr": 1e-3, "length": 8}, evaluate={"every": 0}, checkpoint={"keep_last": 9}
    )
    folder = run.folder / "checkpoints"
    stored = load_file(folder / "step-000004" / "weights.safetensors")
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float32}
    losses = [one["loss"] for one in steps(run.folder)]
    assert min(losses[4:]) < losses[0]
    for step in (6, 8):  # as if it had been killed after step 4
        rmtree(folder / f"step-{step:06d}")
    (run.folder / "result.json").unlink()
    assert quick(resume=True).steps == 8
    assert [one["loss"] for one in steps(run.folder)] == losses


def test_double_precision_is_for_proofs_and_works(quick, tmp_path):
    run = quick(train={"precision": "fp64", "length": 2})
    stored = load_file(run.folder / "checkpoints" / "step-000002" / "weights.safetensors")
    assert stored["visual.conv1.weight"].dtype is torch.float64
    assert load(str(run.folder), "cpu").dtype is torch.float32


# --- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_out_of_memory_in_the_middle_of_a_run_changes_the_pieces_and_not_the_result(
    precision, quick, tmp_path, monkeypatch
):
    settings = {"train": {"precision": precision, "lr": 1e-3}, "evaluate": {"every": 0}}
    whole = quick(out=tmp_path / "whole", **settings)
    real, calls = feeds.ImageFeed.__call__, []

    def scarce(feed, piece):
        if torch.is_grad_enabled() and len(piece) > 2 and len(steps(tmp_path / "run")) in (2, 3):
            calls.append(len(piece))
            raise RuntimeError(OUT_OF_MEMORY)
        return real(feed, piece)

    monkeypatch.setattr(feeds.ImageFeed, "__call__", scarce)
    run = quick(out=tmp_path / "run", **settings)
    assert calls == [8, 4], "the next step does not run into it again"
    seen = steps(run.folder)
    assert [(one["micro_batch"], one["retries"]) for one in seen] == [(8, 0), (8, 0), (2, 2), (2, 0), (2, 0), (2, 0)]
    (change,) = [one for one in events.read(run.folder / "events.jsonl") if one["event"] == "memory"]
    assert (change["step"], change["micro_batch"], change["kept"]) == (3, 2, 0)
    assert "out of memory in a step" in change["reason"]
    close = 1e-12 if precision == "fp64" else 1e-5
    assert [one["loss"] for one in seen] == pytest.approx([one["loss"] for one in steps(whole.folder)], rel=close)
    ours, theirs = (
        load_file(one.folder / "checkpoints" / "step-000006" / "weights.safetensors") for one in (run, whole)
    )
    for name, value in theirs.items():
        # Adam divides by the root of the second moment: where a gradient is nothing but rounding, so is its direction
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-9 if precision == "fp64" else 2e-3)


def test_a_fake_device_with_little_memory_trains_as_one_with_much(quick, tmp_path, monkeypatch):
    """Tensors of the step are really counted, and the text of the error is that of MPS."""
    real, losses = loop.cached_step, {}
    for name, limit in (("much", None), ("little", 1_000_000)):
        fake = FakeMps(limit_bytes=limit)

        def counted(*arguments, fake=fake, **options):
            with fake.counting():
                return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(detect, "choose", lambda wanted="auto", fake=fake: fake)
            patch.setattr(loop, "cached_step", counted)
            given = {"train": {"length": 3, "batch": 24, "lr": 1e-3}, "evaluate": {"every": 0}, "out": tmp_path / name}
            run = quick(device="auto", **given)
        losses[name] = [(one["loss"], one["micro_batch"]) for one in steps(run.folder)]
    assert {cut for _, cut in losses["much"]} == {24}
    assert {cut for _, cut in losses["little"]} <= {1, 3, 6, 12}
    assert [loss for loss, _ in losses["little"]] == pytest.approx([loss for loss, _ in losses["much"]], rel=1e-5)


def test_memory_decides_how_fast_and_never_what(quick, tmp_path):
    given = {"train": {"precision": "fp64", "length": 3, "lr": 1e-3}, "evaluate": {"every": 0}}
    plain = quick(out=tmp_path / "plain", **given)
    losses = [one["loss"] for one in steps(plain.folder)]
    for number, (cut, keep) in enumerate([(1, 8), (3, 0), (3, 2), (100, 1)]):
        run = quick(out=tmp_path / str(number), memory={"micro_batch": cut, "keep": keep}, **given)
        seen = steps(run.folder)
        assert [one["loss"] for one in seen] == pytest.approx(losses, rel=1e-12)
        assert {(one["micro_batch"], one["kept"]) for one in seen} == {(min(8, cut), keep)}


def test_every_keep_gives_the_same_bits(quick, tmp_path, two_towers):
    """With dropout and trained towers, whose replay must be that of the first pass."""
    found = []
    for keep in (0, 1, 3):
        memory = {"micro_batch": 3, "keep": keep}
        given = {"train": {"length": 5}, "evaluate": {"every": 0}, "out": tmp_path / str(keep)}
        run = quick(model=two_towers, memory=memory, sets=["model.freeze=none"], **given)
        found.append((run.model_folder / "open_clip_model.safetensors").read_bytes())
    assert found[0] == found[1] == found[2]


# --- pictures ------------------------------------------------------------------------------------------------------


def test_a_picture_that_vanishes_on_the_way_is_named_and_the_run_goes_on(quick, tmp_path, monkeypatch):
    data = tiny_runs.draw(tmp_path / "data", 20, tiny_runs.ALL_SPLITS)
    real = setup.score_before

    def vanishing(*arguments):
        (data / "images" / "001.png").unlink()
        return real(*arguments)

    monkeypatch.setattr(setup, "score_before", vanishing)
    run = quick(data=data, train={"length": 3, "batch": 12})
    assert run.steps == 3
    lost = [one for one in events.read(run.folder / "events.jsonl") if one["event"] == "lost_image"]
    assert [one["step"] for one in lost] == [1, 2, 3]
    assert all("001.png (row 2 of pairs.csv)" in one["reason"] for one in lost)
    assert sum("went on without an image" in text for text in quick.said) == 3


def test_when_no_picture_is_left_it_is_bad_input_and_nothing_stays(quick, tmp_path, monkeypatch):
    data = tiny_runs.draw(tmp_path / "data", 20, tiny_runs.ALL_SPLITS)
    real = setup.score_before

    def vanishing(*arguments):
        found = real(*arguments)
        for path in (data / "images").iterdir():
            path.unlink()
        return found

    monkeypatch.setattr(setup, "score_before", vanishing)
    with pytest.raises(DataError, match=r"step 1: none of its images can be read any more"):
        quick(data=data, evaluate={"every": 0})
    assert not (tmp_path / "run").exists()


# --- the rules of MPS ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "freeze", "kind", "precision"),
    tiers(
        [
            (*setting, precision)
            for precision in ("fp32", "auto")
            for setting in [("vit", "auto", "infonce"), ("vit", "image", "siglip"), ("two_towers", "none", "infonce")]
        ],
        ("vit", "image", "siglip", "fp32"),
        ("two_towers", "none", "infonce", "auto"),
    ),
)
def test_a_whole_run_keeps_the_rules_of_mps(model, freeze, kind, precision, quick, request, monkeypatch):
    """Scores before and after, features, steps in pieces, checkpoints, the model: on a device that only pretends."""
    fake = FakeMps(chip="Apple M2")
    real = detect.choose
    monkeypatch.setattr(detect, "choose", lambda wanted="auto": fake if wanted == "auto" else real(wanted))
    with rules(placed_only=True):
        run = quick(
            model=request.getfixturevalue(model),
            device="auto",
            sets=[f"model.freeze={freeze}", "memory.micro_batch=4", "memory.keep=1"],
            train={"precision": precision, "length": 4},
            loss={"kind": kind},
            page=True,
        )
    assert run.steps == 4
    assert fake.copies > 20
    name = "fp16: Apple M2" if precision == "auto" else "fp32: asked for"
    assert any("fake MPS" in text and f"precision {name}" in text for text in quick.said)


def test_the_rules_would_see_a_breach_in_a_run(quick, monkeypatch):
    """So that the test above says something."""
    fake = FakeMps()
    monkeypatch.setattr(detect, "choose", lambda wanted="auto": fake)
    real = feeds.normalise
    monkeypatch.setattr(feeds, "normalise", lambda *given: real(*given).to(memory_format=torch.channels_last))
    with pytest.raises(RuleBroken, match=r"^rule 9: "), rules(placed_only=True):
        quick(device="auto", evaluate={"every": 0})
