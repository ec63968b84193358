"""InfoNCE's forms (mean, sum, masked), labels, hard negatives and hard captions against the formulas written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from written_out import (
    CAPTIONS,
    EXTRA_IDS,
    IMAGES,
    LABELS,
    SIZE,
    TILES,
    Sizes,
    direction,
    domain_vectors,
    drawn,
    gap,
    leaves,
    logits,
    positives,
    similarities,
    usable,
)

from honeclip.errors import BadInput
from honeclip.losses.infonce import infonce
from honeclip.losses.targets import Targets

TARGETS = {
    "pairs": (Targets(), positives()),
    "captions": (Targets(CAPTIONS, IMAGES), positives(CAPTIONS, IMAGES)),
    "pictures": (Targets(image_id=IMAGES), positives(images=IMAGES)),
    "labels": (Targets(label_BC=LABELS), positives(labels=LABELS)),
    "labels and captions": (Targets(CAPTIONS, label_BC=LABELS.bool()), positives(CAPTIONS, labels=LABELS)),
}


@pytest.mark.parametrize("name", TARGETS)
def test_positives_are_the_own_pair_equal_ids_and_shared_labels(name):
    targets, mask = TARGETS[name]
    assert torch.equal(targets.tile(0, SIZE, SIZE), mask)
    assert torch.equal(targets.tile(3, 7, SIZE), mask[3:7])
    assert torch.equal(targets.counts(SIZE, 4), mask.sum(1))


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("form", ["mean", "sum", "masked"])
@pytest.mark.parametrize("name", TARGETS)
def test_every_form_is_its_formula(name, form, beta, tile):
    targets, mask = TARGETS[name]
    x = leaves()
    loss = infonce(x["image"], x["text"], x["log_scale"], targets, tile, positives=form, hard_negatives=beta)
    matrix = logits(x["image"], x["text"], x["log_scale"])
    reference = (direction(matrix, mask, ~mask, form, beta) + direction(matrix.T, mask, ~mask, form, beta)) / 2
    assert gap(loss, reference, [x["image"], x["text"], x["log_scale"]]) < 1e-10


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("form", ["mean", "sum", "masked"])
def test_extra_sentences_are_columns_of_images_only_and_never_a_caption_that_is_right(form, beta, tile):
    """Sentence 1 is the caption of rows 0, 1 and 10; sentence 2 is that of row 3, whose picture is that of row 2."""
    targets, mask = TARGETS["captions"]
    x = leaves()
    loss = infonce(
        x["image"],
        x["text"],
        x["log_scale"],
        targets,
        tile,
        positives=form,
        hard_negatives=beta,
        extra_text_KD=x["extra"],
        extra_id_K=EXTRA_IDS,
    )
    right = torch.zeros(SIZE, 5, dtype=torch.bool)
    right[[0, 1, 10], 1] = True
    right[[2, 3], 2] = True
    assert torch.equal(usable(~mask), ~right)
    wide = logits(x["image"], torch.cat([x["text"], x["extra"]]), x["log_scale"])
    to_text = direction(wide, mask, torch.cat([~mask, ~right], 1), form, beta)
    to_image = direction(logits(x["text"], x["image"], x["log_scale"]), mask, ~mask, form, beta)
    assert gap(loss, (to_text + to_image) / 2, [x["image"], x["text"], x["log_scale"], x["extra"]]) < 1e-10


def test_row_ids_leave_own_captions_out_under_pair_targets_too():
    x = leaves()
    arguments = (x["image"], x["text"], x["log_scale"], Targets(), 3)
    loss = infonce(*arguments, extra_text_KD=x["extra"], extra_id_K=EXTRA_IDS, row_id=CAPTIONS)
    mask, others = positives(), EXTRA_IDS[None] != CAPTIONS[:, None]
    wide = logits(x["image"], torch.cat([x["text"], x["extra"]]), x["log_scale"])
    to_text = direction(wide, mask, torch.cat([~mask, others], 1), "mean")
    to_image = direction(logits(x["text"], x["image"], x["log_scale"]), mask, ~mask, "mean")
    assert gap(loss, (to_text + to_image) / 2, [x["image"], x["text"], x["log_scale"], x["extra"]]) < 1e-10


def test_a_row_without_an_id_of_its_own_keeps_the_sentences_without_one():
    x = leaves()
    arguments = (x["image"], x["text"], x["log_scale"], Targets())
    unknown = torch.full((SIZE,), -1)
    loss = infonce(*arguments, extra_text_KD=x["extra"], extra_id_K=torch.full((5,), -1), row_id=unknown)
    assert gap(loss, infonce(*arguments, extra_text_KD=x["extra"]), list(x.values())) < 1e-14


@pytest.mark.parametrize("form", ["mean", "sum", "masked"])
def test_no_extra_sentences_are_as_none(form):
    x = leaves()
    arguments = (x["image"], x["text"], x["log_scale"], TARGETS["captions"][0], 5)
    none = infonce(*arguments, positives=form, extra_text_KD=x["extra"][:0], extra_id_K=EXTRA_IDS[:0])
    assert gap(none, infonce(*arguments, positives=form), [x["image"], x["text"], x["log_scale"]]) < 1e-14


@pytest.mark.parametrize("tile", TILES)
def test_similar_pairs_are_no_negatives_of_the_masked_form(tile):
    """The rule of GIST: what the guide finds too similar is in neither sum."""
    vectors, x = domain_vectors(), leaves()
    mask = positives(CAPTIONS)
    negative = ~mask & ~(similarities(vectors) > 0.6)
    assert 0 < int((~mask & ~negative).sum()) < int((~mask).sum())
    targets = Targets(CAPTIONS, vectors_BK=vectors, same=0.6)
    loss = infonce(x["image"], x["text"], x["log_scale"], targets, tile, positives="masked")
    matrix = logits(x["image"], x["text"], x["log_scale"])
    reference = (direction(matrix, mask, negative, "masked") + direction(matrix.T, mask, negative, "masked")) / 2
    assert gap(loss, reference, [x["image"], x["text"], x["log_scale"]]) < 1e-10


def test_hard_negatives_go_over_into_none():
    x = leaves()
    inputs = [x["image"], x["text"], x["log_scale"]]
    plain = infonce(*inputs, TARGETS["captions"][0])
    assert gap(infonce(*inputs, TARGETS["captions"][0], hard_negatives=1e-13), plain, inputs) < 1e-11
    assert gap(infonce(*inputs, TARGETS["captions"][0], hard_negatives=0.3), plain, inputs) > 1e-3


def test_without_other_positives_all_forms_are_one():
    x = leaves()
    inputs = [x["image"], x["text"], x["log_scale"]]
    for form in ("sum", "masked"):
        assert gap(infonce(*inputs, Targets(), positives=form), infonce(*inputs, Targets()), inputs) < 1e-12


def test_sentence_transformers_symmetric_loss_with_hard_negatives_is_ours():
    """Its negatives are further documents of the query-to-document direction, one a query: our extra sentences."""
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    x = leaves()
    negatives = drawn(SIZE, 8, seed=9).requires_grad_()
    theirs = losses.MultipleNegativesRankingLoss(
        torch.nn.Identity(),
        scale=20.0,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    scale = torch.tensor(20.0, dtype=torch.float64).log()
    for texts, more in (([x["text"]], None), ([x["text"], negatives], negatives)):
        reference = theirs.compute_loss_from_embeddings([x["image"], *texts], None)
        ours = infonce(x["image"], x["text"], scale, Targets(), 5, extra_text_KD=more)
        assert gap(ours, reference, [x["image"], x["text"], negatives]) < 1e-10


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hard_negatives": 0.5},
        {"positives": "sum", "hard_negatives": 0.5},
        {"positives": "masked", "hard_negatives": 1.5},
    ],
)
def test_gradients_are_finite_differences(options):
    x = leaves(7, 4)
    targets = Targets(CAPTIONS[:7], IMAGES[:7], LABELS[:7])

    def loss(image, text, log_scale, extra):
        return infonce(image, text, log_scale, targets, 3, extra_text_KD=extra, extra_id_K=EXTRA_IDS, **options)

    assert torch.autograd.gradcheck(loss, (x["image"], x["text"], x["log_scale"], x["extra"]))


def test_equal_captions_with_equal_vectors_give_the_gradient_of_plain_pairs():
    """What holds exactly: where equal captions are one vector (a text tower without randomness makes them so), the mean
    form has the value of InfoNCE on pairs, and its gradients by the images, the scale and those vectors. Row by row the
    gradient of the text differs; its sum over equal captions, which is all that reaches a tower, does not. So no gain may be
    claimed from merging equal captions alone.
    """
    x = leaves()
    distinct = drawn(10, 8, seed=6).requires_grad_()
    inputs = [x["image"], distinct, x["log_scale"]]
    mean, pairs = (infonce(x["image"], distinct[CAPTIONS], x["log_scale"], t) for t in (Targets(CAPTIONS), Targets()))
    assert gap(mean, pairs, inputs) < 1e-13
    for form in ("sum", "masked"):
        other = infonce(x["image"], distinct[CAPTIONS], x["log_scale"], Targets(CAPTIONS), positives=form)
        pairs = infonce(x["image"], distinct[CAPTIONS], x["log_scale"], Targets())
        assert gap(other, pairs, inputs) > 1e-3


@pytest.mark.parametrize("options", [{"positives": "sum"}, {"positives": "masked"}, {"hard_negatives": 1.0}])
def test_the_order_of_the_batch_and_of_the_sentences_does_not_matter(options):
    x = {name: value.detach() for name, value in leaves().items()}
    draw = torch.Generator().manual_seed(1)
    order, sentences = torch.randperm(SIZE, generator=draw), torch.randperm(5, generator=draw)
    there = infonce(
        x["image"],
        x["text"],
        x["log_scale"],
        Targets(CAPTIONS, IMAGES, LABELS),
        extra_text_KD=x["extra"],
        extra_id_K=EXTRA_IDS,
        **options,
    )
    shuffled = infonce(
        x["image"][order],
        x["text"][order],
        x["log_scale"],
        Targets(CAPTIONS[order], IMAGES[order], LABELS[order]),
        extra_text_KD=x["extra"][sentences],
        extra_id_K=EXTRA_IDS[sentences],
        **options,
    )
    assert abs(float(there - shuffled)) < 1e-13


@pytest.mark.parametrize("tile", ["auto", 3])
def test_a_row_without_negatives_is_finite(tile):
    """All rows are positives of each other: the sum and masked forms are 0, the mean form is a cross-entropy."""
    x = leaves()
    targets = Targets(torch.zeros(SIZE, dtype=torch.long))
    inputs = [x["image"], x["text"], x["log_scale"]]
    zero = 0 * sum(one.sum() for one in inputs)
    for form in ("sum", "masked"):
        loss = infonce(*inputs, targets, tile, positives=form, hard_negatives=0.5)
        assert gap(loss, zero, inputs) < 1e-13
    even = torch.full((SIZE, SIZE), 1 / SIZE, dtype=torch.float64)
    matrix = logits(*inputs)
    reference = (F.cross_entropy(matrix, even) + F.cross_entropy(matrix.T, even)) / 2
    assert gap(infonce(*inputs, targets, tile, hard_negatives=0.5), reference, inputs) < 1e-12


def test_no_square_of_the_batch_is_held():
    """2,048 rows, tiles of 16, a few extra sentences: nothing is wider than one tile of logits."""
    image, text, extra = (drawn(2048, 16).requires_grad_() for _ in range(3))
    extra = extra[:32]
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    targets = Targets(
        torch.arange(2048) // 2,
        label_BC=F.one_hot(torch.arange(2048) % 7).bool(),
        vectors_BK=F.normalize(drawn(2048, 6), dim=1),
        same=0.9,
    )
    with Sizes() as sizes:
        infonce(image, text, scale, targets, 16, positives="masked", hard_negatives=0.5, extra_text_KD=extra).backward()
    assert max(sizes.seen) == (2048 + 32) * 16
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positives": "max"}, "positives = 'max'"),
        ({"hard_negatives": -1.0}, "hard_negatives = -1"),
        ({"hard_negatives": float("inf")}, "hard_negatives = inf"),
        ({"extra_id_K": EXTRA_IDS}, "give extra_text_KD"),
        ({"extra_text_KD": drawn(5, 8), "extra_id_K": EXTRA_IDS}, "give row_id"),
        ({"extra_text_KD": drawn(4, 8), "extra_id_K": EXTRA_IDS, "row_id": CAPTIONS}, "5 ids for 4 sentences"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    x = leaves()
    with pytest.raises(BadInput, match=message):
        infonce(x["image"], x["text"], x["log_scale"], Targets(), **options)
