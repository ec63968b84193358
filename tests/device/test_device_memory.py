"""Budgets, readings and peaks: against psutil on the CPU, against scripted modules on the GPUs."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
from machines import Card, Metal, NoStatistics, card, linux, mac

from honeclip.device import cgroup, matmul, resident
from honeclip.device.device import Cpu, Cuda, Mps
from honeclip.device.fake import FakeMps
from honeclip.device.memory import PeakMeter, available_bytes, baseline_bytes, budget, kinds, readings, swap
from honeclip.errors import ConfigError

GB = 1_000_000_000
MB = 1_000_000
CPU = Cpu(linux(), "test")


def touch(megabytes: int) -> np.ndarray:
    """Resident memory that the system lends and takes back: an allocator late in a long process reuses what it kept."""
    block = np.frombuffer(mmap.mmap(-1, megabytes * MB), dtype=np.uint8)
    block[:] = 1
    return block


def test_the_budget_of_a_cpu_follows_from_what_the_machine_is():
    limit = min(psutil.virtual_memory().total, cgroup.limit_bytes() or 1 << 60)
    found = budget(CPU)
    assert found.bytes == int(0.8 * limit)
    block = touch(300)
    assert budget(CPU) == found, "free memory must not move it"
    del block
    assert found.reason.startswith("80% of the")


def test_the_budget_of_a_gpu():
    assert budget(Mps(mac(), "test", Metal())).bytes == int(0.9 * 12 * GB)
    assert budget(FakeMps(total_bytes=20 * GB)).bytes == int(0.9 * 20 * GB)
    # 64 free, and 6 that this process has reserved already
    assert budget(Cuda(card(), "test", Card())).bytes == int(0.9 * 70 * GB)


@pytest.mark.parametrize(("wanted", "expected"), [(2, 2 * GB), (0.5, GB // 2)])
def test_a_budget_that_was_asked_for(wanted, expected):
    found = budget(CPU, wanted)
    assert found.bytes == expected
    assert f"memory.budget_gb = {wanted}" in found.reason


def test_auto_is_no_budget_that_was_asked_for():
    assert budget(CPU, "auto") == budget(CPU)


@pytest.mark.parametrize("wanted", [0, -1, float("nan")])
def test_a_budget_that_is_none_is_refused(wanted):
    with pytest.raises(ConfigError, match=r"memory\.budget_gb"):
        budget(CPU, wanted)


def test_readings_of_the_gpus():
    assert readings("cuda", Card()) == {"total": 80 * GB, "available": 66 * GB, "held": 4 * GB}
    found = readings("mps", Metal())
    assert (found["total"], found["held"]) == (12 * GB, 2 * GB)
    # at most what the limit leaves beside Metal's caches, and at most a share of what the system has left
    assert found["available"] <= min(int(0.9 * 12 * GB) - 3 * GB, psutil.virtual_memory().total)


def test_memory_by_kind_has_the_kinds_that_a_device_knows():
    cuda, mps = Cuda(card(), "", Card()), Mps(mac(), "", Metal())
    assert cuda.allocator_bytes() == {"allocated": 4 * GB, "driver": 6 * GB}
    assert mps.allocator_bytes() == {"allocated": 2 * GB, "driver": 3 * GB}
    assert set(kinds(CPU, 7)) == {"resident", "swap"}
    found = kinds(mps, 7)
    assert list(found) == ["allocated", "driver", "resident", "swap"]
    assert (found["allocated"], found["swap"]) == (2 * GB, 7)
    assert abs(found["resident"] - resident.now_bytes()) < 20 * MB


def test_swap_is_what_the_machine_says():
    assert 0 <= swap().used <= psutil.swap_memory().total
    assert swap().written <= psutil.swap_memory().sout


def test_the_bound_of_a_device_is_measured_once_and_is_no_more_than_it_can_do():
    found = matmul.flops_per_second(CPU, "fp32")
    assert 1e8 < found < 1e15
    assert matmul.flops_per_second(CPU, "fp32") == found


def test_available_on_a_cpu_is_within_memory_and_limit():
    limit = min(psutil.virtual_memory().total, cgroup.limit_bytes() or 1 << 60)
    assert 0 < available_bytes("cpu") <= limit


def test_a_device_that_cannot_be_asked_has_nothing_available():
    assert available_bytes("meta") == 0


def test_resident_memory_grows_by_what_is_touched():
    before = resident.now_bytes()
    block = touch(100)
    assert 90 * MB < resident.now_bytes() - before < 150 * MB
    del block


def test_the_peak_is_what_the_work_needed_and_not_what_was_there():
    there = touch(120)
    with PeakMeter(CPU) as meter:
        block = touch(100)
        del block
        small = touch(20)
        assert 15 * MB < meter.now_bytes < 60 * MB
        assert 95 * MB < meter.peak_bytes < 140 * MB
        del small
    after = touch(200)
    assert 95 * MB < meter.peak_bytes < 140 * MB, "what comes after the end does not count"
    del there, after


def test_two_meters_at_once_do_not_take_each_others_peak():
    with PeakMeter(CPU) as outer:
        block = touch(150)
        del block
        with PeakMeter(CPU) as inner:
            block = touch(50)
            del block
    assert 145 * MB < outer.peak_bytes < 190 * MB
    assert 45 * MB < inner.peak_bytes < 90 * MB


def test_a_baseline_from_after_the_imports_counts_the_model_too():
    baseline = baseline_bytes(CPU)
    model = touch(80)
    with PeakMeter(CPU, baseline) as meter:
        block = touch(40)
        del block
    assert 115 * MB < meter.peak_bytes < 160 * MB
    del model


TWICE = """
import torch
from machines import linux
from honeclip.device.device import Cpu
from honeclip.device.memory import PeakMeter
for _ in range(2):
    with PeakMeter(Cpu(linux(), "test")) as meter:
        pieces = [torch.ones(25_000) for _ in range(1000)]  # 100 MB in pieces that the heap keeps when freed
        del pieces
    print(meter.peak_bytes)
