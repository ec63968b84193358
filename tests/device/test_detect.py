"""The choice of a device: each machine that is written down here gets its device and the reason in words."""

from __future__ import annotations

import pytest
from machines import card, linux, mac

from honeclip.device.detect import choose, judge_cuda, judge_mps
from honeclip.errors import BadInput

VIRTUAL = (
    "MPS backend out of memory (MPS allocated: 0 bytes, other allocations: 0 bytes, max allowed: 7.93 GB). Tried to "
    "allocate 256 bytes on shared pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory "
    "allocations (may cause system failure)."
)

MACS_WITHOUT = {
    "not built": (mac(mps_built=False, mps_available=False), ["torch 2.15 was built without MPS"]),
    "macOS too old for 2.15": (mac(macos=(14, 7), mps_available=False), ["needs macOS 15", "macOS 14.7"]),
    "macOS too old for 2.14": (
        mac(macos=(13, 6), torch=(2, 14), mps_available=False),
        ["needs macOS 14", "macOS 13.6"],
    ),
    "macOS too old for 2.13": (
        mac(macos=(13, 0), torch=(2, 13), mps_available=False),
        ["needs macOS 14", "macOS 13.0"],
    ),
    "virtual": (mac(mps_fault=VIRTUAL, mps_chip="Apple M1 (Virtual)"), ["virtual Macs", "Tried to allocate 256 bytes"]),
    "wrong sum": (mac(mps_fault="1 + 1 gave 0.0"), ["1 + 1 gave 0.0"]),
    "Rosetta": (mac(machine="x86_64", translated=True, mps_available=False), ["Rosetta", "arm64 Python"]),
    "Intel": (mac(machine="x86_64", mps_available=False, mps_chip="Intel Core i7"), ["Intel Mac", "Apple silicon"]),
    "unavailable": (mac(macos=(26, 3), mps_available=False), ["not available", "macOS 26.3", "arm64"]),
}

LINUX_WITHOUT = {
    "not built": (linux(cuda_built=False), "was built without CUDA"),
    "no card": (linux(), "finds no CUDA card"),
    "old driver": (linux(cuda_fault="The NVIDIA driver on your system is too old"), "driver on your system is too old"),
    "broken card": (
        card(cuda_fault="CUDA error: no kernel image is available"),
        "1 + 1 on it failed: CUDA error: no kern",
    ),
}


@pytest.mark.parametrize("case", MACS_WITHOUT)
def test_a_mac_whose_gpu_cannot_be_used_computes_on_the_cpu_and_says_why(case):
    platform, words = MACS_WITHOUT[case]
    device = choose("auto", platform)
    assert device.type == device.backend == device.handle.type == "cpu"
    for word in words:
        assert word in device.reason
    with pytest.raises(BadInput) as refused:
        choose("mps", platform)
    assert all(word in str(refused.value) for word in [*words, "--device auto or cpu"])


@pytest.mark.parametrize("case", LINUX_WITHOUT)
def test_a_machine_without_a_usable_card_computes_on_the_cpu_and_says_why(case):
    platform, words = LINUX_WITHOUT[case]
    device = choose("auto", platform)
    assert device.type == "cpu"
    assert words in device.reason
    with pytest.raises(BadInput, match="--device cuda"):
        choose("cuda", platform)


@pytest.mark.parametrize(
    ("platform", "kind", "name"),
    [
        (mac(), "mps", "Apple M2 Pro GPU (MPS)"),
        (mac(macos=(15, 0)), "mps", "Apple M2 Pro GPU (MPS)"),
        (mac(macos=(14, 0), torch=(2, 14)), "mps", "Apple M2 Pro GPU (MPS)"),
        (mac(macos=None), "mps", "Apple M2 Pro GPU (MPS)"),
        (card(), "cuda", "NVIDIA A100 (CUDA)"),
        (linux(cpu="AMD EPYC"), "cpu", "CPU (AMD EPYC, 2 cores)"),
        (linux(cpu="AMD EPYC", cores=1), "cpu", "CPU (AMD EPYC, 1 core)"),
    ],
)
def test_auto_takes_the_gpu_that_computed_something(platform, kind, name):
    device = choose("auto", platform)
    assert (device.type, device.backend, device.handle.type, device.name) == (kind, kind, kind, name)
    assert device.reason


@pytest.mark.parametrize(("platform", "wanted"), [(mac(), "mps"), (mac(), "cpu"), (card(), "cuda"), (card(), "cpu")])
def test_a_device_that_was_asked_for_is_taken(platform, wanted):
    device = choose(wanted, platform)
    assert device.type == wanted
    assert device.reason == "asked for"


@pytest.mark.parametrize(("platform", "wanted"), [(linux(), "mps"), (card(), "mps"), (mac(), "cuda")])
def test_a_device_of_another_machine_is_refused(platform, wanted):
    with pytest.raises(BadInput, match=f"--device {wanted}"):
        choose(wanted, platform)


def test_an_unknown_name_is_refused_with_the_names_that_there_are():
    with pytest.raises(BadInput, match="auto, cpu, mps, cuda"):
        choose("gpu", linux())


def test_a_device_is_given_back():
    device = choose("cpu", linux())
    assert choose(device) is device


def test_verdicts_can_be_asked_one_by_one():
    assert judge_mps(mac()).works
    assert not judge_cuda(mac()).works
    assert judge_cuda(card()).works
    assert "this is Linux" in judge_mps(card()).reason


def test_this_machine_gets_a_device_that_computes():
    device = choose()
    assert device.copy(device.copy(__import__("torch").ones(2)) + 1).sum().item() == 4
    assert choose("cpu").type == "cpu"
