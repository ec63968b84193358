"""What honeclip computes on a GPU is what it computes on the CPU: the step, the losses, sliced attention, a model, a run.

The GPUs of the machine at hand, MPS or CUDA; elsewhere those are skipped, and the fake device shows that these tests run.
"""

from __future__ import annotations

import copy

import pytest
import tiny_runs
import torch
from torch import nn
from torch.nn import functional

from honeclip.device.detect import choose
from honeclip.losses.infonce import infonce
from honeclip.losses.siglip import siglip
from honeclip.losses.supcon import supcon
from honeclip.losses.targets import Targets
from honeclip.model.attention import sliced
from honeclip.model.load import load
from honeclip.model.selfcheck import device_check
from honeclip.monitoring import events
from honeclip.stepping.step import cached_step
from honeclip.training.run import fit

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE = 2e-4
"""Float32 on a GPU adds in another order, and CUDA may take TF32 for matrix products where a user allows it."""


def close(found, expected) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        size = float(theirs.abs().max()) or 1.0
        assert float((ours.detach().cpu().double() - theirs.double()).abs().max()) <= CLOSE * size


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("keep", [0, 1, 99])
def test_the_exact_step(accelerator, keep):
    torch.manual_seed(0)
    image, text = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 8)), nn.Linear(10, 8)
    scale, given = nn.Parameter(torch.tensor(2.0)), (drawn(23, 12, seed=1), drawn(23, 10, seed=2))
    here = [copy.deepcopy(one).double() for one in (image, text)]
    plain_scale = nn.Parameter(scale.detach().double())
    infonce(*(t(x.double()) for t, x in zip(here, given, strict=True)), plain_scale, Targets()).backward()
    expected = [one.grad for one in (*here[0].parameters(), *here[1].parameters(), plain_scale)]
    there = [one.to(accelerator.handle) for one in (image, text)]
    own = nn.Parameter(accelerator.copy(scale.detach()))
    inputs = [accelerator.copy(one) for one in given]
    cached_step(there, inputs, lambda a, b: infonce(a, b, own, Targets(), 5), micro_batch=4, keep=keep)
    close([one.grad for one in (*there[0].parameters(), *there[1].parameters(), own)], expected)


@pytest.mark.parametrize("name", ["infonce", "hard negatives", "soft", "siglip", "supcon"])
def test_losses_and_their_gradients(accelerator, name):
    ids, vectors = torch.arange(19) // 2, functional.normalize(drawn(19, 3, seed=5), dim=1)

    def found(place, dtype) -> list[torch.Tensor]:
        inputs = [place(one.to(dtype)).requires_grad_() for one in (drawn(19, 8, seed=3), drawn(19, 8, seed=4))]
        inputs += [place(torch.tensor(value, dtype=dtype)).requires_grad_() for value in (2.0, -3.0)]
        image, text, scale, bias = inputs
        targets = Targets(place(ids))
        soft = Targets(place(ids), vectors_BK=place(vectors.to(dtype)), blend=0.3, smoothing=0.1)
        losses = {
            "infonce": lambda: infonce(image, text, scale, targets, 4),
            "hard negatives": lambda: infonce(image, text, scale, targets, 4, hard_negatives=0.5),
            "soft": lambda: infonce(image, text, scale, soft, 4),
            "siglip": lambda: siglip(image, text, scale, bias, targets, 4),
            "supcon": lambda: supcon(image, scale, targets, 4),
        }
        loss = losses[name]()
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        return [loss.detach(), *(one for one in gradients if one is not None)]

    close(found(accelerator.copy, torch.float32), found(lambda one: one, torch.float64))


@pytest.mark.parametrize("causal", [False, True])
def test_sliced_attention(accelerator, causal):
    def found(place, dtype, queries) -> list[torch.Tensor]:
        q, k, v = (place(drawn(2, 3, 13, 8, seed=seed).to(dtype)).requires_grad_() for seed in (6, 7, 8))
        with sliced(queries):
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return [out, *torch.autograd.grad(out.square().sum(), (q, k, v))]

    expected = [one.detach() for one in found(lambda one: one, torch.float64, 0)]
    close(found(accelerator.copy, torch.float32, 5), expected)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return tiny_runs.model_folder(folder / "model", tiny_runs.text_files(folder / "text"))


def test_a_model_that_is_loaded_and_asked(accelerator, model):
    pixels, texts = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8), ["a red circle", "a blue bar, number 7"]
    expected, found = load(model, "cpu"), load(model, accelerator)
    for name, given in (("encode_image", pixels), ("encode_text", texts)):
        ours, theirs = getattr(found, name)(given), getattr(expected, name)(given)
        assert float((ours.cpu() * theirs.cpu()).sum(1).min()) > 0.9999
    assert device_check(accelerator, precision="fp32")["passed"]


@pytest.mark.slow
def test_a_run(accelerator, model, tmp_path):
    data = tiny_runs.draw(tmp_path / "data", 40, tiny_runs.ALL_SPLITS)
    losses = {}
    for name, device in (("here", choose("cpu")), ("there", accelerator)):
        done = fit(data, tmp_path / name, model, config=tiny_runs.settings(), device=device, report=lambda text: None)
        losses[name] = [one["loss"] for one in events.read(done.folder / "events.jsonl") if one["event"] == "step"]
    assert losses["there"] == pytest.approx(losses["here"], rel=1e-3)
