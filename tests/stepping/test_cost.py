"""What a step is predicted to cost against what torch really allocates for it, to the byte where it can be."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import honeclip
from honeclip.device import rng
from honeclip.device.allocated import timeline
from honeclip.device.detect import choose
from honeclip.stepping.cost import TowerCost, measure, passing, peak_bytes

BATCH = 48
DTYPES = (torch.float64, torch.float32)
NAMES = ("perceptron", "transformer", "vocabulary")


pytestmark = pytest.mark.usefixtures("one_thread")


def tower(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Activations are most of it, or attention, or the gradient of a table that a sample hardly touches."""
    torch.manual_seed(0)
    if name == "perceptron":
        inner = [nn.Linear(32, 512), nn.LayerNorm(512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, 16)]
    elif name == "transformer":
        layer = nn.TransformerEncoderLayer(32, 2, 64, 0.1, batch_first=True)
        blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        inner = [nn.Embedding(50, 32), blocks, nn.Flatten(), nn.Linear(32 * 8, 16)]
    else:
        inner = [nn.Embedding(4000, 32), nn.Flatten(), nn.GELU(), nn.Linear(32 * 8, 16)]
    return nn.Sequential(*inner).to(dtype)


def samples(name: str, rows: int = BATCH, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(rows)
    if name == "perceptron":
        return torch.randn(rows, 32, dtype=dtype, generator=draw)
    return torch.randint(0, 50, (rows, 8), generator=draw)


def really(work) -> int:
    """The most bytes at once of torch's own allocator."""
    return max(timeline(work, choose("cpu")))


def forward_and_backward(encoder, piece: Tensor) -> None:
    output = encoder(piece)
    output.backward(torch.ones_like(output))


class Asking(nn.Module):
    """Asks for a number on the way, as a tower that looks at its mask may."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, piece: Tensor) -> Tensor:
        output = self.inner(piece)
        return output if output.detach().sum().item() < 1e9 else output + 1


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("name", ["perceptron", "transformer"])
def test_a_forward_that_keeps_nothing_is_measured_whether_or_not_it_asks_for_numbers(name, asks):
    module, given = tower(name), samples(name)
    module = Asking(module) if asks else module
    with torch.no_grad():
        real = really(lambda: module(given))
    assert passing(module, given)(BATCH) == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_tower_costs_what_is_really_allocated(name, dtype):
    module, given = tower(name, dtype), samples(name, BATCH, dtype)
    cost = measure(module, given, nullcontext)
    forward_and_backward(module, given)  # every micro-batch but the first finds gradients
    for rows in (3, 16, BATCH):
        piece = given[:rows].clone()
        found = really(partial(forward_and_backward, module, piece))
        assert max(cost.forward(rows), cost.graph * rows + cost.backward(rows)) == pytest.approx(found, rel=0.02)
    assert cost.gradients == sum(one.nbytes for one in module.parameters())
    assert (cost.fixed, cost.share) == (0, 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_forward_and_what_stays_of_it_are_counted_apart(name):
    module, given = tower(name), samples(name)
    cost = measure(module, given, nullcontext)
    held = []
    levels = timeline(lambda: held.append(module(given)), choose("cpu"))
    assert cost.forward(BATCH) == pytest.approx(max(levels), rel=0.02)
    assert cost.graph * BATCH == pytest.approx(levels[-1], rel=0.05)
    assert cost.passing(BATCH) < cost.forward(BATCH)


@pytest.mark.parametrize("asks", [False, True])
def test_gradients_and_generators_are_left_as_they_were(asks):
    module, given = tower("transformer"), samples("transformer")
    weights = {name: one.clone() for name, one in module.state_dict().items()}
    before = rng.snapshot()
    measure(Asking(module) if asks else module, given, nullcontext)
    assert all(before[name].equal(state) for name, state in rng.snapshot().items())
    assert all(one.grad is None for one in module.parameters())
    assert all(weights[name].equal(one) for name, one in module.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_that_asks_for_numbers_costs_the_same(name):
    module, given = tower(name), samples(name)
    plain, asking = (measure(one, given, nullcontext) for one in (module, Asking(module)))
    assert (asking.graph, asking.gradients, asking.fixed) == (plain.graph, plain.gradients, plain.fixed)
    for rows in (2, 16, BATCH):
        assert asking.backward(rows) == plain.backward(rows)
        assert asking.forward(rows) == pytest.approx(plain.forward(rows), rel=0.02)


@pytest.mark.parametrize("name", ["perceptron", "transformer"])
def test_the_weights_that_autocast_casts_are_there_once_and_for_the_whole_step(name):
    """bf16 copies of the matrices, each once, however many samples; the graph is smaller than in float32."""
    module, given = tower(name, torch.float32), samples(name, BATCH, torch.float32)
    cost = measure(module, given, partial(torch.autocast, "cpu", torch.bfloat16))
    matrices = [one for one in module.modules() if isinstance(one, nn.Linear | nn.MultiheadAttention)]
    casted = {id(one): one.numel() for module_ in matrices for one in module_.parameters(recurse=False)}
    assert cost.fixed == pytest.approx(2 * sum(casted.values()), rel=0.02)
    assert cost.graph < measure(module, given, nullcontext).graph
    for few, many in ((1, 2), (2, BATCH)):
        assert measure(module, given[:few], partial(torch.autocast, "cpu", torch.bfloat16)).fixed == cost.fixed
        assert measure(module, given[:many], partial(torch.autocast, "cpu", torch.bfloat16)).fixed == cost.fixed


def test_a_tower_that_does_not_learn_keeps_nothing():
    module = tower("perceptron").requires_grad_(False)
    cost = measure(module, samples("perceptron"), nullcontext)
    assert (cost.graph, cost.gradients, cost.work) == (0, 0, 0.0)
    assert cost.passing(BATCH) > 0


# --- a whole step --------------------------------------------------------------------------------------------------


def contrast(image: Tensor, text: Tensor) -> Tensor:
    logits = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    return F.cross_entropy(10 * logits, torch.arange(len(logits)))


def loss_bytes() -> int:
    """Embeddings with their gradients, and what the loss has at once beside them."""
    image, text = (torch.randn(BATCH, 16, dtype=torch.float64, requires_grad=True) for _ in range(2))
    return really(lambda: contrast(image, text).backward()) + 2 * 2 * image.nbytes


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[list[nn.Module], list[Tensor], list[TowerCost]]]:
    """Two towers with their inputs and costs, by the name of the first."""
    found = {}
    for names in (("perceptron", "transformer"), ("transformer", "vocabulary")):
        towers, given = [tower(one) for one in names], [samples(one) for one in names]
        costs = [measure(module, one, nullcontext) for module, one in zip(towers, given, strict=True)]
        found[names[0]] = (towers, given, costs)
    return found


@pytest.mark.parametrize("first", ["perceptron", "transformer"])
@pytest.mark.parametrize("keep", [0, 2, 1000])
@pytest.mark.parametrize("micro_batch", [(3, 3), (5, 5), (48, 48), (4, 12)], ids=str)
def test_a_step_needs_what_was_predicted(micro_batch, keep, first, pairs):
    towers, given, costs = pairs[first]
    for one in towers:
        one.zero_grad(set_to_none=True)
    found = really(
        partial(honeclip.cached_step, towers, given, contrast, micro_batch=list(micro_batch), keep=[keep, keep])
    )
    # each micro-batch's generator state, which is nothing beside a real tower's graphs
    states = sum(torch.get_rng_state().nbytes * -(-BATCH // one) for one in micro_batch)
    predicted = peak_bytes(costs, [BATCH] * 2, micro_batch, [keep, keep], states, loss_bytes())
    assert predicted == pytest.approx(found, rel=0.1)


def test_towers_may_keep_a_different_number_of_graphs(pairs):
    towers, given, costs = pairs["perceptron"]
    for keep in ((0, 12), (12, 0), (3, 1)):
        for one in towers:
            one.zero_grad(set_to_none=True)
        found = really(partial(honeclip.cached_step, towers, given, contrast, micro_batch=4, keep=list(keep)))
        states = 2 * 12 * torch.get_rng_state().nbytes
        predicted = peak_bytes(costs, [BATCH] * 2, (4, 4), keep, states, loss_bytes())
        assert predicted == pytest.approx(found, rel=0.1), keep
