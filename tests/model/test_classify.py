"""Labels by their prompts: against the same thing written out with `encode_text`, torch's softmax and sigmoid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_runs
import torch
from torch.nn.functional import normalize

from honeclip.domains import domain as domains
from honeclip.errors import BadInput, NonFiniteError
from honeclip.model import classify
from honeclip.model.calibration import Calibration

LABELS = ("bar", "circle", "cross")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_runs.make_clip(tiny_runs.text_files(tmp_path_factory.mktemp("text") / "files"))


@pytest.fixture(scope="module")
def images():
    return normalize(torch.randn(9, 16, generator=torch.Generator().manual_seed(3)), dim=-1)


@pytest.fixture
def medical():
    return domains.load("medical")


def direction(clip, prompts):
    return normalize(torch.stack([clip.encode_text(one)[0] for one in prompts]).double().mean(0), dim=-1)


def scale(clip):
    return clip.logit_scale.detach().double().exp()


def fitted(kind, labels, temperature=2.5):
    return Calibration(kind, tuple(sorted(labels)), temperature, {}, "some data", 8)


def test_softmax_over_the_mean_directions_of_the_prompts(clip, images, medical):
    found = classify.probabilities(images, classify.class_embeddings(clip, medical, LABELS, mode="softmax"))
    text_CD = torch.stack([direction(clip, domains.prompts(medical, label)) for label in LABELS])
    expected = (scale(clip) * images.double() @ text_CD.T).softmax(-1).numpy()
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_template_of_ones_own_takes_the_place_of_the_domains(clip, images, medical):
    found = classify.class_embeddings(clip, medical, LABELS, "a red {label}")
    expected = torch.stack([direction(clip, [f"a red {label}"]) for label in LABELS])
    assert torch.allclose(found.text_CD.double(), expected, atol=1e-6)
    assert not torch.allclose(found.text_CD, classify.class_embeddings(clip, medical, LABELS).text_CD, atol=1e-3)


def test_independent_is_each_label_against_its_absence(clip, images, medical):
    found = classify.probabilities(images, classify.class_embeddings(clip, medical, LABELS, mode="independent"))
    for place, label in enumerate(LABELS):
        there = direction(clip, domains.prompts(medical, label))
        absent = direction(clip, classify.absence(medical, label, LABELS))
        logit = scale(clip) * images.double() @ (there - absent)
        assert found[:, place] == pytest.approx(logit.sigmoid().numpy(), abs=1e-5)
    assert not np.allclose(found.sum(1), 1)


@pytest.mark.parametrize(("mode", "kind"), [("softmax", "softmax"), ("independent", "pairs")])
def test_the_temperature_counts_for_the_labels_and_the_mode_it_was_fitted_for_only(clip, images, medical, mode, kind):
    scorer = classify.class_embeddings(clip, medical, LABELS, mode=mode)
    plain = classify.probabilities(images, scorer)
    warm = classify.probabilities(images, scorer, fitted(kind, reversed(LABELS)))
    logits = torch.from_numpy(scorer.logits(images)) / 2.5
    assert warm == pytest.approx((logits.softmax(-1) if mode == "softmax" else logits.sigmoid()).numpy(), abs=1e-9)
    other = "pairs" if kind == "softmax" else "softmax"
    for foreign in (fitted(kind, LABELS[:2]), fitted(other, LABELS)):
        assert np.array_equal(classify.probabilities(images, scorer, foreign), plain)


def test_the_mode_is_that_of_the_calibration_else_follows_from_how_many_labels_there_are():
    assert classify.kind_for(fitted("pairs", LABELS), LABELS, None) == "pairs"
    assert classify.kind_for(fitted("pairs", LABELS), LABELS[:2], None) == "softmax"
    assert classify.kind_for(None, LABELS[:1], None) == "pairs"
    assert classify.kind_for(fitted("pairs", LABELS), LABELS, "softmax") == "softmax"


def test_a_prompt_that_labels_share_is_embedded_once(clip, medical):
    asked: list[str] = []

    def embed(texts):
        asked.extend(texts)
        return clip.encode_text(texts)

    found = classify.class_embeddings(clip, medical, LABELS, mode="independent", embed=embed)
    assert len(asked) == len(set(asked))
    wording = classify.wording(medical, LABELS, "pairs")
    assert set(asked) == set(wording.texts)
    apart = classify.scorer(wording, clip.encode_text(wording.texts), classify.scale_of(clip))
    assert torch.equal(apart.text_CD, found.text_CD)


def test_a_model_has_its_own_domain_or_the_general_one(clip, medical):
    assert classify.domain_of(clip).name == "general"
    assert classify.domain_of(replace(clip, domain=domains.to_mapping(medical))) == medical


@pytest.mark.parametrize(
    "template", ["a photo", "{0}", "{label} {other}", "{label.__class__}", "{label!r}", "{label:>999999999}", "{label"]
)
def test_a_template_that_could_do_more_than_name_the_label_is_refused(clip, medical, template):
    with pytest.raises(BadInput, match="template"):
        classify.class_embeddings(clip, medical, LABELS, template)


@pytest.mark.parametrize(
    ("labels", "mode", "says"),
    [
        ((), None, "name at least one"),
        (("bar", "cross", "bar"), None, "bar stands twice"),
        (("bar",), "softmax", "name at least two"),
        (LABELS, "both", "it is softmax or independent"),
    ],
)
def test_labels_and_modes_that_cannot_be(clip, medical, labels, mode, says):
    with pytest.raises(BadInput, match=says):
        classify.class_embeddings(clip, medical, labels, mode=mode)


def test_a_domain_without_words_for_absence_says_so(clip):
    with pytest.raises(BadInput, match="domain general has neither negative_templates nor normal_labels"):
        classify.class_embeddings(clip, domains.load("general"), ("bar",))


def test_embeddings_that_are_no_numbers_give_no_probability(clip, medical):
    scorer = classify.class_embeddings(clip, medical, LABELS)
    with pytest.raises(NonFiniteError):
        classify.probabilities(torch.full((1, 16), torch.nan), scorer)
