"""The rule mode: every breach is named where it happens, and work that MPS can do passes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchgen
import yaml
from torch import nn

from honeclip.device.device import LOCK
from honeclip.device.fake import FakeMps, RuleBroken, rules
from honeclip.device.rules import MISSING
from honeclip.stepping.step import cached_step

IMAGES = torch.ones(2, 3, 8, 8)
QUERY = torch.ones(1, 2, 4, 8)


def half_convolution():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nn.Conv2d(3, 4, 2)(IMAGES)


def batch_norm_of_transposed():
    nn.BatchNorm2d(8).eval()(IMAGES.transpose(1, 3))


BREACHES = {
    "half convolution": (4, half_convolution),
    "double": (5, lambda: torch.ones(2).double()),
    "double by dtype": (5, lambda: torch.zeros(2, dtype=torch.float64)),
    "double from numpy": (5, lambda: torch.from_numpy(np.ones(2))),
    "double scalar": (5, lambda: torch.tensor(np.float64(2))),
    "double module": (5, lambda: nn.Linear(2, 2).double()),
    "complex double": (5, lambda: torch.zeros(2, dtype=torch.complex128)),
    "non_blocking": (6, lambda: IMAGES.to("cpu", non_blocking=True)),
    "non_blocking by place": (6, lambda: IMAGES.to("cpu", torch.float16, True)),
    "non_blocking copy_": (6, lambda: torch.empty(2, 3, 8, 8).copy_(IMAGES, True)),
    "non_blocking module": (6, lambda: nn.Linear(2, 2).to("cpu", non_blocking=True)),
    "pin_memory": (8, lambda: IMAGES.pin_memory()),
    "pinned factory": (8, lambda: torch.empty(2, pin_memory=True)),
    "channels_last": (9, lambda: IMAGES.to(memory_format=torch.channels_last)),
    "channels_last by place": (9, lambda: IMAGES.contiguous(memory_format=torch.channels_last)),
    "channels_last module": (9, lambda: nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)),
    "convolution of transposed": (9, lambda: nn.Conv2d(8, 4, 2)(IMAGES.transpose(1, 3))),
    "convolution of a transposed sequence": (9, lambda: nn.Conv1d(8, 4, 2)(IMAGES[0].transpose(0, 2))),
    "transposed weight": (9, lambda: F.conv2d(IMAGES, torch.ones(3, 4, 2, 2).transpose(0, 1))),
    "batch norm of transposed": (9, batch_norm_of_transposed),
    "attention dropout": (12, torch.no_grad()(lambda: F.scaled_dot_product_attention(QUERY, QUERY, QUERY, None, 0.1))),
    "attention dropout by name": (
        12,
        torch.no_grad()(lambda: F.scaled_dot_product_attention(QUERY, QUERY, QUERY, dropout_p=0.1)),
    ),
    "svd": (20, lambda: torch.linalg.svd(torch.ones(2, 2))),
    "eigh": (20, lambda: torch.linalg.eigh(torch.eye(2))),
    "eig": (20, lambda: torch.linalg.eig(torch.eye(2))),
}


@pytest.mark.parametrize("case", BREACHES)
def test_a_breach_is_named_at_its_place(case):
    number, breach = BREACHES[case]
    with pytest.raises(RuleBroken, match=rf"^rule {number}: "), rules():
        breach()


ALLOWED = {
    "to a dtype": lambda: IMAGES.to(torch.float16),
    "blocking by name": lambda: IMAGES.to("cpu", non_blocking=False),
    "asked for the layout": lambda: IMAGES.is_contiguous(memory_format=torch.channels_last),
    "scalars": lambda: IMAGES * 2.5 + np.float64(0.5),
    "integers": lambda: torch.arange(5).sum(),
    "attention": torch.no_grad()(lambda: F.scaled_dot_product_attention(QUERY, QUERY, QUERY)),
    "attention dropout in training": lambda: F.scaled_dot_product_attention(QUERY, QUERY, QUERY, dropout_p=0.1),
    "half linear": lambda: nn.Linear(8, 4).bfloat16()(IMAGES.bfloat16()),
    "contiguous again": lambda: nn.Conv2d(8, 4, 2)(IMAGES.transpose(1, 3).contiguous()),
    "half convolution in inference": torch.no_grad()(half_convolution),
    "a factorisation with a kernel": lambda: torch.linalg.inv(torch.eye(2)),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_what_mps_can_do_passes(case):
    with rules():
        ALLOWED[case]()


def test_after_the_mode_everything_is_as_before():
    run = threading.Thread.run
    with pytest.raises(RuleBroken), rules():
        torch.ones(2).double()
    assert threading.Thread.run is run
    assert torch.ones(2).double().dtype is torch.float64
    assert torch.linalg.svdvals(torch.eye(2)).tolist() == [1, 1]


def test_no_handler_on_the_way_can_hide_a_breach():
    def careless():
        try:
            torch.ones(2).double()
        except Exception:
            return

    with pytest.raises(RuleBroken), rules():
        careless()


def in_a_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_a_second_thread_may_not_compute_without_the_lock():
    with pytest.raises(RuleBroken, match=r"^rule 7: "), rules():
        in_a_thread(lambda: torch.ones(2) + 1)


def test_a_breach_in_a_thread_whose_result_nobody_asks_for_is_not_lost():
    def swallow():
        with pytest.raises(RuleBroken):
            torch.ones(2)

    with pytest.raises(RuleBroken, match=r"^rule 7: "), rules():
        in_a_thread(swallow)


def test_a_second_thread_may_decode_to_integers_and_compute_under_the_lock():
    def under_the_lock():
        with LOCK:
            return torch.ones(2) + 1

    with rules():
        assert in_a_thread(lambda: torch.from_numpy(np.zeros(3, np.uint8)).clone()).sum() == 0
        assert in_a_thread(under_the_lock).sum() == 4


def test_a_thread_that_outlives_the_mode_is_free_again():
    with ThreadPoolExecutor(1) as pool:
        with rules():
            pool.submit(lambda: torch.ones(2, dtype=torch.int64)).result()
        assert pool.submit(lambda: torch.ones(2).double().sum().item()).result() == 2


class Tower(nn.Module):
    """A small image tower with the parts of a CLIP: patch convolution, frozen batch norm, attention, layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.moments = nn.Conv2d(3, 16, 4, 4), nn.BatchNorm2d(16).eval()
        self.block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.head = nn.Linear(16, 8)

    def forward(self, images):
        tokens = self.moments(self.patches(images)).flatten(2).transpose(1, 2)
        return F.normalize(self.head(self.block(tokens).mean(1)), dim=-1)