"""


def test_the_second_run_in_a_process_looks_like_the_first():
    # in a process of its own: what other tests left in this one's heap is no part of the claim
    paths = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
    first, second = map(int, done.stdout.split())
    assert 95 * MB < first < 140 * MB
    assert abs(first - second) < 10 * MB


def test_where_the_kernels_mark_is_not_to_be_had_a_thread_reads(monkeypatch):
    read = threading.Event()

    def scripted() -> int:
        if threading.current_thread() is threading.main_thread():
            return 1 * GB
        read.set()
        return 3 * GB

    monkeypatch.setattr(resident, "reset_high_water", lambda: False)
    monkeypatch.setattr(resident, "now_bytes", scripted)
    with PeakMeter(CPU) as meter:
        assert read.wait(60)
    assert meter.peak_bytes == 2 * GB


def test_a_meter_that_fails_inside_still_ends():
    meter = PeakMeter(CPU)
    with pytest.raises(ValueError), meter:
        raise ValueError
    meter.stop()
    assert meter.peak_bytes < 50 * MB


def test_the_peak_of_a_gpu_is_its_allocators():
    api = Card()
    with PeakMeter(Cuda(card(), "test", api)) as meter:
        assert meter.peak_bytes == 4 * GB
        api.peak = 9 * GB
        assert meter.now_bytes == 4 * GB
    api.peak = 11 * GB
    assert meter.peak_bytes == 9 * GB
    assert meter.baseline == baseline_bytes(Cuda(card(), "test", api)) == 0


def test_a_gpu_that_does_not_count_its_peak_is_read_when_told():
    metal = Metal()
    held = [1 * GB]
    metal.current_allocated_memory = lambda: held[0]
    with PeakMeter(Mps(mac(), "test", metal, NoStatistics())) as meter:
        held[0] = 5 * GB
        meter.sample()
        held[0] = 2 * GB
    assert meter.peak_bytes == 5 * GB


def test_the_kernels_high_water_mark(tmp_path):
    assert not resident.reset_high_water(tmp_path / "none")
    assert resident.high_water_bytes(tmp_path / "none") == 0
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t  1024 kB\n")
    assert resident.high_water_bytes(tmp_path) == 2048 * 1024
    assert resident.reset_high_water(tmp_path)
    assert (tmp_path / "clear_refs").read_text() == "5"


def test_what_is_freed_while_it_is_kept_goes_back_afterwards():
    before = resident.now_bytes()
    with resident.keeping_freed():
        blocks = [np.ones(20 * MB // 8) for _ in range(5)]
        del blocks
    assert resident.now_bytes() - before < 50 * MB
    filled = np.ones(64 * MB // 8)
    held = resident.now_bytes()
    del filled
    assert held - resident.now_bytes() > 50 * MB, "large blocks are mapped on their own again"
