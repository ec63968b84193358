"""Plain accumulation: there for comparison, under its own name, and another task than the exact step's."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from honeclip.errors import ConfigError
from honeclip.monitoring import events
from honeclip.stepping.accumulate import accumulated_step
from honeclip.stepping.step import cached_step


def clip_loss(image_BD, text_BD):
    logits_BB = 10 * normalize(image_BD, dim=1) @ normalize(text_BD, dim=1).T
    diagonal = torch.arange(len(logits_BB))
    return (cross_entropy(logits_BB, diagonal) + cross_entropy(logits_BB.T, diagonal)) / 2


def test_it_is_the_mean_of_small_losses_and_not_the_whole_one():
    torch.manual_seed(0)
    towers = [nn.Linear(6, 4).double() for _ in range(2)]
    inputs = [torch.randn(10, 6, dtype=torch.float64) for _ in range(2)]
    expected = [torch.zeros_like(one) for tower in towers for one in tower.parameters()]
    parameters = [one for tower in towers for one in tower.parameters()]
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        small = clip_loss(*(tower(x[start:stop]) for tower, x in zip(towers, inputs, strict=True)))
        for total, one in zip(expected, torch.autograd.grad(small, parameters), strict=True):
            total += one * (stop - start) / 10
    result = accumulated_step(towers, inputs, lambda start, stop: clip_loss, micro_batch=4)
    plain = [one.grad.clone() for one in parameters]
    for one, wanted in zip(plain, expected, strict=True):
        torch.testing.assert_close(one, wanted, rtol=0, atol=1e-14)
    for one in parameters:
        one.grad = None
    exact = cached_step(towers, inputs, clip_loss, micro_batch=4)
    assert result.loss < exact.loss - 0.1, "fewer negatives are told apart more easily"
    assert max(float((one.grad - other).abs().max()) for one, other in zip(parameters, plain, strict=True)) > 1e-3


def test_its_loss_is_in_single_precision_whatever_the_towers_compute_in():
    torch.manual_seed(0)
    towers, inputs, seen = [nn.Linear(6, 4) for _ in range(2)], [torch.randn(6, 6) for _ in range(2)], []

    def loss(image_BD, text_BD):
        seen.append((image_BD.dtype, torch.is_autocast_enabled("cpu")))
        return clip_loss(image_BD, text_BD), {"pairs": torch.tensor(float(len(image_BD)))}

    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        result = accumulated_step(towers, inputs, lambda start, stop: loss, micro_batch=4)
    assert seen == [(torch.float32, False)] * 2
    assert (result.micro_batch, result.kept, result.retries, result.finite) == (4, 2, 0, True)
    assert result.parts == {"pairs": pytest.approx(4 * 4 / 6 + 2 * 2 / 6)}
    assert 0 < result.seconds["all"] <= time.perf_counter() - began


def test_a_run_needs_a_micro_batch_for_it_and_then_sees_only_its_negatives(quick, tmp_path):
    with pytest.raises(ConfigError, match="set memory.micro_batch, or leave train.accumulation=exact"):
        quick(train={"accumulation": "plain"})
    losses = {}
    for kind in ("plain", "exact"):
        run = quick(out=tmp_path / kind, train={"accumulation": kind, "length": 2}, memory={"micro_batch": 2})
        losses[kind] = [one["loss"] for one in events.read(run.folder / "events.jsonl") if one["event"] == "step"]
    assert losses["plain"][0] < losses["exact"][0] - 0.5
