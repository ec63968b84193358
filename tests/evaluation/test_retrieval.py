"""Retrieval against a reference in plain Python and against scikit-learn: repeated captions and images, ties, left-out
figures."""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from honeclip.evaluation import retrieval

CORNERS = np.array(list(itertools.product((-0.5, 0.5), repeat=4)))
"""Unit vectors whose dot products are multiples of 1/2, exact in floating point: ties are frequent, and really ties."""


@st.composite
def data_sets(draw):
    """Rows of (file, content, caption), and a vector for each content and each caption."""
    rows = draw(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5)), min_size=1, max_size=14))
    content_of_file = draw(st.lists(st.integers(0, 4), min_size=8, max_size=8))
    texts = sorted({caption for _, caption in rows})
    rows = [(file, content_of_file[file], texts.index(caption)) for file, caption in rows]
    vectors = st.lists(st.integers(0, len(CORNERS) - 1), min_size=5, max_size=5)
    image_of = draw(vectors)
    text_of = draw(st.lists(st.integers(0, len(CORNERS) - 1), min_size=len(texts), max_size=len(texts)))
    return rows, CORNERS[image_of], CORNERS[text_of]


def plain(rows, image_of_content, text_of_caption) -> tuple[list[int], list[int]]:
    """The definition, word for word: 1 + the wrong candidates that score at least as high as the best right one."""
    files = list(dict.fromkeys(file for file, _, _ in rows))
    content_of = {file: content for file, content, _ in rows}
    texts = range(len(text_of_caption))

    def cosine(file, text):
        return sum(a * b for a, b in zip(image_of_content[content_of[file]], text_of_caption[text], strict=True))

    def right(file, text):
        return any(content == content_of[file] and caption == text for _, content, caption in rows)

    def rank(candidates, score, is_right):
        best = max(score(one) for one in candidates if is_right(one))
        return 1 + sum(1 for one in candidates if not is_right(one) and score(one) >= best)

    return (
        [rank(texts, lambda t, f=file: cosine(f, t), lambda t, f=file: right(f, t)) for file in files],
        [rank(files, lambda f, t=text: cosine(f, t), lambda f, t=text: right(f, t)) for text in texts],
    )


def ranked(rows, image_of_content, text_of_caption) -> retrieval.Ranks:
    file_of, image_id, caption_of = (np.array(column) for column in zip(*rows, strict=True))
    right, first = retrieval.right_pairs(image_id, caption_of, file_of)
    return retrieval.ranks(image_of_content[image_id[first]], text_of_caption, right)


@given(data_sets())
@settings(max_examples=300, deadline=None)
def test_ranks_are_those_of_the_definition(made):
    found, (image_to_text, text_to_image) = ranked(*made), plain(*made)
    assert found.image_to_text.tolist() == image_to_text
    assert found.text_to_image.tolist() == text_to_image


def test_ranks_do_not_depend_on_how_much_is_looked_at_once(monkeypatch):
    draw = np.random.default_rng(0)
    rows = [(row, row, draw.integers(0, 30)) for row in range(60)]
    rows = [(file, content, sorted({c for _, _, c in rows}).index(caption)) for file, content, caption in rows]
    images, texts = draw.normal(size=(60, 8)), draw.normal(size=(30, 8))[: 1 + max(c for _, _, c in rows)]
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
    whole = ranked(rows, images, texts)
    for size in (1, 300, 5000):
        monkeypatch.setattr(retrieval, "CHUNK_BYTES", size)
        parts = ranked(rows, images, texts)
        assert parts.image_to_text.tolist() == whole.image_to_text.tolist()
        assert parts.text_to_image.tolist() == whole.text_to_image.tolist()


def test_single_pairs_agree_with_scikit_learn():
    draw = np.random.default_rng(1)
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in draw.normal(size=(2, 120, 6)))
    images = images + texts
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    found = retrieval.retrieval(ranked([(i, i, i) for i in range(120)], images, texts))
    for way, scores in (("image_to_text", images @ texts.T), ("text_to_image", texts @ images.T)):
        for k in (1, 5, 10):
            expected = top_k_accuracy_score(np.arange(120), scores, k=k)
            assert found[way][f"R@{k}"]["value"] == pytest.approx(expected, abs=1e-12)
        order = [int(np.where(np.argsort(-row) == place)[0][0]) + 1 for place, row in enumerate(scores)]
        assert found[way]["median_rank"]["value"] == np.median(order)


def test_any_of_five_captions_is_right_and_a_twin_file_is_an_image_of_its_own():
    """Two files with the same pixels, one of them with the caption of the other's row: both captions suit both."""
    image_id, caption_of, file_of = np.array([7, 7, 3, 7]), np.array([0, 1, 2, 3]), np.array([0, 0, 1, 2])
    right, first = retrieval.right_pairs(image_id, caption_of, file_of)
    assert (right.images, right.texts, first.tolist()) == (3, 4, [0, 2, 3])
    assert list(zip(right.image.tolist(), right.text.tolist(), strict=True)) == [
        *((0, text) for text in (0, 1, 3)),
        (1, 2),
        *((2, text) for text in (0, 1, 3)),
    ]


