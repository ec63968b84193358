"""The contrast between images by labels against the paper's formula."""

from __future__ import annotations

import pytest
import torch
from written_out import CAPTIONS, LABELS, SIZE, TILES, Sizes, domain_vectors, drawn, gap, leaves, logits, positives

from honeclip.errors import BadInput
from honeclip.losses.supcon import supcon
from honeclip.losses.targets import Targets


def written(x, log_scale, mask):
    """Khosla et al. 2020, equation 2, over the anchors that have a positive."""
    matrix, rows = logits(x, x, log_scale), []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        same = [j for j in others if mask[i, j]]
        if same:
            rows.append(-torch.stack([matrix[i, j] - matrix[i, others].logsumexp(0) for j in same]).mean())
    return torch.stack(rows).mean()


@pytest.mark.parametrize("tile", TILES)
def test_it_is_the_papers_formula(tile):
    x = leaves()
    inputs = [x["image"], x["log_scale"]]
    targets, mask = Targets(label_BC=LABELS), positives(labels=LABELS)
    assert gap(supcon(*inputs, targets, tile), written(*inputs, mask), inputs) < 1e-12
    targets, mask = Targets(CAPTIONS, label_BC=LABELS), positives(CAPTIONS, labels=LABELS)
    assert gap(supcon(*inputs, targets, tile), written(*inputs, mask), inputs) < 1e-12


def test_gradients_are_finite_differences():
    x = leaves(7, 4)
    targets = Targets(label_BC=LABELS[:7])
    assert torch.autograd.gradcheck(lambda *a: supcon(*a, targets, 3), (x["image"], x["log_scale"]))


@pytest.mark.parametrize("size", [1, 6])
def test_without_positives_there_is_nothing_to_learn(size):
    image = drawn(size, 4).requires_grad_()
    log_scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    loss = supcon(image, log_scale, Targets(label_BC=torch.eye(size)), 2)
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(image.grad.abs().max()) == 0
    assert float(log_scale.grad) == 0


def test_a_sample_without_a_label_is_a_negative_and_no_anchor():
    image = torch.eye(3, dtype=torch.float64)
    labels = torch.tensor([[1], [1], [0]])
    loss = supcon(image, torch.tensor(0.0, dtype=torch.float64), Targets(label_BC=labels.float()))
    assert float(loss) == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-7)


def test_the_order_of_the_batch_does_not_matter():
    x, order = leaves(), torch.randperm(SIZE, generator=torch.Generator().manual_seed(1))
    there = supcon(x["image"], x["log_scale"], Targets(label_BC=LABELS))
    shuffled = supcon(x["image"][order], x["log_scale"], Targets(label_BC=LABELS[order]))
    assert abs(float((there - shuffled).detach())) < 1e-13


def test_no_square_of_the_batch_is_held():
    image = drawn(2048, 16).requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.float64)
    with Sizes() as sizes:
        supcon(image, scale, Targets(torch.arange(2048) // 3), 16).backward()
    assert max(sizes.seen) == 2048 * 16


def test_soft_targets_are_refused():
    x = leaves()
    for targets in (Targets(smoothing=0.1), Targets(vectors_BK=domain_vectors(), same=0.5)):
        with pytest.raises(BadInput, match="hard positives only"):
            supcon(x["image"], x["log_scale"], targets)
