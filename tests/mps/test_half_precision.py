"""fp16 as on MPS: what stays in float32, in the backward too, and updates that are left out where a gradient overflows."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree

import pytest
import tiny_runs
import torch
from real_steps import Mode, a_batch, learner_for, model, step
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from honeclip.config import Loss
from honeclip.device.fake import FakeMps, RuleBroken, rules
from honeclip.losses import infonce, siglip, tiles
from honeclip.model.recompute import recomputed
from honeclip.model.towers import image_tower
from honeclip.monitoring import events
from honeclip.training import finish
from honeclip.training.run import fit

WEIGHTS = "open_clip_model.safetensors"
LOSSES = {module.__file__ for module in (infonce, siglip, tiles)}
HALF = (torch.float16, torch.bfloat16)


class Dtypes(TorchDispatchMode):
    """Notes the dtypes of floating tensors: of convolutions, of matrix products, and of everything that a loss computes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = {"convolution": set(), "product": set(), "loss": set()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        tensors = [one for one in tree_iter((args, kwargs, result)) if isinstance(one, torch.Tensor)]
        dtypes = {one.dtype for one in tensors if one.is_floating_point()}
        if name in ("convolution", "convolution_backward"):
            self.seen["convolution"] |= dtypes
        elif name in ("mm", "addmm", "bmm") and not in_a_loss():
            self.seen["product"] |= dtypes
        if in_a_loss():
            self.seen["loss"] |= dtypes
        return result


def in_a_loss() -> bool:
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_filename not in LOSSES:
        frame = frame.f_back
    return frame is not None


@pytest.fixture(scope="module")
def clips(vit, two_towers, text):
    return {"vit": model(str(vit), text), "two_towers": model(str(two_towers), text)}


@pytest.mark.parametrize("name", ["vit", "two_towers"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["infonce", "siglip"])
def test_convolutions_and_the_loss_are_float32_forward_and_backward(name, recompute, kind, clips):
    mode = Mode(keep=1, recompute=recompute, precision="fp16", loss=Loss(kind=kind, tile=2))
    learner, batch = learner_for(clips[name], mode), a_batch(clips[name])
    with Dtypes() as found:
        step(learner, batch)
    assert found.seen["convolution"] == {torch.float32}
    assert found.seen["loss"] == {torch.float32}
    assert torch.float16 in found.seen["product"]


def test_a_recomputed_convolution_in_a_backward_of_another_thread_is_float32(clips):
    """As on a GPU, whose backward runs in a thread of its own, where nothing that was entered outside holds."""

    clip = clips["two_towers"]
    tower = image_tower(clip)
    with recomputed(clip), clip.device.autocast("fp16"):
        images = clip.device.copy(torch.rand(2, 3, 32, 32))
        out = tower(images)

    def backward():
        with Dtypes() as found:
            out.float().sum().backward()
        return found.seen["convolution"]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(backward).result() == {torch.float32}
    clip.model.zero_grad()


def test_attention_dropout_without_gradients_is_seen_inside_multi_head_attention():
    attention = torch.nn.MultiheadAttention(8, 2, dropout=0.1)
    x = torch.rand(3, 1, 8)
    with rules():
        attention(x, x, x, need_weights=False)
        with torch.no_grad():
            attention.eval()(x, x, x, need_weights=False)
    with pytest.raises(RuleBroken, match=r"^rule 12: multi_head"), rules(), torch.no_grad():
        attention.train()(x, x, x, need_weights=False)


# --- the scaler ----------------------------------------------------------------------------------------------------


@pytest.fixture
def short(vit, tmp_path) -> Path:
    """A model with embeddings so short that the gradient towards them overflows fp16 at the first scales."""
    folder = copytree(vit, tmp_path / "short")
    weights = load_file(folder / WEIGHTS)
    for name in ("visual.proj", "text_projection"):
        weights[name] *= 0.03
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def test_updates_are_skipped_and_logged_until_the_scale_fits_and_then_it_learns(short, data, tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "write", lambda *folder, **content: None)
    settings = tiny_runs.settings(
        train={"precision": "auto", "length": 12, "lr": 1e-3, "warmup": 0, "schedule": "constant"},
        evaluate={"every": 0},
        checkpoint={"every": 1, "keep_last": 20},
    )
    said: list[str] = []
    with rules(placed_only=True):
        run = fit(data, tmp_path / "run", short, config=settings, device=FakeMps(), report=said.append)
    assert any("precision fp16" in text for text in said)
    seen = [one for one in events.read(run.folder / "events.jsonl") if one["event"] == "step"]
    skipped = [one["skipped"] for one in seen]
    count = sum(skipped)
    assert 1 <= count < 8
    assert skipped == [True] * count + [False] * (12 - count)
    assert [one["grad_norm"] is None for one in seen] == skipped

    def stored(step, name="weights.safetensors"):
        return load_file(run.folder / "checkpoints" / f"step-{step:06d}" / name)

    start = load_file(short / WEIGHTS)
    for name, value in stored(count).items():
        if name in start:
            assert torch.equal(value, start[name]), name
    assert {float(value) for name, value in stored(count, "optimizer.safetensors").items() if "/step" in name} <= {0.0}
    state = json.loads((run.folder / "checkpoints" / "step-000012" / "state.json").read_text())
    assert json.dumps(state).count(f'"scale": {65536 / 2**count}') == 1
    assert not torch.equal(stored(count + 1)["visual.proj"], start["visual.proj"])
    assert seen[-1]["loss"] < seen[0]["loss"]


def test_in_float32_nothing_is_skipped(short, data, tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "write", lambda *folder, **content: None)
    settings = tiny_runs.settings(train={"length": 3}, evaluate={"every": 0})
    run = fit(data, tmp_path / "run", short, config=settings, device=FakeMps(), report=lambda text: None)
    seen = [one for one in events.read(run.folder / "events.jsonl") if one["event"] == "step"]
    assert [one["skipped"] for one in seen] == [False] * 3