def test_without_files_every_row_is_an_image():
    right, first = retrieval.right_pairs(np.array([5, 5, 6]), np.array([0, 1, 1]))
    assert first.tolist() == [0, 1, 2]
    assert right.images == 3


def test_one_embedding_for_everything_ends_last():
    rows = [(i, i, i) for i in range(20)]
    same = np.tile([[0.6, 0.8]], (20, 1))
    found = ranked(rows, same, same)
    assert found.image_to_text.tolist() == found.text_to_image.tolist() == [20] * 20


def test_rounding_does_not_break_a_tie_in_the_models_favour():
    """Directions that differ by less than float64's own error of a cosine are the same direction."""
    text = np.array([[0.6, 0.8, 0.0], [0.6, 0.8, 1e-13]])
    found = ranked([(0, 0, 0), (1, 1, 1)], text[[0, 0]], text)
    assert found.image_to_text.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("candidates", "names"),
    [
        (4, []),
        (5, ["R@1"]),
        (24, ["R@1"]),
        (25, ["R@1", "R@5"]),
        (49, ["R@1", "R@5"]),
        (50, ["R@1", "R@5", "R@10"]),
    ],
)
def test_recall_is_left_out_below_five_k_candidates(candidates, names):
    ranks = retrieval.Ranks(np.ones(3, dtype=np.int64), np.ones(candidates, dtype=np.int64))
    found = retrieval.retrieval(ranks)
    assert [name for name in found["image_to_text"] if name.startswith("R@")] == names
    assert "R@1" not in found["text_to_image"], "three images are too few candidates, however many queries there are"
    assert "median_rank" in found["image_to_text"]


def test_figures_are_shares_of_the_queries():
    ranks = retrieval.Ranks(np.array([1, 1, 3, 6, 11, 60]), np.ones(60, dtype=np.int64))
    found = retrieval.retrieval(ranks)["image_to_text"]
    assert [found[name]["value"] for name in ("R@1", "R@5", "R@10")] == pytest.approx([2 / 6, 3 / 6, 4 / 6])
    assert found["median_rank"]["value"] == 4.5
    for one in found.values():
        assert one["low"] <= one["value"] <= one["high"]


@given(st.integers(0, 2**16), st.integers(1, 12), st.integers(2, 30))
@settings(max_examples=100, deadline=None)
def test_ndcg_with_several_right_answers_is_scikit_learns(seed, queries, candidates):
    random = np.random.default_rng(seed)
    query, candidate = random.normal(size=(queries, 5)), random.normal(size=(candidates, 5))
    relevant = random.random((queries, candidates)) < 0.3
    relevant[np.arange(queries), random.integers(0, candidates, queries)] = True
    found = retrieval.ndcg(query, candidate, np.nonzero(relevant))
    assert found.mean() == pytest.approx(ndcg_score(relevant, query @ candidate.T, k=10), abs=1e-12)


def test_ndcg_of_real_captions_that_share_a_chapter(shared_data):
    """Each caption asks for the others; right are those of its label. Words make the scores."""
    with (shared_data / "openstax_microbiology" / "pairs.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    captions = list(dict.fromkeys(row["caption"] for row in rows))
    label = {row["caption"]: row["label"] for row in rows}
    words = TfidfVectorizer().fit_transform(captions).toarray()
    words += 1e-4 * np.random.default_rng(0).random(words.shape)  # scikit-learn has another rule for ties
    relevant = np.array([[label[one] == label[other] for other in captions] for one in captions])
    found = retrieval.ndcg(words, words, np.nonzero(relevant))
    assert found.mean() == pytest.approx(ndcg_score(relevant, words @ words.T, k=10), abs=1e-12)
    assert 0.3 < found.mean() < 0.9


def test_a_tie_counts_against_ndcg_too():
    same = np.ones((1, 2)) / np.sqrt(2)
    found = retrieval.ndcg(same, np.repeat(same, 4, 0), (np.array([0]), np.array([0])))
    assert found == pytest.approx(1 / np.log2(5))


@given(data_sets())
def test_mrr_with_one_right_answer_is_scikit_learns(data):
    rows, images, texts = data
    rows = list({file: (file, content, text) for file, content, text in rows}.values())  # a caption a file
    names = sorted({text for _, _, text in rows})
    rows = [(number, number, names.index(text)) for number, (_, _, text) in enumerate(rows)]
    vectors = images[np.arange(len(rows)) % len(images)]
    found = ranked(rows, vectors, texts[names])
    relevant = np.zeros((len(rows), len(names)), dtype=int)
    relevant[np.arange(len(rows)), [text for _, _, text in rows]] = 1
    expected = label_ranking_average_precision_score(relevant, vectors @ texts[names].T)
    of = retrieval.reciprocal(found.image_to_text)
    assert of(np.arange(len(rows))[None])["mrr"][0] == pytest.approx(expected)
