"""The fake device: it fails where its script says, in the words of MPS, and an exact step recovers from it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from honeclip.device.fake import FakeMps
from honeclip.device.memory import PeakMeter
from honeclip.device.oom import is_out_of_memory
from honeclip.errors import MemoryExhausted
from honeclip.stepping.step import cached_step

MB = 1_000_000


def block(megabytes: float) -> torch.Tensor:
    return torch.zeros(int(megabytes * MB / 4))


def test_it_is_a_cpu_to_torch_and_mps_to_honeclip():
    device = FakeMps(chip="Apple M4 Max")
    assert (device.type, device.backend, device.handle.type) == ("cpu", "mps", "cpu")
    assert device.name == "Apple M4 Max GPU (fake MPS)"
    assert device.reason
    with device.lock, device.autocast("fp16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float16
    device.synchronise()
    device.empty_cache()
    assert device.emptied == 1


def test_a_copy_is_a_copy_and_there_is_no_float64():
    device, tensor = FakeMps(), torch.zeros(3)
    copy = device.copy(tensor)
    tensor.fill_(1)
    assert copy.sum() == 0
    with pytest.raises(TypeError, match="doesn't support float64"):
        device.copy(torch.zeros(3, dtype=torch.float64))


def test_scripted_copies_run_out_of_memory():
    device, tensor = FakeMps(fail_at=[2, 4]), torch.zeros(64)
    for number in range(1, 6):
        if number in (2, 4):
            with pytest.raises(RuntimeError, match="Tried to allocate 256 bytes on private pool") as full:
                device.copy(tensor)
            assert is_out_of_memory(full.value)
        else:
            assert torch.equal(device.copy(tensor), tensor)
    assert device.copies == 5


def test_scripted_readings_come_one_by_one_and_the_last_stays():
    device = FakeMps(total_bytes=100, available_bytes=[90, 10, 50])
    assert [device.memory()["available"] for _ in range(5)] == [90, 10, 50, 50, 50]
    assert device.memory()["total"] == 100


def test_bytes_are_counted_while_a_tensor_lives_and_views_are_free():
    device = FakeMps(total_bytes=100 * MB)
    with device.counting():
        first = block(4)
        view, _ = first[1:], first.reshape(2, -1)
        first.add_(1)
        assert device.held_bytes == 4 * MB
        assert device.memory()["available"] == 96 * MB
        del first
        assert device.held_bytes == 4 * MB, "the view keeps it alive"
        del view, _
        assert device.held_bytes == 0
        assert device.peak_bytes() == 4 * MB
        assert device.peak_bytes(reset=True) == 0


def test_the_limit_is_kept_in_the_words_of_mps():
    device = FakeMps(limit_bytes=10 * MB)
    with device.counting():
        kept = block(8)
        with pytest.raises(
            RuntimeError, match=r"MPS allocated: 7\.63 MiB.*max allowed: 9\.54 MiB.*allocate 3\.81 MiB"
        ) as full:
            block(4)
        assert is_out_of_memory(full.value)
        assert device.held_bytes == 8 * MB
        del kept
        block(9)


def test_tensors_from_before_do_not_count():
    device, weight = FakeMps(limit_bytes=MB), torch.zeros(4 * MB)
    with device.counting():
        weight[1:].mul_(2)
        assert device.held_bytes == 0


def test_backward_passes_are_held_to_the_limit_too():
    weight = nn.Parameter(torch.ones(1000, 1000))
    device = FakeMps(limit_bytes=5 * MB)
    with device.counting(), pytest.raises(RuntimeError, match="MPS backend out of memory"):
        (weight * 2 * weight).sum().backward()


def test_the_meter_reads_the_fakes_peak():
    device = FakeMps()
    with device.counting(), PeakMeter(device) as meter:
        block(20)
        kept = block(5)
        assert meter.now_bytes == 5 * MB
    del kept
    assert meter.peak_bytes == 20 * MB
    assert meter.baseline == 0


class Towers(nn.Module):
    def __init__(self, device: FakeMps) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.device = device
        self.image = nn.Sequential(nn.Linear(50, 400), nn.GELU(), nn.Linear(400, 8))
        self.text = nn.Sequential(nn.Embedding(50, 8), nn.Flatten(), nn.Linear(32, 8))
        self.inputs = torch.randn(64, 50), torch.randint(0, 50, (64, 4))

    def step(self, micro_batch: int):
        encoders = [lambda x: self.image(self.device.copy(x)), lambda x: self.text(self.device.copy(x))]
        return cached_step(encoders, self.inputs, self.loss, micro_batch=micro_batch, keep=0)

    def loss(self, image, text):
        return F.cross_entropy(image @ text.T, torch.arange(len(image)))

    def gradients(self):
        return [one.grad.clone() for one in self.parameters()]


def test_an_exact_step_within_a_limit_gives_the_gradient_of_one_without():
    free = Towers(FakeMps())
    assert free.step(16).retries == 0
    device = FakeMps(limit_bytes=250_000)
    tight = Towers(device)
    with device.counting():
        result = tight.step(64)
    assert result.retries == 2
    assert result.micro_batch == 16
    assert device.peak_bytes() <= 250_000
    for one, other in zip(tight.gradients(), free.gradients(), strict=True):
        assert torch.equal(one, other)


def test_an_exact_step_survives_a_failed_copy_and_gives_up_where_nothing_fits():
    tight = Towers(FakeMps(fail_at=[3]))
    assert tight.step(32).retries == 1
    hopeless = Towers(FakeMps(limit_bytes=1000))
    with hopeless.device.counting(), pytest.raises(MemoryExhausted, match="MPS backend out of memory"):
        hopeless.step(8)
