"""Similarity of captions: unit vectors, against scikit-learn and the formulas written plainly."""

from __future__ import annotations

import csv
import math
import zlib
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from honeclip.domains import domain as domains
from honeclip.domains.similarity import label_vectors, metric, similarity, term_vectors, text_vectors
from honeclip.domains.tree import ancestors
from honeclip.domains.vocabulary import Term, Terms
from honeclip.errors import DomainError

NAMES = ("crack", "scratch", "hole", "steel", "surface")
TERMS = Terms(tuple(Term(name, "any") for name in NAMES))
BAG = partial(term_vectors, terms=TERMS)

captions = st.lists(
    st.lists(st.sampled_from([*NAMES, "no", "a", "tile"]), max_size=6).map(" ".join), min_size=1, max_size=8
)
labels = st.lists(
    st.lists(st.sampled_from(["a", "a/b", "a/c", "a/b/d", "e", "f"]), max_size=3).map(";".join), min_size=1, max_size=8
)


def captions_of(folder, column="caption"):
    with (folder / "pairs.csv").open(encoding="utf-8") as file:
        return [row[column] for row in csv.DictReader(file)]


def noise(texts):
    """A stand-in for a text tower that leans to one side, as they all do."""
    rows = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=8) + 3 for text in texts]
    return np.array(rows).reshape(len(texts), 8)


def check(vectors, texts):
    made = vectors(texts)
    assert made.dtype == np.float32
    assert made.shape[0] == len(texts)
    lengths = np.linalg.norm(made, axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0))
    both = similarity(vectors, texts, texts)
    assert both.min(initial=0) >= 0
    assert both.max(initial=0) <= 1
    np.testing.assert_allclose(both, both.T, atol=1e-6)
    np.testing.assert_allclose(np.diag(both), lengths, atol=1e-5)


@given(captions)
def test_terms_give_unit_or_zero_vectors(texts):
    check(BAG, texts)
    assert [bool(TERMS.find(text)) for text in texts] == [bool(row.any()) for row in BAG(texts)]


@given(labels)
def test_labels_give_unit_or_zero_vectors(rows):
    check(partial(label_vectors, parents={"f": "e"}), rows)


@settings(deadline=None)
@given(captions)
def test_texts_give_unit_or_zero_vectors(texts):
    check(partial(text_vectors, encode=noise), texts)


@given(captions)
def test_terms_against_counts_weighted_by_hand(texts):
    holders = {name: sum(name in TERMS.find(text) for text in texts) for text in texts for name in TERMS.find(text)}
    weighted = [
        [TERMS.find(text).get(name, 0) * math.log((len(texts) + 1) / count) for name, count in holders.items()] or [0.0]
        for text in texts
    ]
    made = BAG(texts)
    np.testing.assert_allclose(made @ made.T, cosine_similarity(weighted), atol=1e-5)


def test_what_every_caption_says_counts_for_next_to_nothing():
    texts = ["steel surface with a crack", "steel surface with a hole", *["steel surface"] * 98]
    alike = similarity(BAG, texts, texts)
    assert alike[0, 1] < 0.001
    assert alike[2, 3] == pytest.approx(1)


def test_a_term_that_is_denied_is_another_one():
    alike = similarity(BAG, ["a crack", "no crack", "without a crack"], ["a crack"])
    assert alike[:2, 0].tolist() == [pytest.approx(1), 0]


def test_a_text_without_terms_is_similar_to_nothing():
    assert similarity(BAG, ["a picture of a dog"], ["a picture of a dog", "crack"]).tolist() == [[0, 0]]


def test_labels_against_the_share_of_the_common_path():
    parents = {"rust": "corrosion", "corrosion": "damage", "dent": "damage"}
    names = ["rust", "corrosion", "dent", "damage", "dirt", "animals/mammals/cats", "animals/birds", "animals"]
    made = similarity(partial(label_vectors, parents=parents), names, names)
    paths = [set(ancestors(name, parents)) for name in names]
    plain = [[len(one & other) / math.sqrt(len(one) * len(other)) for other in paths] for one in paths]
    np.testing.assert_allclose(made, plain, atol=1e-6)
    assert made[0, 0] > made[0, 1] > made[0, 3] > made[0, 2] > made[0, 4] == 0
    one_depth = [index for index, path in enumerate(paths) if len(path) == 2]
    wu_palmer = [[2 * len(paths[i] & paths[j]) / 4 for j in one_depth] for i in one_depth]
    np.testing.assert_allclose(made[np.ix_(one_depth, one_depth)], wu_palmer, atol=1e-6)


