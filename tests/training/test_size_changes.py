"""What a change of the image size does to table of stages, rate, position table and Adam's moments."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_runs
import torch
from timm.layers import resample_abs_pos_embed

from honeclip import config as configs
from honeclip.config import Train
from honeclip.model import folder as folders
from honeclip.model import resize
from honeclip.model.load import load
from honeclip.sizes import read
from honeclip.training import optimizer as optimizers
from honeclip.training import resolution, stages
from honeclip.training.resolution import Resolution
from honeclip.training.stages import Stage
from honeclip.training.verify import verify

NONE = frozenset()
TABLE = "visual.positional_embedding"


def resolved(rows, total, **given):
    return resolution.resolve(read(rows), total, int, **given)


# --- when ------------------------------------------------------------------------------------------------------------


def test_shares_become_steps_and_what_a_run_has_entered_stays():
    rows = [[0, 32], [0.4, 48], [0.8, 64]]
    assert [one.start for one in resolved(rows, 10)] == [0, 4, 8]
    assert [one.starts for one in resolved(rows, 10)] == [(0,), (0, 4), (0, 4, 8)]
    assert [one.last for one in resolved(rows, 10)] == [False, False, True]
    assert [one.start for one in resolved(rows, 2)] == [0, 1, 1], "also a run of two steps ends at the last size"
    # a run of 10 that goes on to 20 after step 5 has been at 48 px since step 4; one of 20 that ends at 10, after step 9
    assert [one.start for one in resolved(rows, 20, begun=(0, 4), now=5)] == [0, 4, 16]
    assert [one.start for one in resolved(rows, 10, begun=(0, 8), now=9)] == [0, 8, 9]


def test_a_size_by_plateau_begins_at_the_latest_where_equal_shares_would_put_it():
    rows = [[0, 32], {"at": "plateau", "size": 48, "plateau": 3}, {"at": "plateau", "size": 64}]
    assert [one.start for one in resolved(rows, 30)] == [0, 10, 20]
    assert [one.patience for one in resolved(rows, 30)] == [3, 2, 0]
    assert [one.start for one in resolved(rows, 30, begun=(0, 6), now=6)] == [0, 6, 20]


@pytest.fixture(scope="module")
def clips(vit, two_towers):
    return {"plain": load(str(vit), "cpu"), "fresh": load(str(two_towers), "cpu")}


def test_sizes_batches_and_heads_first_share_one_table(clips):
    small, large = resolved([[0, 32], {"at": 0.6, "size": 64, "table_first": 5}], 100)
    assert stages.table(clips["plain"], "none", 100, resolutions=(small, large)) == (
        Stage(0, 60, NONE, resolution=small),
        Stage(60, 65, NONE, resolution=large, table_alone=True),
        Stage(65, 100, NONE, resolution=large),
    )
    towers = frozenset({"image", "text"})
    assert stages.table(clips["fresh"], "none", 100, ((0.0, 8), (0.5, 16)), 0, (small, large)) == (
        Stage(0, 50, towers, 1.0, 8, 0, 0, small),
        Stage(50, 60, towers, 1.0, 16, 1, 50, small),
        Stage(60, 65, towers, 1.0, 16, 1, 50, large, True),
        Stage(65, 80, towers, 1.0, 16, 1, 50, large),
        Stage(80, 100, NONE, 0.1, 16, 1, 50, large),
    )
    first, second, third = resolved([[0, 32], {"at": 0.5, "size": 48, "table_first": 30}, [0.6, 64]], 100)
    found = stages.table(clips["plain"], "none", 100, resolutions=(first, second, third))
    assert [(one.start, one.size_px, one.table_alone) for one in found] == [
        (0, 32, False),
        (50, 48, True),
        (60, 64, False),
    ], "the next size ends what the one before had begun"


def test_the_rate_goes_on_over_a_change_but_for_what_the_row_asks(clips):
    train = configs.load(sets=["train.warmup=10", "train.schedule=linear"]).train
    plain = stages.rate(stages.table(clips["plain"], "none", 100), train, 100, 3, None)
    rows = resolved([[0, 32], {"at": 0.5, "size": 64, "lr_scale": 0.5, "warmup": 4}], 100)
    found = stages.rate(stages.table(clips["plain"], "none", 100, resolutions=rows), train, 100, 3, None)
    assert [found(step) for step in range(50)] == [plain(step) for step in range(50)]
    ramp = [0.25, 0.5, 0.75, *[1.0] * 47]
    assert [found(step) for step in range(50, 100)] == pytest.approx(
        [plain(step) * 0.5 * ramp[step - 50] for step in range(50, 100)]
    )


# --- what ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def learner(text):
    """A model of 48 px that has taken two steps, its optimizer and where it began."""
    clip = tiny_runs.make_clip(text)
    began = resize.origin(clip)
    resize.resize(clip, 48)
    clip.model.requires_grad_(True)
    optimizer = optimizers.build(clip, Train(lr=1e-3), NONE)
    for seed in range(2):
        learn(clip, optimizer, seed)
    return clip, optimizer, began


def learn(clip, optimizer, seed):
    side = clip.preprocess.size_px
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(seed))
    tower = clip.model.visual
    tower(images).pow(3).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(("size", "side"), [(96, 6), (32, 2)])
def test_moments_follow_their_table(size, side, learner):
    clip, optimizer, began = learner
    old = clip.model.visual.positional_embedding
    before = {key: one.clone() for key, one in optimizer.state[old].items()}
    value, others = old.detach().clone(), len(optimizer.state)
    resolution.to_size(clip, optimizer, size, began)
    new = clip.model.visual.positional_embedding
    assert new is not old
    assert old not in optimizer.state
    assert len(optimizer.state) == others
    held = [one for group in optimizer.param_groups for one in group["params"]]
    assert sum(one is new for one in held) == 1
    assert not any(one is old for one in held)

    def by_timm(table_PC):
        return resample_abs_pos_embed(table_PC[None], [side, side], [3, 3], num_prefix_tokens=1)[0]

    torch.testing.assert_close(new.detach(), by_timm(value), rtol=0, atol=1e-6)
    after = optimizer.state[new]
    assert after["step"] == before["step"] == 2
    torch.testing.assert_close(after["exp_avg"], by_timm(before["exp_avg"]), rtol=0, atol=1e-6)
    squares = by_timm(before["exp_avg_sq"])
    torch.testing.assert_close(after["exp_avg_sq"], squares.clamp(min=0), rtol=0, atol=1e-6)
    assert after["exp_avg_sq"].min() >= 0
    learn(clip, optimizer, 3)
    assert torch.isfinite(new).all()
    assert after["step"] == 3


def test_a_mean_of_squares_stays_one_where_bicubic_weights_would_go_below_zero():
    old, new = (torch.nn.Parameter(torch.zeros(1 + side * side, 2)) for side in (3, 9))
    optimizer = torch.optim.AdamW([old])
    peak = torch.zeros(10, 2)
    peak[5] = 1.0
    optimizer.state[old] = {"step": torch.tensor(1.0), "exp_avg": peak.clone(), "exp_avg_sq": peak.clone()}
    optimizers.swap(optimizer, old, new, lambda one: resize.resampled(one, 9, 1))
    assert optimizer.state[new]["exp_avg"].min() < 0
    assert optimizer.state[new]["exp_avg_sq"].min() == 0


def test_moments_that_are_forgotten_begin_anew_with_a_warm_up(learner, monkeypatch):
    monkeypatch.setattr(resolution, "MOMENTS", "reset")
    clip, optimizer, began = learner
    resolution.to_size(clip, optimizer, 96, began)
    new = clip.model.visual.positional_embedding
    assert optimizer.state[new]["step"] == 0
    assert not optimizer.state[new]["exp_avg"].any()
    start = new.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    learn(clip, optimizer, 3)
    moved = (new.detach() - start).abs()
    assert moved[moved > 0].median() == pytest.approx(1e-3, rel=0.01), "Adam's first step is the rate, bias corrected"
    rows = resolved([[0, 32], [0.5, 64], {"at": 0.8, "size": 96, "warmup": 40}], 100)
    assert [one.warmup for one in rows] == [0, resolution.RESET_WARMUP, 40]


def test_a_table_that_never_learned_comes_from_where_it_began(text):
    clip = tiny_runs.make_clip(text)
    began = resize.origin(clip)
    start = clip.model.visual.positional_embedding.detach().clone()
    clip.model.requires_grad_(True)
    optimizer = optimizers.build(clip, Train(lr=1e-3), NONE)
    for size in (16, 64, 32):
        resolution.to_size(clip, optimizer, size, began)
    assert clip.model.visual.positional_embedding.equal(start)
    learn(clip, optimizer, 0)
    learned = clip.model.visual.positional_embedding.detach().clone()
    resolution.to_size(clip, optimizer, 64, began)
    torch.testing.assert_close(
        clip.model.visual.positional_embedding.detach(), resize.resampled(learned, 4, 1), rtol=0, atol=1e-6
    )


def test_decay_and_patch_dropout_are_those_of_the_row(learner):
    clip, optimizer, began = learner
    images = torch.randn(2, 3, 48, 48)
    seen = []
    clip.model.visual.transformer.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    row = Resolution((0,), 48, weight_decay=0.3, patch_dropout=0.5)
    resolution.enter(clip, optimizer, row, 0.1, began)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.3}
    clip.model.train()
    clip.model.visual(images)
    clip.model.eval()
    clip.model.visual(images)
    resolution.enter(clip, optimizer, replace(row, weight_decay=None, patch_dropout=0.0), 0.1, began)
    clip.model.train()
    clip.model.visual(images)
    assert seen == [1 + 4, 1 + 9, 1 + 9], "half of nine patches in training, all of them in evaluation and afterwards"
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}


def test_the_table_alone_learns_where_the_stage_says_so(learner):
    clip, *_ = learner
    names = frozenset(name for name, _ in clip.model.named_parameters())
    stages.enter(clip, Stage(0, 1, NONE, table_alone=True), names)
    learning = {name for name, one in clip.model.named_parameters() if one.requires_grad}
    assert {name for name in learning if name.startswith("visual.")} == {TABLE, "visual.proj"}
    assert "token_embedding.weight" in learning
    stages.enter(clip, Stage(1, 2, NONE), names)
    assert all(one.requires_grad for one in clip.model.parameters())


@pytest.mark.parametrize("size", [16, 48, 64])
def test_the_cached_step_is_exact_at_another_size(size, text, data, tmp_path):
    clip = tiny_runs.make_clip(text)
    resize.resize(clip, size)
    folders.save(clip, tmp_path / "model", "")
    found = verify(str(data), str(tmp_path / "model"), batch=12, micro_batch=5, device="cpu")
    assert found["passed"] is True
    assert found["max_relative_error_float64"] <= 1e-9
