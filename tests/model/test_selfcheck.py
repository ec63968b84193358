"""The self-check passes where the arithmetic is right and fails where it is not."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from honeclip.model.selfcheck import device_check, self_check

KEYS = {"image_cosine", "text_cosine", "loss_difference", "gradient_difference", "passed"}


def test_the_cpu_agrees_with_itself_in_each_precision(cpu):
    for precision in ("fp32", "bf16"):
        found = device_check(cpu, precision=precision)
        assert set(found) == KEYS
        assert found["passed"] is True, (precision, found)
        json.dumps(found, allow_nan=False)
    assert found["image_cosine"] < 1 - 1e-7  # bf16 was really computed


def test_it_leaves_the_model_as_it_was(make):
    clip = make("vit")
    clip.model.train()
    before = {name: value.clone() for name, value in clip.model.state_dict().items()}
    assert self_check(clip, precision="fp32")["passed"]
    assert all(torch.equal(value, before[name]) for name, value in clip.model.state_dict().items())
    assert all(one.grad is None for one in clip.model.parameters())
    assert clip.model.training


@pytest.mark.parametrize("name", ["custom", "siglip", "efficientnet"])
def test_every_kind_of_tower_can_be_checked(name, make):
    found = self_check(make(name), precision="fp32")
    assert found["passed"], found


def broken(clip, change):
    wrong = copy.copy(clip)
    wrong.model = copy.deepcopy(clip.model)
    with torch.no_grad():
        change(wrong.model)
    return wrong


def test_wrong_results_fail(make):
    clip = make("vit")
    faults = {
        "image": lambda model: model.visual.proj[0].mul_(3),
        "text": lambda model: model.text_projection[0].mul_(3),
        "scale": lambda model: model.logit_scale.add_(0.5),
        "nan": lambda model: model.visual.proj.fill_(torch.nan),
    }
    for name, change in faults.items():
        found = self_check(broken(clip, change), reference=clip, precision="fp32")
        assert found["passed"] is False, (name, found)
        json.dumps(found, allow_nan=False)


def test_a_wrong_gradient_alone_fails(make):
    clip = make("vit")
    wrong = broken(clip, lambda model: None)
    wrong.model.ln_final.register_forward_hook(lambda module, given, out: out.detach())
    found = self_check(wrong, reference=clip, precision="fp32")
    assert found["image_cosine"] > 0.9999
    assert found["text_cosine"] > 0.9999
    assert found["passed"] is False
