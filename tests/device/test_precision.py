"""The choice of a precision: by device, chip, version and flag, with its reason."""

from __future__ import annotations

import pytest
import torch
from machines import card, linux, mac

from honeclip.device.detect import choose as device_for
from honeclip.device.fake import FakeMps
from honeclip.device.precision import autocast_dtype, choose, weight_dtype
from honeclip.errors import ConfigError

OLD = (2, 12)


def on(platform):
    return device_for("auto", platform)


@pytest.mark.parametrize(
    ("device", "name", "words"),
    [
        (
            on(mac(mps_chip="Apple M1")),
            "fp16",
            "Apple M1: fp16 autocast on fp32 weights with a gradient scaler; its GPU only",
        ),
        (on(mac(mps_chip="Apple M2 Pro")), "fp16", "Apple M2 Pro"),
        (on(mac(mps_chip="Apple M4 Max")), "fp16", "bf16 is there when asked for"),
        (on(mac(mps_chip="")), "fp16", "Apple GPU"),
        (on(mac(torch=OLD)), "fp32", "torch 2.12"),
        (FakeMps(), "fp16", "Apple M2"),
        (FakeMps(torch_version=OLD), "fp32", "torch 2.12"),
        (on(card()), "bf16", "NVIDIA A100"),
        (on(card(cuda_bf16=False, cuda_name="Tesla T4")), "fp16", "Tesla T4 does not compute bf16"),
        (on(linux()), "fp32", "needs a CPU with avx512_bf16 or amx_bf16"),
        (on(linux(cpu_bf16="avx512_bf16")), "bf16", "avx512_bf16"),
        (on(linux(cpu_bf16="amx_bf16")), "bf16", "amx_bf16"),
        (on(linux(machine="aarch64")), "fp32", ""),
        (on(mac(mps_available=False)), "fp32", ""),
    ],
)
def test_auto_takes_what_the_device_computes_rightly_and_fast(device, name, words):
    found = choose(device)
    assert found.name == name
    assert words in found.reason


@pytest.mark.parametrize(
    ("device", "wanted"),
    [
        (on(linux()), "fp32"),
        (on(linux()), "fp64"),
        (on(linux()), "bf16"),
        (on(linux()), "fp16"),
        (on(mac(mps_chip="Apple M3")), "bf16"),
        (on(mac(mps_chip="Apple M10 Ultra")), "bf16"),
        (on(mac(mps_chip="Apple M1")), "fp16"),
        (on(mac(torch=OLD)), "fp32"),
        (on(card()), "fp16"),
        (on(card()), "bf16"),
    ],
)
def test_a_precision_that_was_asked_for_is_taken_where_it_is_right(device, wanted):
    found = choose(device, wanted)
    assert found.name == wanted
    assert "asked for" in found.reason


@pytest.mark.parametrize(
    ("device", "wanted", "words"),
    [
        (on(mac()), "fp64", "use --device cpu"),
        (on(card()), "fp64", "use --device cpu"),
        (FakeMps(), "fp64", "use --device cpu"),
        (on(mac(mps_chip="Apple M1")), "bf16", "Apple M1 emulates bf16"),
        (on(mac(mps_chip="Apple M2 Ultra")), "bf16", "Apple M2 Ultra emulates bf16"),
        (on(mac(mps_chip="")), "bf16", "this GPU emulates bf16"),
        (on(mac(torch=OLD)), "fp16", "torch 2.13 and newer"),
        (on(mac(torch=OLD, mps_chip="Apple M4")), "bf16", "torch 2.13 and newer"),
        (on(card(cuda_bf16=False, cuda_name="Tesla T4")), "bf16", "Tesla T4"),
        (on(linux()), "fp8", "auto, fp32, bf16, fp16, fp64"),
    ],
)
def test_a_precision_that_would_be_wrong_is_refused_with_the_key_and_a_way_out(device, wanted, words):
    with pytest.raises(ConfigError) as refused:
        choose(device, wanted)
    assert f"train.precision={wanted}" in str(refused.value)
    assert words in str(refused.value)


@pytest.mark.parametrize(("flag", "slow"), [(None, True), ("avx512_bf16", False)])
def test_emulated_bf16_is_allowed_on_a_cpu_and_said(flag, slow):
    assert ("emulates bf16" in choose(on(linux(cpu_bf16=flag)), "bf16").reason) is slow


@pytest.mark.parametrize(
    ("name", "autocast", "weights"),
    [
        ("fp32", None, torch.float32),
        ("fp64", None, torch.float64),
        ("fp16", torch.float16, torch.float32),
        ("bf16", torch.bfloat16, torch.float32),
    ],
)
def test_dtypes_of_a_precision(name, autocast, weights):
    assert autocast_dtype(name) is autocast
    assert weight_dtype(name) is weights
    with choose_device().autocast(name):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype is (autocast or torch.float32)


def choose_device():
    return device_for("cpu", linux())
