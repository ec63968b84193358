"""The cached step against plain autograd: every gradient, every micro-batch, every number of kept graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import honeclip
from honeclip.device.memory import available_bytes
from honeclip.errors import MemoryExhausted, StepError
from honeclip.stepping import step
from honeclip.stepping.count import counting

KEEPS = [0, 1, 2, 3, 1000, "auto"]


class Towers(nn.Module):
    """Two small encoders with dropout and a loss with parameters of its own, in float64."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(
            nn.Linear(12, 24), nn.LayerNorm(24), nn.GELU(), nn.Dropout(dropout), nn.Linear(24, 6)
        )
        self.text = nn.Sequential(nn.Embedding(50, 16), nn.Dropout(dropout), nn.Flatten(), nn.Linear(16 * 5, 6))
        self.log_scale, self.bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-1.0))
        self.double()

    def loss(self, image: Tensor, text: Tensor) -> Tensor:
        logits = self.log_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T + self.bias
        diagonal = torch.arange(len(logits))
        return (
            F.cross_entropy(logits, diagonal)
            + F.cross_entropy(logits.T, diagonal)
            - F.logsigmoid(logits.diagonal()).mean()
        )

    def gradients(self) -> dict[str, Tensor]:
        return {name: one.grad.clone() for name, one in self.named_parameters() if one.grad is not None}


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 12, dtype=torch.float64, generator=draw), torch.randint(0, 50, (batch, 5), generator=draw)


def cached(towers: Towers, batch: int, micro_batch, keep, loss=None) -> tuple[dict[str, Tensor], honeclip.StepResult]:
    towers.zero_grad()
    torch.manual_seed(7)
    result = honeclip.cached_step(
        (towers.image, towers.text), inputs(batch), loss or towers.loss, micro_batch=micro_batch, keep=keep
    )
    return towers.gradients(), result


def plain(towers: Towers, batch: int) -> tuple[dict[str, Tensor], float]:
    towers.zero_grad()
    image, text = inputs(batch)
    loss = towers.loss(towers.image(image), towers.text(text))
    loss.backward()
    return towers.gradients(), float(loss.detach())


def largest_gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    top = max(float(one.abs().max()) for one in b.values())
    return max(float((a[k] - b[k]).abs().max()) / max(float(b[k].abs().max()), 1e-6 * top) for k in b)


@pytest.mark.parametrize("batch", [7, 64, 257])
@pytest.mark.parametrize("micro_batch", [1, 5, 64])
def test_gradients_are_those_of_the_plain_step(batch, micro_batch):
    towers = Towers(0.0)
    reference, loss = plain(towers, batch)
    for keep in KEEPS:
        found, result = cached(towers, batch, micro_batch, keep)
        assert largest_gap(found, reference) <= 1e-12
        assert abs(result.loss - loss) <= 1e-12
        assert abs(float(found["log_scale"] / reference["log_scale"]) - 1) <= 1e-12


@pytest.mark.parametrize("batch", [7, 64, 257])
@pytest.mark.parametrize("micro_batch", [1, 5, 64])
def test_with_dropout_every_keep_gives_the_same_bits(batch, micro_batch):
    towers = Towers(0.4)
    reference, _ = cached(towers, batch, micro_batch, 0)
    after = torch.get_rng_state()
    for keep in KEEPS[1:]:
        found, _ = cached(towers, batch, micro_batch, keep)
        assert all(torch.equal(found[k], reference[k]) for k in reference)
        assert torch.equal(torch.get_rng_state(), after)


def test_the_generators_stand_where_one_forward_leaves_them_also_where_only_the_first_tower_is_run_again():
    towers = Towers(0.4)
    cached(towers, 64, 8, 1000)
    after = torch.get_rng_state()
    for keep in ((0, 1000), (1000, 0), (3, 5)):
        cached(towers, 64, 8, keep)
        assert torch.equal(torch.get_rng_state(), after)


def test_dropout_is_really_drawn():
    towers = Towers(0.4)
    with_dropout, _ = cached(towers, 64, 8, 2)
    towers.eval()
    without, _ = cached(towers, 64, 8, 2)
    assert largest_gap(with_dropout, without) > 0.1


def test_kept_counts_what_was_kept():
    assert [cached(Towers(0.0), 64, 10, keep)[1].kept for keep in (0, 3, 99)] == [0, 3, 7]
    assert cached(Towers(0.0), 64, 10, "auto")[1].kept == 7  # a few kilobytes fit any machine


