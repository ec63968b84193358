"""What a device does: copies, the one lock, synchronising, freeing, timing; GPUs through stand-ins of their modules."""

from __future__ import annotations

import threading

import pytest
import torch
from machines import Card, Metal, NoStatistics, Statistics, card, linux, mac
from torch import nn

from honeclip.device.device import Cpu, Cuda, Mps
from honeclip.device.fake import FakeMps

CPU = Cpu(linux(), "test")


def devices():
    return [CPU, Cuda(card(), "test", Card()), Mps(mac(), "test", Metal(), Statistics()), FakeMps()]


@pytest.mark.parametrize("device", [CPU, FakeMps()], ids=["cpu", "fake"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize(
    "strided",
    [
        lambda x: x,
        lambda x: x.transpose(1, 3),
        lambda x: x[:, ::2],
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x[:1].expand(5, -1, -1, -1),
    ],
)
def test_a_copy_is_contiguous_and_equal(device, dtype, strided):
    tensor = strided((torch.arange(2 * 4 * 6 * 8) % 2).reshape(2, 4, 6, 8).to(dtype))
    copy = device.copy(tensor)
    assert copy.is_contiguous()
    assert copy.dtype is dtype
    assert torch.equal(copy, tensor)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_a_copy_of_a_scalar_or_of_nothing(shape):
    assert CPU.copy(torch.ones(shape)).shape == torch.Size(shape)


def test_copies_on_the_way_to_a_gpu_are_contiguous_and_blocking(monkeypatch):
    """`Tensor.to` is where torch hands over to the backend; what honeclip passes to it decides."""
    seen = []

    def to(tensor, *args, **kwargs):
        seen.append((tensor.is_contiguous(), args, kwargs))
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", to)
    for device in (Cuda(card(), "test"), Mps(mac(), "test")):
        device.copy(torch.ones(2, 3, 4, 5).transpose(1, 3))
    assert seen == [(True, (torch.device("cuda"),), {}), (True, (torch.device("mps"),), {})]


def test_one_lock_for_the_whole_process_that_a_thread_may_take_twice():
    assert len({id(device.lock) for device in devices()}) == 1
    lock, got = CPU.lock, []
    other = threading.Thread(target=lambda: got.append(lock.acquire(blocking=False)))
    with lock, FakeMps().lock:
        other.start()
        other.join()
    assert got == [False]
    with lock:
        pass


def test_synchronising_and_freeing_reach_the_backend():
    api = Card()
    cuda = Cuda(card(), "test", api)
    cuda.synchronise()
    cuda.empty_cache()
    assert api.calls == ["synchronize", "empty_cache"]
    metal = Metal()
    mps = Mps(mac(), "test", metal)
    mps.synchronise()
    mps.empty_cache()
    assert metal.calls == ["synchronize", "synchronize", "empty_cache"]
    CPU.synchronise()
    CPU.empty_cache()


@pytest.mark.parametrize("make", [lambda api: Cuda(card(), "test", api), lambda api: Mps(mac(), "test", api)])
def test_a_timer_waits_for_the_device_before_and_after(make):
    api = Card()
    with make(api).timer() as elapsed:
        api.calls.append("work")
        assert elapsed.seconds == 0
    assert api.calls == ["synchronize", "work", "synchronize"]
    assert elapsed.seconds > 0


def test_a_timer_ends_when_the_work_fails():
    for device in (CPU, FakeMps()):
        with pytest.raises(ValueError), device.timer() as elapsed:
            raise ValueError
        assert elapsed.seconds > 0


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", None)])
@pytest.mark.parametrize("device", [Mps(mac(), "test", Metal()), CPU, FakeMps()], ids=["mps", "cpu", "fake"])
def test_autocast_is_that_of_the_device(device, name, dtype):
    with device.autocast(name):
        assert torch.is_autocast_enabled(device.type) is (dtype is not None)
        assert dtype is None or torch.get_autocast_dtype(device.type) is dtype
    assert not torch.is_autocast_enabled(device.type)


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.skipif(torch.cuda.is_available(), reason="without a card torch must not switch it on")
def test_autocast_of_a_card_asks_torch_for_cuda():
    with Cuda(card(), "test", Card()).autocast("bf16"):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(("device", "dtype"), [(FakeMps(), torch.float32), (CPU, torch.bfloat16)], ids=["mps", "cpu"])
def test_convolutions_stay_in_float32_under_the_autocast_of_mps(device, dtype):
    convolution, linear = nn.Conv2d(3, 4, 2), nn.Linear(4, 2)
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    with device.autocast("bf16"):
        found = convolution(images.bfloat16())
        assert found.dtype is dtype
        assert nn.functional.conv2d(input=images, weight=convolution.weight).dtype is dtype
        assert linear(found.mean((2, 3))).dtype is torch.bfloat16
    if dtype is torch.float32:
        assert torch.equal(found, convolution(images.bfloat16().float()))
    found.float().sum().backward()
    assert convolution.weight.grad.dtype is images.grad.dtype is torch.float32


def test_memory_by_kind():
    for device in devices():
        found = device.memory()
        assert set(found) == {"total", "available", "held"}
        assert all(isinstance(value, int) and value >= 0 for value in found.values())
        assert found["available"] <= found["total"]


def test_the_allocators_own_peak_where_there_is_one():
    api = Card()
    cuda = Cuda(card(), "test", api)
    assert cuda.peak_bytes() == 5_000_000_000
    assert cuda.peak_bytes(reset=True) == 4_000_000_000
    mps = Mps(mac(), "test", Metal(), Statistics())
    assert (mps.peak_bytes(), mps.peak_bytes(reset=True)) == (7, 3)
    for without in (NoStatistics(), object()):
        assert Mps(mac(), "test", Metal(), without).peak_bytes(reset=True) is None
    assert CPU.peak_bytes() is None