def test_a_whole_exact_step_passes_forward_and_backward():
    image, text = Tower(), nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(32, 8))
    scale = nn.Parameter(torch.tensor(2.0))
    learned = [*image.parameters(), *text.parameters(), scale]
    optimizer = torch.optim.AdamW(learned, lr=1e-3)

    def loss(image_BD, text_BD):
        logits = scale.exp() * image_BD @ F.normalize(text_BD, dim=-1).T
        return F.cross_entropy(logits, torch.arange(len(logits)))

    with rules():
        inputs = [torch.rand(6, 3, 8, 8), torch.randint(0, 20, (6, 4))]
        cached_step([image, text], inputs, loss, micro_batch=4, keep=0)
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
    assert scale.grad is not None


def test_a_breach_in_a_backward_is_seen():
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad.double().float()

    x = torch.ones(2, requires_grad=True)
    with pytest.raises(RuleBroken, match=r"^rule 5: "), rules():
        Bad.apply(x).sum().backward()


DEVICE = FakeMps()


def placed(*shape: int) -> torch.Tensor:
    return DEVICE.copy(torch.ones(shape))


PLACED_BREACHES = {
    "double of a placed": ("rule 5", lambda: placed(2).double()),
    "double moved": ("rule 5", lambda: torch.ones(2, dtype=torch.float64).to(DEVICE.handle)),
    "double module": ("rule 5", lambda: nn.Linear(2, 2).double().to(DEVICE.handle)(placed(2).double())),
    "missing copy": ("placement", lambda: placed(2) + torch.tensor([1.0, 2.0])),
    "missing copy from numpy": ("placement", lambda: placed(2) * torch.from_numpy(np.ones(2, np.float32))),
    "missing copy of what is computed from data": ("placement", lambda: placed(2) @ (torch.tensor([1.0, 2.0]) + 1)),
    "missing copy to a module": ("placement", lambda: nn.Linear(2, 2).to(DEVICE.handle)(torch.tensor([1.0, 2.0]))),
    "too early on the host": ("placement", lambda: placed(2).cpu() + placed(2)),
    "numpy of a placed": ("placement", lambda: placed(2).numpy()),
    "array of a placed": ("placement", lambda: np.asarray(placed(2) + 1)),
    "no kernel": ("rule 20", lambda: torch.linalg.svd(placed(2, 2))),
    "thread": ("rule 7", lambda: in_a_thread(lambda: placed(2) + 1)),
    "dropout": (
        "rule 12",
        torch.no_grad()(lambda: F.scaled_dot_product_attention(*[placed(1, 2, 4, 8)] * 3, None, 0.1)),
    ),
    "transposed": ("rule 9", lambda: nn.Conv2d(8, 4, 2).to(DEVICE.handle)(placed(2, 3, 8, 8).transpose(1, 3))),
}