def test_automatically_as_many_graphs_are_kept_as_their_share_of_the_memory_holds(monkeypatch):
    towers = Towers(0.0)
    with counting() as kept:
        output = towers.image(inputs(64)[0][:10])  # a view: the graph keeps the whole input
    del output
    # two graphs and a half; what is available moves a little while others compute
    monkeypatch.setattr(step, "AUTO_SHARE", 2.5 * kept.bytes * 2 / available_bytes("cpu"))
    found = cached(towers, 64, 10, "auto")[1]
    assert found.kept == 3, "the first one's graph is there in any case"
    assert set(found.seconds) == {"first", "loss", "second"}


def test_embeddings_may_be_zero():
    towers = Towers(0.0)
    with torch.no_grad():
        towers.image[-1].weight.zero_()
        towers.image[-1].bias.zero_()
    reference, _ = plain(towers, 20)
    found, _ = cached(towers, 20, 6, 0)
    assert largest_gap(found, reference) <= 1e-12


def test_towers_may_have_their_own_micro_batches_and_numbers_of_samples():
    towers = Towers(0.0)
    reference, _ = plain(towers, 64)
    found, result = cached(towers, 64, (7, 32), (2, 0))
    assert largest_gap(found, reference) <= 1e-12
    assert (result.micro_batch, result.kept) == (7, 2)

    image, text = inputs(20)

    def uneven(a: Tensor, b: Tensor) -> Tensor:
        return (F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T).logsumexp(0).sum()

    towers.zero_grad()
    uneven(towers.image(image[:8]), towers.text(text)).backward()
    expected = towers.gradients()
    towers.zero_grad()
    honeclip.cached_step((towers.image, towers.text), (image[:8], text), uneven, micro_batch=3, keep=1)
    assert largest_gap(towers.gradients(), expected) <= 1e-12


def test_inputs_may_be_dicts_tuples_and_lists():
    towers = Towers(0.0)
    reference, _ = plain(towers, 20)
    image, text = inputs(20)
    forms = [
        ({"x": image, "unused": torch.zeros(20)}, lambda piece: towers.image(piece["x"])),
        ((image, torch.zeros(20, 2)), lambda piece: towers.image(piece[0])),
        ([image], lambda piece: towers.image(piece[0])),
    ]
    for value, encoder in forms:
        towers.zero_grad()
        honeclip.cached_step((encoder, towers.text), (value, text), towers.loss, micro_batch=6, keep=1)
        assert largest_gap(towers.gradients(), reference) <= 1e-12


def test_gradients_that_were_there_are_added_to():
    towers = Towers(0.0)
    once, _ = cached(towers, 20, 6, 1)
    honeclip.cached_step((towers.image, towers.text), inputs(20), towers.loss, micro_batch=6, keep=1)
    twice = towers.gradients()
    assert all(torch.allclose(twice[k], 2 * once[k], rtol=1e-12, atol=1e-15) for k in once)


def test_out_of_memory_halves_the_micro_batch_and_repeats_the_same_step():
    towers, reference = Towers(0.0), Towers(0.0)
    for one in (*towers.parameters(), *reference.parameters()):
        one.grad = torch.full_like(one, 0.5)
    reference.loss(*(e(x) for e, x in zip((reference.image, reference.text), inputs(64), strict=True))).backward()
    calls = []

    def scarce(piece: Tensor) -> Tensor:
        calls.append(len(piece))
        # the second pass fails too, when half of the gradients are there already
        if len(piece) > 8 or len(calls) == 14:
            raise RuntimeError(
                "MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 GB, max allowed: 9.07 GB). Tried to allocate 512.00 MB on private pool."
            )
        return towers.image(piece)

    result = honeclip.cached_step((scarce, towers.text), inputs(64), towers.loss, micro_batch=32, keep=1)
    assert (result.retries, result.micro_batch) == (3, 4)
    assert largest_gap(towers.gradients(), reference.gradients()) <= 1e-12


