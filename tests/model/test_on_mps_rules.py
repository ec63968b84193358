"""Loading, encoding, resizing and the self-check under the rules of MPS: no float64, no asynchronous copy, no channels_last."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CAPTIONS

from honeclip.device.fake import FakeMps, rules
from honeclip.model.load import load
from honeclip.model.resize import resize, set_context_length
from honeclip.model.selfcheck import device_check, self_check


def test_a_model_is_loaded_and_used_within_the_rules_of_mps(configs, pictures):
    device = FakeMps()
    with rules():
        clip = load("random:honeclip-test-efficientnet", device)
        resize(clip, 96)
        set_context_length(clip, 24)
        cosine_NM = clip.similarity(pictures, CAPTIONS)
        found = self_check(clip, precision="fp32")
    assert cosine_NM.shape == (7, 4)
    assert found["passed"]
    assert device.copies > 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_self_check_keeps_the_rules_in_each_precision(precision):
    with rules():
        found = device_check(FakeMps(), precision=precision)
    assert found["passed"], found
    assert torch.get_default_dtype() == torch.float32