@pytest.mark.parametrize("case", PLACED_BREACHES)
def test_a_breach_on_the_device_is_seen_where_the_host_is_free(case):
    rule, breach = PLACED_BREACHES[case]
    with pytest.raises(RuleBroken, match=f"^{rule}: "), rules(placed_only=True):
        breach()


PLACED_ALLOWED = {
    "double on the host": lambda: torch.ones(2).double() + 1,
    "double of what came back": lambda: placed(2).cpu().double().numpy(),
    "back by name": lambda: placed(2).to("cpu").numpy(),
    "float32 of double": lambda: placed(2) + torch.ones(2, dtype=torch.float64).float().to(DEVICE.handle),
    "threads on the host": lambda: in_a_thread(lambda: torch.ones(2) + 1),
    "svd on the host": lambda: torch.linalg.svd(torch.ones(2, 2)),
    "svd of what came back": lambda: torch.linalg.svd(placed(2, 2).cpu()),
    "made beside another": lambda: placed(2) + torch.tensor([1.0, 2.0], device=placed(2).device),
    "moved beside another": lambda: placed(2) + torch.tensor([1.0, 2.0]).to(placed(2).device),
    "made from nothing": lambda: placed(2) + torch.zeros(2),
    "a scalar of the host": lambda: placed(2) * torch.tensor(2.0),
    "written from the host": lambda: placed(2).copy_(torch.tensor([1.0, 2.0])) + placed(2),
    "chosen by numbers of the host": lambda: placed(2)[torch.tensor([0, 1])],
    "module and back": lambda: nn.Linear(2, 2).to(DEVICE.handle).cpu()(torch.tensor([1.0, 2.0])),
    "module on the device": lambda: nn.Linear(2, 2).to(DEVICE.handle)(placed(2)).sum().backward(),
}


@pytest.mark.parametrize("case", PLACED_ALLOWED)
def test_what_a_run_does_on_the_host_is_its_own_affair(case):
    with rules(placed_only=True):
        PLACED_ALLOWED[case]()


def test_a_tensor_that_was_moved_is_still_where_it_was():
    with rules(placed_only=True):
        here = torch.tensor([1.0, 2.0])
        there = here.to(DEVICE.handle)
        here.copy_(there * 2)
        assert here.numpy().tolist() == [2, 4]
        assert there.cpu().numpy().tolist() == [1, 2]
    with pytest.raises(RuleBroken, match=r"^placement: numpy"), rules(placed_only=True):
        placed(2)[torch.tensor([1])].numpy()


def test_moving_changes_no_value_and_keeps_gradients():
    parameter = torch.arange(4.0, requires_grad=True)
    with rules(placed_only=True):
        there = parameter.to(DEVICE.handle)
        (there * there).cpu().sum().backward()
    assert parameter.grad.tolist() == [0, 2, 4, 6]


def test_gradients_travel_with_the_data_between_host_and_device():
    weight = DEVICE.copy(torch.ones(2)).requires_grad_()
    with rules(placed_only=True):
        data = torch.tensor([3.0, 4.0], requires_grad=True)
        there = DEVICE.copy(data) * weight.to(DEVICE.handle)
        (there * there).cpu().sum().backward()
        assert (data.grad + torch.tensor([1.0, 1.0])).tolist() == [7, 9]
    assert weight.grad.tolist() == [18, 32]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("placed_only", [False, True])
def test_torchs_gradient_scaler_passes(placed_only, fused):
    model = nn.Linear(4, 2)
    optimizer, scaler = torch.optim.AdamW(model.parameters(), fused=fused), torch.amp.GradScaler("cpu", init_scale=64.0)
    before = model.weight.detach().clone()
    with rules(placed_only):
        inputs = DEVICE.copy(torch.ones(3, 4))
        with DEVICE.autocast("fp16"):
            loss = model.to(DEVICE.handle)(inputs).float().square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert not torch.equal(model.weight, before)


def test_operations_named_as_missing_are_missing_in_the_torch_that_is_installed():
    path = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    kernels: dict[str, str] = {}
    for entry in yaml.safe_load(path.read_text()):
        name = entry["func"].split("(")[0].split(".")[0]
        kernels[name] = kernels.get(name, "") + " " + " ".join(entry.get("dispatch", {}))
    for name in MISSING:
        assert name in kernels
        assert "MPS" not in kernels[name]
        assert "CompositeImplicit" not in kernels[name]