def test_several_labels_of_a_row_average():
    made = similarity(label_vectors, ["a;b", "", "a ; a/c"], ["a", "b", "c"])
    np.testing.assert_allclose(made[0], [math.sqrt(0.5), math.sqrt(0.5), 0], atol=1e-6)
    assert made[1].tolist() == [0, 0, 0]
    assert made[2, 0] > math.sqrt(0.5)


def test_the_path_of_a_label():
    assert ancestors("animals/mammals/cats", {}) == ("animals/mammals/cats", "animals/mammals", "animals")
    assert ancestors("cats", {"cats": "animals/mammals"}) == ("cats", "animals/mammals", "animals")
    assert ancestors("a.b", {}, ".") == ("a.b", "a")
    with pytest.raises(DomainError, match="b -> c -> b is a circle"):
        ancestors("a", {"a": "b", "b": "c", "c": "b"})
    with pytest.raises(DomainError, match="a -> a is a circle"):
        ancestors("a", {"a": "a"})


def test_centring_makes_room_below_and_repeats_do_not_move_the_middle():
    texts = [f"text {number}" for number in range(40)]
    raw = cosine_similarity(noise(texts))
    assert raw.min() > 0.2, "the stand-in leans, or this test says nothing"
    alike = similarity(partial(text_vectors, encode=noise), texts, texts)
    off = alike[~np.eye(40, dtype=bool)]
    assert np.median(off) < 0.1
    unit = noise(texts) / np.linalg.norm(noise(texts), axis=1, keepdims=True)
    np.testing.assert_allclose(alike, cosine_similarity(unit - unit.mean(0)).clip(0, 1), atol=1e-5)
    repeated = text_vectors([*texts, *[texts[0]] * 100], encode=noise)
    np.testing.assert_array_equal(repeated[:40], text_vectors(texts, encode=noise))


def test_each_text_is_encoded_once():
    asked = []

    def encode(texts):
        asked.extend(texts)
        return noise(texts)

    made = text_vectors(["b", "a", "b"], encode)
    assert asked == ["b", "a"]
    np.testing.assert_array_equal(made[0], made[2])
    assert text_vectors([], encode).shape[0] == 0
    assert not text_vectors(["a", "a"], encode).any(), "one text has no direction from the middle"


def test_the_domain_chooses():
    general, industrial, medical = (domains.load(name) for name in ("general", "industrial", "medical"))
    terms = domains.read_terms(medical, domains.term_folders("medical"))
    assert similarity(metric(medical, terms), ["PNEUMONIA"], ["pneumonia", "a fracture"]).tolist() == [[1, 0]]
    assert similarity(metric(industrial, terms), ["bottle/broken"], ["bottle/good", "tile/good"])[0] == pytest.approx(
        [0.5, 0]
    )
    assert metric(general, terms, noise)(["a", "b"]).shape == (2, 8)
    with pytest.raises(DomainError, match='"text" needs a text tower.*"terms" or "labels"'):
        metric(general, terms)


def test_the_real_label_tree(shared_data):
    stamps = sorted(set(captions_of(shared_data / "tuxpaint_stamps", "label")))
    alike = similarity(label_vectors, stamps, stamps)
    of = {label: number for number, label in enumerate(stamps)}
    assert alike[of["animals/mammals"], of["animals/birds"]] == pytest.approx(0.5)
    assert alike[of["animals/mammals"], of["space/planets"]] == 0
    np.testing.assert_allclose(np.diag(alike), 1, atol=1e-5)


def test_real_captions_of_one_section_share_more_terms_than_those_of_two(shared_data):
    """The table of contents of a textbook was not made from the list of terms."""
    sections = np.array(captions_of(shared_data / "openstax_microbiology", "label"))
    texts = captions_of(shared_data / "openstax_microbiology")
    medical = domains.load("medical")
    vectors = metric(medical, domains.read_terms(medical, domains.term_folders("medical")))
    alike = similarity(vectors, texts, texts)
    same = (sections[:, None] == sections[None, :]) & (sections[:, None] != "") & ~np.eye(len(texts), dtype=bool)
    other = sections[:, None] != sections[None, :]
    assert alike[same].mean() > 2 * alike[other].mean()
