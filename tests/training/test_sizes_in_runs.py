"""Images that grow within a run: what is drawn, seen, said, kept and handed over, and that a killed run is the same run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import open_clip
import pytest
import tiny_runs
import torch
from safetensors.torch import load_file

import honeclip
from honeclip import config as configs
from honeclip import places
from honeclip.checkpoint.save import named
from honeclip.errors import ConfigError
from honeclip.monitoring import events
from honeclip.monitoring.terminal import Progress
from honeclip.training import folder, loop, resolution
from honeclip.training import run as training
from honeclip.training.attempt import Bench, attempt
from honeclip.training.frozen import Known
from honeclip.training.prepared import prepare

ROWS = 24
SIZES = [[0.0, 32], [0.4, 48], [0.8, 64]]
TRAIN = {"length": 10, "batch": 7, "lr": 1e-3}
SETTINGS = {
    "train": TRAIN,
    "resolution": {"stages": SIZES},
    "evaluate": {"every": 0},
    "checkpoint": {"every": 1, "keep_last": 40},
}
TABLE = "visual.positional_embedding"


def seen(out: Path, name: str) -> list[dict]:
    return [one for one in events.read(out / "events.jsonl") if one["event"] == name]


def told(out: Path) -> list[tuple]:
    """What steps, changes and evaluations said, times and memory left out."""
    names = ("step", "loss", "lr", "grad_norm", "micro_batch", "kept", "size_px", "reason", "score", "best")
    kinds = ("step", "stage", "evaluation")
    return [
        tuple(one.get(name) for name in names) for one in events.read(out / "events.jsonl") if one["event"] in kinds
    ]


def files(out: Path) -> dict[str, str]:
    """Hashes of weights, optimizer and generators in the last checkpoint, and of the model that was handed over."""
    last = out / "checkpoints" / named(out / "checkpoints", "LATEST")
    found = [*last.glob("*.safetensors"), out / "model" / "open_clip_model.safetensors"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def killed_after(out: Path, step: int) -> None:
    """The folder as a process leaves it that was killed while step + 1 ran."""
    (out / "result.json").unlink()
    rmtree(out / "model")
    for checkpoint in (out / "checkpoints").glob("step-*"):
        if int(checkpoint.name[5:]) > step:
            rmtree(checkpoint)
    for name in ("LATEST", "BEST"):
        pointer = out / "checkpoints" / name
        if pointer.exists() and not (out / "checkpoints" / pointer.read_text().strip()).exists():
            pointer.write_text(f"step-{step:06d}\n") if name == "LATEST" else pointer.unlink()


def weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")


def image_size(out: Path) -> int:
    return json.loads((out / "model" / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]["image_size"]


@pytest.fixture(scope="module")
def finished(data, vit, tmp_path_factory) -> Path:
    """Four steps at 32 px, four at 48, two at 64, with a checkpoint of each; tests copy it."""
    out = tmp_path_factory.mktemp("sizes") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("honeclip.training.finish.write", lambda *folder, **content: None)
        config = tiny_runs.settings(**SETTINGS)
        training.fit(data=data, out=out, model=vit, config=config, device="cpu", report=lambda text: None)
    return out


# --- what a run does -------------------------------------------------------------------------------------------------


def test_checkpoints_know_their_size_and_changes_stand_in_the_events(finished):
    rows = [weights(finished, step)[TABLE].shape[0] for step in range(1, 11)]
    assert rows == [1 + 4] * 4 + [1 + 9] * 4 + [1 + 16] * 2
    changes = seen(finished, "stage")
    assert [(one["step"], one["before_px"], one["size_px"]) for one in changes] == [(4, 32, 48), (8, 48, 64)]
    assert [one["reason"] for one in changes] == ["4 of 10 steps are done", "8 of 10 steps are done"]


def test_the_model_that_is_handed_over_has_the_last_size_also_for_open_clip_alone(finished, data):
    assert image_size(finished) == 64
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{finished / 'model'}")
    assert model.visual.image_size == (64, 64)
    assert model.visual.positional_embedding.shape[0] == 17
    clip = honeclip.load(finished, device="cpu")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.eval().encode_image(images, normalize=True)
    torch.testing.assert_close(clip.encode_image(images), expected)
    assert seen(finished, "evaluation") == []
    stored = json.loads((finished / "result.json").read_text())["result"]
    assert stored["before"]["size_px"] == stored["after"]["size_px"] == 64


@pytest.mark.slow
def test_open_clip_would_rebuild_the_old_size_from_a_name_that_it_knows(quick, data, tmp_path):
    """Whoever names the architecture gets the size of its built-in config, and the table is silently resized to it; the
    folder, which says the effective size, gives the model that was trained."""
    run = quick(
        model="random:ViT-S-32-alt",
        resolution={"stages": [[0, 64], [0.5, 96]]},
        train={"length": 2, "batch": 4},
        evaluate={"every": 0},
    )
    weights = str(run.model_folder / "open_clip_model.safetensors")
    by_name = open_clip.create_model("ViT-S-32-alt", pretrained=weights)
    by_folder = open_clip.create_model_from_pretrained(f"local-dir:{run.model_folder}", return_transform=False)
    assert (by_name.visual.image_size, by_folder.visual.image_size) == ((224, 224), (96, 96))
    clip = honeclip.load(run.folder, device="cpu")
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            clip.encode_image(images), by_folder.eval().encode_image(images, normalize=True), rtol=1e-4, atol=1e-5
        )


def test_a_change_in_the_middle_of_an_epoch_repeats_and_drops_no_row(quick, monkeypatch, tmp_path):
    """24 rows in batches of 7: changes after steps 4 and 8 lie within epochs."""
    real, drawn = loop.exact_step, {"one": [], "three": []}
    for name, stages in (("one", 32), ("three", SIZES)):

        def noting(learner, batch, name=name):
            drawn[name].append((np.sort(batch.draw.indices), tuple(batch.images.shape)))
            return real(learner, batch)

        monkeypatch.setattr(loop, "exact_step", noting)
        quick(**{**SETTINGS, "resolution": {"stages": stages}}, out=tmp_path / name)
    sides = [shape[-1] for _, shape in drawn["three"]]
    assert sides == [32] * 4 + [48] * 4 + [64] * 2
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(drawn["one"], drawn["three"], strict=True))
    stream = np.concatenate([rows for rows, _ in drawn["three"]])
    counts = np.bincount(stream, minlength=ROWS)
    assert set(counts) == {len(stream) // ROWS, len(stream) // ROWS + 1}, "70 draws of 24 rows: two or three of each"
    assert all(len(set(rows)) == len(rows) for rows, _ in drawn["three"])


def test_sizes_are_rounded_to_the_patch_and_it_is_said(quick, finished, tmp_path):
    run = quick(**{**SETTINGS, "resolution": {"stages": [[0.0, 33], [0.4, 55], [0.8, 60]]}})
    said = "\n".join(quick.said)
    assert "55 px is no multiple of the patch of 16 px: 48 px is taken" in said
    assert "60 px is no multiple of the patch of 16 px: 64 px is taken" in said
    assert "images are seen at 32, 48, 64 px; the model came with 32 px" in said
    assert files(run.folder) == files(finished)


def test_one_size_in_a_table_is_that_size(quick, tmp_path):
    found = []
    for name, stages in (("number", 48), ("table", [[0.0, 48]])):
        run = quick(**{**SETTINGS, "resolution": {"stages": stages}}, out=tmp_path / name)
        found.append((files(run.folder), [one[:6] for one in told(run.folder)]))
    assert found[0] == found[1]


def test_the_rows_of_a_table_reach_the_steps(quick, tmp_path):
    stages = [
        {"at": 0.0, "size": 48, "patch_dropout": 0.5},
        {"at": 0.5, "size": 64, "lr_scale": 0.5, "warmup": 2, "table_first": 2, "weight_decay": 0.0},
    ]
    train = {**TRAIN, "schedule": "constant", "warmup": 0}
    run = quick(**{**SETTINGS, "resolution": {"stages": stages}, "train": train})
    rates = [one["lr"] for one in seen(run.folder, "step")]
    assert rates == pytest.approx([1e-3] * 5 + [2.5e-4] + [5e-4] * 4)
    at = {step: weights(run.folder, step) for step in (5, 7, 8)}
    body = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    assert at[7][body].equal(at[5][body]), "for two steps only the table of the image body learns"
    assert not at[8][body].equal(at[7][body])
    text = "transformer.resblocks.0.mlp.c_fc.weight"
    assert not at[7][text].equal(at[5][text])
    assert [text.split(":")[0] for text in quick.said if text.startswith("steps ")] == [
        "steps 1 to 5 at 48 px",
        "steps 6 to 7 at 64 px",
        "steps 8 to 10 at 64 px",
    ]


# --- scores ----------------------------------------------------------------------------------------------------------


def test_the_best_is_that_of_the_last_size_and_patience_counts_there(quick, tmp_path):
    """With a rate of nothing no score ever rises after the first one of a size."""
    train = {**TRAIN, "lr": 1e-12, "patience": 1}
    run = quick(**{**SETTINGS, "train": train, "evaluate": {"every": 1}})
    scores = seen(run.folder, "evaluation")
    assert [one["size_px"] for one in scores] == [32] * 5 + [48] * 4 + [64] * 2
    assert [one["step"] for one in scores if one.get("best")] == [1, 5, 9]
    assert named(run.folder / "checkpoints", "BEST") == "step-000009"
    assert image_size(run.folder) == 64


def test_without_a_score_at_the_last_size_the_last_step_is_handed_over(quick):
    """Ended by a shorter length right after a change, when BEST is still that of the size before."""
    quick(**{**SETTINGS, "evaluate": {"every": 4}})
    out = quick(resume=True, sets=["train.length=30"]).folder
    killed_after(out, 9)
    (out / "checkpoints" / "BEST").write_text("step-000008\n")
    assert weights(out, 8)[TABLE].shape[0] == 10
    run = quick(resume=True, sets=["train.length=9"])
    assert run.steps == 9
    assert image_size(out) == 64


@pytest.mark.slow
def test_a_size_begins_when_the_score_does_not_rise_any_more(quick, tmp_path):
    stages = [[0, 32], {"at": "plateau", "size": 48, "plateau": 2}, {"at": "plateau", "size": 64, "plateau": 1}]
    given = {**SETTINGS, "resolution": {"stages": stages}, "evaluate": {"every": 1}}
    given["train"] = {**TRAIN, "lr": 1e-12, "length": 24}
    whole = quick(**given, out=tmp_path / "whole").folder
    changes = seen(whole, "stage")
    assert [(one["step"], one["size_px"]) for one in changes] == [(3, 48), (5, 64)]
    assert [one["reason"] for one in changes] == [f"{n} evaluations without a better score" for n in (2, 1)]
    assert image_size(whole) == 64
    for step in (2, 3, 4, 5, 11):
        out = copytree(whole, tmp_path / f"killed-{step}")
        killed_after(out, step)
        quick(out=out, resume=True)
        assert told(out) == told(whole), step
        assert files(out) == files(whole), step


def test_without_a_plateau_it_begins_by_its_equal_share(quick):
    stages = [[0, 32], {"at": "plateau", "size": 48, "plateau": 9}]
    run = quick(**{**SETTINGS, "resolution": {"stages": stages}, "evaluate": {"every": 1}})
    assert [(one["step"], one["reason"]) for one in seen(run.folder, "stage")] == [(5, "5 of 10 steps are done")]


# --- killed and resumed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 4, 5, 7, 8, 9])
def test_killed_in_any_stage_it_is_the_run_that_was_never_killed(step, finished, quick, tmp_path):
    out = copytree(finished, tmp_path / "run")
    killed_after(out, step)
    assert quick(out=out, resume=True).steps == 10
    assert {"weights.safetensors", "optimizer.safetensors", "open_clip_model.safetensors"} <= files(out).keys()
    assert files(out) == files(finished)
    assert told(out) == told(finished)


@pytest.mark.parametrize("moments", tiny_runs.tiers(["resized", "reset"]))
def test_so_it_is_with_rows_that_ask_for_more(moments, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(resolution, "MOMENTS", moments)
    stages = [
        {"at": 0.0, "size": 48, "patch_dropout": 0.5},
        {"at": 0.3, "size": 32, "patch_dropout": 0.25, "strength": 0.2},
        {"at": 0.6, "size": 64, "table_first": 2, "warmup": 3, "weight_decay": 0.5},
    ]
    train = {**TRAIN, "batch": [[0.0, 7], [0.7, 11]]}
    given = {**SETTINGS, "resolution": {"stages": stages}, "train": train, "loss": {"mining": 2}}
    whole = quick(**given, memory={"micro_batch": 3, "keep": 1}, out=tmp_path / "whole").folder
    for step in (2, 3, 5, 6, 7, 8, 9):
        out = copytree(whole, tmp_path / f"killed-{step}")
        killed_after(out, step)
        quick(out=out, resume=True)
        assert files(out) == files(whole), step
        assert told(out) == told(whole), step


def test_a_longer_run_stays_at_the_size_that_it_has_reached(finished, quick, tmp_path):
    out = copytree(finished, tmp_path / "run")
    quick(out=out, resume=True, sets=["train.length=20"])
    assert [(one["step"], one["size_px"]) for one in seen(out, "stage")] == [(4, 48), (8, 64)]
    killed = copytree(finished, tmp_path / "killed")
    killed_after(killed, 6)
    quick(out=killed, resume=True, sets=["train.length=20"])
    assert [(one["step"], one["size_px"]) for one in seen(killed, "stage")] == [(4, 48), (16, 64)]


# --- frozen towers ---------------------------------------------------------------------------------------------------


def test_features_of_a_frozen_tower_are_computed_once_a_size(quick, two_towers, tmp_path, monkeypatch):
    """The towers of a model like `starter` stay as they are: stages change what their features are of."""
    monkeypatch.setenv("HONECLIP_HOME", str(tmp_path / "home"))
    real, sizes = honeclip.embedding.features.image_features, []

    def counted(clip, *given, **named):
        sizes.append(clip.preprocess.size_px)
        return real(clip, *given, **named)

    monkeypatch.setattr("honeclip.embedding.features.image_features", counted)
    given = {**SETTINGS, "model": two_towers, "resolution": {"stages": [[0, 32], [0.4, 50], [0.6, 32], [0.8, 64]]}}
    whole = quick(**given, out=tmp_path / "whole").folder
    assert sizes == [64, 32, 50], "the last size is that of the fresh heads"
    assert image_size(whole) == 64
    kept = sorted(path.name.partition("-")[0] for path in places.features().iterdir())
    assert kept == ["image", "image", "image", "text"]
    for step in (4, 7):
        out = copytree(whole, tmp_path / f"killed-{step}")
        killed_after(out, step)
        quick(out=out, resume=True)
        assert files(out) == files(whole), step


def test_a_frozen_table_is_at_the_end_what_it_would_be_without_stages(quick, vit, tmp_path):
    found = []
    for name, stages in (("one", 64), ("three", [[0, 32], [0.3, 16], [0.6, 64]])):
        run = quick(**{**SETTINGS, "resolution": {"stages": stages}}, sets=["model.freeze=towers"], out=tmp_path / name)
        found.append(load_file(run.model_folder / "open_clip_model.safetensors")[TABLE])
    assert found[0].equal(found[1])


@pytest.mark.slow
def test_heads_first_and_sizes_go_together(quick, two_towers, tmp_path):
    stages = [[0.0, 32], [0.5, 48], [0.9, 64]]
    given = {**SETTINGS, "model": two_towers, "resolution": {"stages": stages}, "sets": ["model.freeze=none"]}
    whole = quick(**given, out=tmp_path / "whole").folder
    said = [text.split(":")[0] for text in quick.said if text.startswith("steps ")]
    assert said == [
        "steps 1 to 5 at 32 px",
        "steps 6 to 8 at 48 px",
        "steps 9 to 9 at 48 px",
        "steps 10 to 10 at 64 px",
    ]
    for step in (5, 8, 9):
        out = copytree(whole, tmp_path / f"killed-{step}")
        killed_after(out, step)
        quick(out=out, resume=True)
        assert files(out) == files(whole), step


@pytest.mark.slow
def test_smaller_scales_of_the_loss_follow_the_size(quick, two_towers, monkeypatch, tmp_path):
    sides = []
    real = loop.exact_step

    def noting(learner, batch):
        if batch.images is not None:
            sides.append((batch.images.shape[-1], *(feed.inputs(batch).shape[-1] for feed in learner.more)))
        return real(learner, batch)

    monkeypatch.setattr(loop, "exact_step", noting)
    stages = [[0.0, 64], [0.8, 96]]
    given = {
        **SETTINGS,
        "resolution": {"stages": stages},
        "loss": {"scales": [1.0, 0.5]},
        "sets": ["model.freeze=none"],
    }
    quick(**{**given, "train": {**TRAIN, "length": 5}}, model=two_towers)
    assert sides == [(96, 48)], "the heads before that learn from features, and those are of both sizes of each stage"


def test_a_trial_goes_through_the_same_sizes_as_a_run(finished, data, vit):
    """What `tune` does without a run folder: the same steps, and its best is that of the last size."""
    config = configs.load(
        values=folder.options(tiny_runs.settings(**{**SETTINGS, "evaluate": {"every": 1}}), data, vit, None)
    )
    with Progress() as progress:
        prepared = prepare(config, "cpu", lambda text: None, progress)
        trial = attempt(Bench(prepared, Known(progress)), config)
        scores = list(trial.scores())
    assert [one.step for one in scores] == list(range(1, 11))
    assert trial.best == max(one.score for one in scores[8:])
    assert trial.prepared.clip.preprocess.size_px == prepared.clip.preprocess.size_px == 64
    last = weights(finished, 10)
    state = trial.prepared.clip.model.state_dict()
    assert all(state[name].equal(value) for name, value in last.items())


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "model", "freeze", "words"),
    [
        (
            [{"at": 0, "size": 32, "patch_dropout": 0.5}, [0.5, 48]],
            "two_towers",
            "none",
            "the image tower of .* is none",
        ),
        ([{"at": 0, "size": 32, "patch_dropout": 0.5}, [0.5, 48]], "vit", "image", "the image tower of .* is frozen"),
        (
            [[0, 32], {"at": 0.5, "size": 48, "table_first": 2}],
            "two_towers",
            "none",
            "none that learns: leave table_first",
        ),
        ([[0, 32], {"at": 0.5, "size": 48, "table_first": 2}], "vit", "towers", "none that learns: leave table_first"),
    ],
)
def test_what_a_tower_has_not_is_refused_and_leaves_nothing_behind(
    stages, model, freeze, words, quick, request, tmp_path
):
    with pytest.raises(ConfigError, match=words) as caught:
        quick(
            model=request.getfixturevalue(model),
            resolution={"stages": stages},
            sets=[f"model.freeze={freeze}"],
        )
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_run_in_minutes_is_timed_at_all_its_sizes(quick):
    run = quick(**{**SETTINGS, "train": {**TRAIN, "length": "0.01 min"}})
    assert [one["size_px"] for one in seen(run.folder, "stage")] == [48, 64]
    assert image_size(run.folder) == 64
