"""Probes against cosines in plain code, SciPy's tau and models whose answers are known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import tiny_runs
import torch
from scipy.stats import kendalltau

from honeclip.domains import domain as domains
from honeclip.domains.probe_files import Item
from honeclip.errors import BadInput, DomainError, NonFiniteError
from honeclip.evaluation import probes
from honeclip.evaluation.evaluate import in_its_domain
from honeclip.evaluation.probes import Scored, metrics, paired_difference, rows, score, share_in_order

ITEMS = [
    Item("1", "colour", "a red circle", ("a red square", "a blue square")),
    Item("2", "colour", "a green bar", ("a green cross , number 1", "a black circle , number 2")),
    Item("3", "order", "number 1", ("number 2", "number 3", "a purple cross", "orange")),
    Item("4", "order", "number 9 , a bar", ("a bar", "number 9", "a circle")),
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_runs.make_clip(tiny_runs.text_files(tmp_path_factory.mktemp("tiny") / "text"))


def answered(kind: str, *right: float) -> list[Scored]:
    """Items that were answered with these shares right."""
    return [
        Scored(Item(f"{kind}-{number}", kind, "a", (f"b{number}", "c")), (0.5, 0.5), one, one - 0.5, False)
        for number, one in enumerate(right)
    ]


@pytest.mark.parametrize(
    ("cosines", "share"),
    [
        ([0.9, 0.1], 1),
        ([0.1, 0.9], 0),
        ([0.4, 0.4], 0.5),
        ([0.4, 0.4 + 1e-7], 0.5),
        ([0.9, 0.5, 0.1], 1),
        ([0.5, 0.9, 0.1], 2 / 3),
        ([0.1, 0.5, 0.9], 0),
        ([0.9, 0.5, 0.5], 2.5 / 3),
    ],
)
def test_the_share_of_pairs_in_order(cosines, share):
    assert share_in_order(cosines) == pytest.approx(share)


def test_an_order_is_scored_by_kendalls_tau():
    draw = np.random.default_rng(0)
    for length in (2, 3, 5, 8):
        cosines = draw.permutation(np.linspace(-1, 1, length))
        tau = kendalltau(np.arange(length), -cosines).statistic
        assert share_in_order(cosines.tolist()) == pytest.approx((1 + tau) / 2)


def test_an_item_is_answered_by_the_models_own_cosines(clip):
    for found in score(clip, ITEMS):
        item = found.item
        cosines = [float(clip.encode_text(item.anchor)[0] @ clip.encode_text(text)[0]) for text in item.ordered]
        assert found.cosines == pytest.approx(cosines, abs=1e-5)
        assert found.margin == pytest.approx(min(a - b for a, b in itertools.pairwise(cosines)), abs=1e-5)
        pairs = [(a, b) for n, a in enumerate(cosines) for b in cosines[n + 1 :]]
        assert found.right == pytest.approx(sum(a > b for a, b in pairs) / len(pairs))
        assert not found.by_rules


def test_figures_by_kind_with_their_interval():
    scored = [*answered("easy", 1, 1, 1, 1), *answered("hard", *[1.0] * 60, *[0.0] * 40)]
    found = metrics(scored)
    assert found["easy"] == {
        "accuracy": {"value": 1, "low": 1, "high": 1},
        "items": 4,
        "chance": 0.5,
        "by_rules": 0,
    }
    accuracy = found["hard"]["accuracy"]
    assert accuracy["value"] == pytest.approx(0.6)
    half = 1.96 * (0.6 * 0.4 / 100) ** 0.5  # the normal approximation of a share
    assert (accuracy["low"], accuracy["high"]) == pytest.approx((0.6 - half, 0.6 + half), abs=0.015)


def test_a_row_shows_the_worst_items_first_and_no_right_one():
    scored = [*answered("k", 1, 0.5, 0), *answered("other", 1)]
    first, second = rows(scored)
    assert [one.item.id for one in first.worst] == ["k-2", "k-1"]
    assert (first.kind, first.items, first.accuracy["value"], second.worst) == ("k", 3, 0.5, ())
    assert len(rows(scored, worst=1)[0].worst) == 1


def test_a_constant_model_stands_at_chance(tmp_path):
    """Every text gets the same embedding: all is a tie, and the interval has no width."""
    text = tiny_runs.text_files(tmp_path / "text")
    made = tiny_runs.make_clip(text, tiny_runs.TWO_TOWERS)
    with torch.no_grad():
        for parameter in made.model.text.transformer.parameters():
            parameter.zero_()
        for norm in (one for one in made.model.text.transformer.modules() if isinstance(one, torch.nn.LayerNorm)):
            norm.bias.fill_(1.0)
    vectors = made.encode_text(["a red circle", "number 1 , a bar"])
    assert torch.equal(vectors[0], vectors[1])
    assert vectors[0].norm() == pytest.approx(1)
    for name in ("medical", "industrial", "scientific"):
        domain = domains.load(name)
        found = probes.probes(in_its_domain(made, domain)[0], domain)
        for kind, one in found.metrics.items():
            assert one["accuracy"] == {"value": 0.5, "low": 0.5, "high": 0.5}, kind


def test_texts_that_the_rules_make_one_are_counted(clip):
    """LaTeX and Unicode end as one text in the scientific domain; in the general one they do not."""
    items = [
        Item("1", "formulas", "$H_2O$", ("H₂O", "H₂O₂")),
        Item("2", "formulas", "10⁻³", ("a red bar", "$10^{-3}$")),
        Item("3", "formulas", "a Bar", ("a bar", "a square")),
    ]
    found = score(in_its_domain(clip, "scientific")[0], items)
    assert [one.by_rules for one in found] == [True, False, False], "far, not near; case alone is no rule"
    assert found[0].cosines[0] == pytest.approx(1)
    assert found[1].right == 0
    assert metrics(found)["formulas"]["by_rules"] == 1
    assert not score(in_its_domain(clip, "general")[0], items)[0].by_rules


def test_an_expansion_that_begins_a_sentence_is_the_rules_doing(clip):
    item = Item("1", "abbreviations", "COPD", ("chronic obstructive pulmonary disease", "chronic kidney disease"))
    assert score(in_its_domain(clip, "medical")[0], [item])[0].by_rules
    assert not score(in_its_domain(clip, "general")[0], [item])[0].by_rules


def test_the_difference_of_two_models_is_over_the_same_items():
    before, after = answered("k", *[0.0] * 50, *[1.0] * 50), answered("k", *[0.0] * 40, *[1.0] * 60)
    accuracy = paired_difference(before, after)["k"]["accuracy"]
    assert accuracy["value"] == pytest.approx(0.1)
    assert 0 < accuracy["low"] < 0.1 < accuracy["high"] < 0.18
    same = paired_difference(before, before)["k"]["accuracy"]
    assert same == {"value": 0, "low": 0, "high": 0}
    with pytest.raises(BadInput, match="the same probes"):
        paired_difference(before, after[1:])
    with pytest.raises(BadInput, match="the same probes"):
        paired_difference(before, [*after[1:], after[0]])


def test_a_domain_without_probes_has_none(clip):
    assert probes.probes(clip, domains.load("general")) is None


def test_a_file_of_the_domain_that_is_not_there(clip, tmp_path):
    domain = replace(domains.load("general"), probes=("probes/leaves.jsonl",))
    with pytest.raises(DomainError, match=r"probes/leaves\.jsonl"):
        probes.probes(clip, domain, folders=(tmp_path,))


def test_a_model_that_gives_nan_is_refused(tmp_path):
    broken = tiny_runs.make_clip(tiny_runs.text_files(tmp_path / "text"))
    with torch.no_grad():
        broken.model.text_projection.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="tiny"):
        score(broken, ITEMS)