def test_no_memory_for_one_sample_says_so_and_leaves_gradients_alone():
    towers = Towers(0.0)

    def none(piece: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    with pytest.raises(MemoryExhausted, match="one sample at a time"):
        honeclip.cached_step((towers.image, none), inputs(8), towers.loss, micro_batch=8)
    assert towers.gradients() == {}


def test_another_error_is_passed_on_and_leaves_gradients_as_they_were():
    towers = Towers(0.0)
    kept, _ = cached(towers, 8, 4, 0)

    def broken(image: Tensor, text: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        honeclip.cached_step((towers.image, towers.text), inputs(8), broken, micro_batch=4)
    assert all(torch.equal(towers.gradients()[k], kept[k]) for k in kept)


def test_a_loss_that_is_not_finite_adds_nothing_and_says_so():
    towers = Towers(0.0)
    image, text = inputs(16)
    image[5, 3] = torch.nan
    result = honeclip.cached_step((towers.image, towers.text), (image, text), towers.loss, micro_batch=4)
    assert not result.finite
    assert towers.gradients() == {}


def test_a_frozen_tower_is_not_computed_twice():
    towers = Towers(0.0)
    towers.text.requires_grad_(False)
    calls = []

    def frozen(piece: Tensor) -> Tensor:
        calls.append(len(piece))
        return towers.text(piece)

    reference, _ = plain(towers, 20)
    towers.zero_grad()
    honeclip.cached_step((towers.image, frozen), inputs(20), towers.loss, micro_batch=5, keep=0)
    assert calls == [5, 5, 5, 5]
    assert largest_gap(towers.gradients(), reference) <= 1e-12


def test_parts_are_reported_by_name():
    towers = Towers(0.0)
    result = honeclip.cached_step(
        (towers.image, towers.text),
        inputs(8),
        lambda a, b: (towers.loss(a, b), {"mine": towers.loss(a, b).detach()}),
        micro_batch=4,
    )
    assert result.parts == {"mine": pytest.approx(result.loss)}


def test_half_precision_encoders_get_a_float32_loss():
    towers = Towers(0.0).float()
    image, text = inputs(16)
    seen = []

    class Watched(torch.autograd.Function):
        """Notes what holds where a loss computes something again: in its backward."""

        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, g: Tensor) -> Tensor:
            seen.append((g.dtype, torch.is_autocast_enabled("cpu")))
            return g

    def loss(a: Tensor, b: Tensor) -> Tensor:
        seen.append((a.dtype, torch.is_autocast_enabled("cpu")))
        return towers.loss(Watched.apply(a), b)

    with torch.autocast("cpu", torch.bfloat16):
        honeclip.cached_step((towers.image, towers.text), (image.float(), text), loss, micro_batch=4, keep=2)
    assert seen == [(torch.float32, False)] * 2
    assert all(one.isfinite().all() for one in towers.gradients().values())


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no towers", "at least one"),
        ("one input missing", "one input a tower"),
        ("unequal dict", "same first dimension"),
        ("empty", "at least 1"),
        ("a scalar", "at least 1"),
        ("not a tensor", "give a tensor"),
        ("batch norm", "freeze it with .eval"),
        ("outside randomness", "torch's generators"),
        ("outside randomness in small embeddings", "torch's generators"),
        ("ignored tower", "does not depend on tower 1"),
        ("not scalar", "no scalar"),
        ("micro-batch 0", "micro_batch"),
        ("negative keep", "keep=.*none below 0"),
        ("wrong rows", "one embedding a sample"),
    ],
)
def test_what_cannot_be_exact_is_refused(case, words):
    towers = Towers(0.0)
    encoders, value, loss, micro_batch = [towers.image, towers.text], list(inputs(8)), towers.loss, 4
    if case == "no towers":
        encoders, value = [], []
    if case == "one input missing":
        value = value[:1]
    if case == "unequal dict":
        value[0] = {"a": torch.zeros(8, 12), "b": torch.zeros(7)}
    if case == "empty":
        value = [one[:0] for one in value]
    if case == "a scalar":
        value[0] = torch.tensor(1.0)
    if case == "not a tensor":
        value[0] = "text"
    if case == "batch norm":
        encoders[0] = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6)).double()
    if case.startswith("outside randomness"):
        draw, size = np.random.default_rng(0), 1e-3 if "small" in case else 1.0
        encoders[0] = lambda piece: size * towers.image(piece * draw.uniform(0.5, 1.5))
    if case == "ignored tower":
        loss = lambda a, b: a.square().sum()  # noqa: E731
    if case == "not scalar":
        loss = lambda a, b: a @ b.T  # noqa: E731
    if case == "micro-batch 0":
        micro_batch = 0
    if case == "wrong rows":
        encoders[0] = lambda piece: towers.image(piece).mean(0, keepdim=True)
    keep = (1, -1) if case == "negative keep" else 0
    with pytest.raises(StepError, match=words):
        honeclip.cached_step(encoders, value, loss, micro_batch=micro_batch, keep=keep)
    assert towers.gradients() == {}


def test_batch_norm_in_eval_is_right():
    towers = Towers(0.0)
    towers.image = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6)).double().eval()
    reference, _ = plain(towers, 20)
    found, _ = cached(towers, 20, 6, 1)
    assert largest_gap(found, reference) <= 1e-12
