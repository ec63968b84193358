"""Facts of this machine against what it says elsewhere, and of others from what they would say."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import warnings

import pytest
import torch
from machines import Metal

from honeclip.device import facts

EPYC = """\
processor\t: 0
model name\t: AMD EPYC 9R45
flags\t\t: fpu sse4_2 avx2 avx512f avx512_bf16 avx512_vnni
processor\t: 1
model name\t: AMD EPYC 9R45
"""
XEON = EPYC.replace("AMD EPYC 9R45", "Intel(R) Xeon(R) Platinum 8481C").replace("avx512_bf16", "avx512_bf16 amx_bf16")
GRAVITON = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd bf16 i8mm\n"


def test_this_machine_as_others_see_it():
    found = facts.gather()
    assert found.system == platform.system()
    assert found.machine == platform.machine()
    assert f"{found.torch[0]}.{found.torch[1]}." in torch.__version__
    assert found.cuda_available == torch.cuda.is_available()
    assert found.mps_available == torch.backends.mps.is_available()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert (found.macos is not None) == (found.system == "Darwin")
    assert facts.gather() is found


@pytest.mark.parametrize(
    ("text", "name", "flag"),
    [
        (EPYC, "AMD EPYC 9R45", "avx512_bf16"),
        (XEON, "Intel(R) Xeon(R) Platinum 8481C", "amx_bf16"),
        (EPYC.replace("avx512_bf16", "avx512_bitalg"), "AMD EPYC 9R45", None),
        (GRAVITON, None, None),
    ],
)
def test_name_and_bf16_flag_of_a_cpu(tmp_path, text, name, flag):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert facts.cpu_bf16(cpuinfo) == flag
    if name:
        assert facts.cpu_name(cpuinfo) == name


def test_a_machine_without_cpuinfo_has_a_name_and_no_flag(tmp_path):
    assert facts.cpu_bf16(tmp_path / "none") is None
    assert facts.cpu_name(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "pair"),
    [("15.3.1", (15, 3)), ("26", (26, 0)), ("2.15.0+cu132\n", (2, 15)), ("2.16.0.dev20260919", (2, 16)), ("", None)],
)
def test_versions_as_pairs(text, pair):
    assert facts.version_pair(text) == pair


def raising(error):
    def ones(*_, **__):
        raise error

    return ones


def test_the_probe_computes_and_says_what_went_wrong():
    assert facts.probe("cpu") is None
    assert facts.probe("mps", lambda *_, **__: torch.zeros(1)) == "1 + 1 gave 1.0"
    assert facts.probe("mps", raising(RuntimeError("first line\nsecond"))) == "first line"
    assert facts.probe("cuda", raising(AssertionError("Torch not compiled with CUDA enabled"))).startswith("Torch not")
    assert facts.probe("cuda", raising(RuntimeError())) == "RuntimeError"


def test_the_probe_of_mps_sets_the_share_of_memory_first():
    metal = Metal()
    calls = metal.calls

    def ones(count, device):
        calls.append(f"ones on {device}")
        return torch.ones(count)

    assert facts.probe_mps(metal, ones) is None
    assert calls == ["fraction 0.9", "ones on mps"]


def test_a_mac_whose_allocator_does_not_start_has_a_fault():
    class Broken:
        def set_per_process_memory_fraction(self, share):
            raise RuntimeError("invalid low watermark ratio 1.4\nhere")

    assert facts.probe_mps(Broken(), torch.ones) == "invalid low watermark ratio 1.4"


def test_what_torch_warns_of_when_it_finds_no_card_is_the_fault():
    def old_driver():
        warnings.warn("CUDA initialization: The NVIDIA driver is too old\nmore", UserWarning, stacklevel=1)
        return False

    assert facts.find_cuda(old_driver) == (False, "CUDA initialization: The NVIDIA driver is too old")
    assert facts.find_cuda(lambda: False) == (False, None)
    assert facts.find_cuda(lambda: True) == (True, None)


def test_machine_and_versions_are_json_and_name_no_host():
    machine, versions = facts.machine(), facts.versions()
    json.dumps([machine, versions])
    assert machine["cores"] >= 1
    assert machine["memory_gb"] > 0
    assert platform.node() not in machine.values()
    assert versions["python"] == platform.python_version()
    for name in ("torch", "open_clip_torch", "honeclip"):
        assert versions[name] == importlib.metadata.version(name)
