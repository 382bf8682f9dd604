"""Metrics against hand-computed values, an independent per-query form, and properties."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue
from chextriev.eval import chance, metrics
from chextriev.eval.metrics import METRICS, RankedHits, class_means, macro_mean, score_queries


@pytest.mark.parametrize("module", [metrics, chance])
def test_the_examples_in_the_docstrings_hold(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted >= 5
    assert outcome.failed == 0


D2, D3, D4, D5 = (1 / math.log2(rank + 1) for rank in (2, 3, 4, 5))

# hits in rank order, R, k, then ap_over_hits, ap_over_min_k_r, ap_over_r, precision, hit_rate, rr, ndcg
HAND_COMPUTED = [
    ("11111", 7, 5, (1, 1, 5 / 7, 1, 1, 1, 1)),
    ("00000", 7, 5, (0, 0, 0, 0, 0, 0, 0)),
    ("01010", 2, 5, (1 / 2, 1 / 2, 1 / 2, 2 / 5, 1, 1 / 2, (D2 + D4) / (1 + D2))),
    ("01010", 4, 3, (1 / 2, 1 / 6, 1 / 8, 1 / 3, 1, 1 / 2, D2 / (1 + D2 + D3))),
    ("10011", 9, 5, (21 / 30, 21 / 50, 21 / 90, 3 / 5, 1, 1, (1 + D4 + D5) / (1 + D2 + D3 + D4 + D5))),
    ("00001", 1, 5, (1 / 5, 1 / 5, 1 / 5, 1 / 5, 1, 1 / 5, D5)),
    ("00001", 1, 4, (0, 0, 0, 0, 0, 0, 0)),
    ("00000", 0, 5, (0, 0, 0, 0, 0, 0, 0)),
]


@pytest.mark.parametrize(("pattern", "relevant", "k", "expected"), HAND_COMPUTED)
def test_each_metric_equals_the_value_computed_by_hand(pattern, relevant, k, expected):
    ranked = RankedHits(np.array([[mark == "1" for mark in pattern]]), np.array([relevant]))
    assert [float(metric(ranked, [k])[0, 0]) for metric in METRICS.values()] == pytest.approx(expected)


def test_unknown_is_neither_query_nor_hit_and_filler_is_no_hit():
    labels = np.array([[1], [1], [-1], [0], [1]], np.int8)
    neighbours = np.array([[2, 1, -1], [4, 3, 0], [0, 1, 4], [0, 1, 4]])
    score = _score(neighbours, labels, queries=np.array([0, 1, 2, 3]), ks=[1, 3])
    assert score.positions.tolist() == [0, 1]
    assert _of(score, "precision").tolist() == [[0, 1 / 3], [1, 2 / 3]]
    assert _of(score, "rr").tolist() == [[0, 1 / 2], [1, 1]]


def test_filler_does_not_read_the_last_gallery_row():
    labels = np.array([[1], [1]], np.int8)
    score = _score(np.array([[-1, -1]]), labels, queries=np.array([0]), ks=[2])
    assert score.values.max() == 0


def test_a_finding_without_queries_is_left_out_of_the_macro_average():
    labels = np.array([[1, 0], [1, -1], [0, 0]], np.int8)
    relevant = np.array([[1, 0], [1, 0]])
    scores = score_queries(np.array([[1], [2]]), labels, queries=np.array([0, 1]), relevant=relevant, ks=[1])
    counts, means = class_means(scores)
    classes, macro = macro_mean(means)
    assert counts.tolist() == [[2], [0]]
    assert np.isnan(means[1]).all()
    assert classes.tolist() == [1]
    assert macro[list(METRICS).index("precision")].tolist() == [0.5]


def test_no_class_at_all_leaves_the_macro_average_undefined():
    classes, macro = macro_mean(np.full((2, len(METRICS), 1), np.nan))
    assert classes.tolist() == [0]
    assert np.isnan(macro).all()


def test_dropping_zero_hit_queries_equals_the_mean_over_the_others():
    labels = np.array([[1], [1], [1], [0]], np.int8)
    neighbours = np.array([[3, 1], [3, 3], [0, 1]])
    score = _score(neighbours, labels, queries=np.arange(3), ks=[1, 2])
    counts, means = class_means([score], keep_zero_hit_queries=False)
    assert counts.tolist() == [[1, 2]]
    np.testing.assert_allclose(means[0, :, 1], score.values[[0, 2], :, 1].mean(axis=0))
    np.testing.assert_allclose(means[0, :, 0], score.values[2, :, 0])


@pytest.mark.parametrize(
    ("neighbours", "ks", "error", "words"),
    [
        ([[0, 1]], [3], InvalidSetting, "k = 3 of lists with 2 ranks"),
        ([[0, 1]], [0, 1], InvalidSetting, "each k is 1..2"),
        ([[0, 1]], [], InvalidSetting, "k = nothing"),
        ([[0, 5]], [2], InvalidValue, "query 0, rank 2: row 5 is outside the gallery of 3"),
        ([[0, -2]], [2], InvalidValue, "row -2"),
        ([[-1, 0]], [2], InvalidValue, "-1 at rank 1 before a neighbour"),
        ([0, 1], [1], CountMismatch, r"shape \[2\]"),
        ([[0, 1], [1, 0]], [1], CountMismatch, "are needed"),
    ],
)
def test_lists_that_cannot_be_scored_are_refused(neighbours, ks, error, words):
    with pytest.raises(error, match=words):
        score_queries(
            np.array(neighbours),
            np.ones((3, 1), np.int8),
            queries=np.array([0]),
            relevant=np.array([[2]]),
            ks=ks,
        )


def test_hits_and_relevant_must_fit():
    with pytest.raises(CountMismatch, match="hits and relevant"):
        RankedHits(np.ones((2, 3), bool), np.array([1]))


hit_lists = st.integers(1, 8).flatmap(
    lambda k: st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=1, max_size=12)
)


@settings(max_examples=60, deadline=None)
@given(hit_lists, st.integers(0, 4))
def test_metrics_are_bounded_and_agree_with_a_loop(lists, further):
    hits = np.array(lists)
    relevant = hits.sum(axis=1) + further
    ks = list(range(1, hits.shape[1] + 1))
    ranked = RankedHits(hits, relevant)
    for name, metric in METRICS.items():
        values = metric(ranked, ks)
        assert values.shape == (len(hits), len(ks))
        assert values.min() >= 0
        assert values.max() <= 1 + 1e-12
        loop = [[_by_loop(name, line[:k], int(r)) for k in ks] for line, r in zip(lists, relevant, strict=True)]
        np.testing.assert_allclose(values, loop, atol=1e-12)
    found = {name: metric(ranked, ks) for name, metric in METRICS.items()}
    assert (found["hit_rate"] >= found["rr"]).all()
    assert (found["hit_rate"] >= found["precision"]).all()
    assert (np.diff(found["hit_rate"], axis=1) >= 0).all()
    assert (np.diff(found["rr"], axis=1) >= 0).all()
    assert (found["ap_over_hits"] >= found["ap_over_min_k_r"] - 1e-12).all()
    assert (found["ap_over_min_k_r"] >= found["ap_over_r"] - 1e-12).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_neither_the_order_of_queries_nor_the_numbering_of_the_gallery_matters(seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(-1, 2, (12, 3)).astype(np.int8)
    neighbours = np.array([generator.permutation(12)[:5] for _ in range(9)])
    queries, relevant = generator.permutation(12)[:9], generator.integers(5, 12, (9, 3))
    means = class_means(score_queries(neighbours, labels, queries=queries, relevant=relevant, ks=[2, 5]))[1]
    order, renumber = generator.permutation(9), generator.permutation(12)
    again = score_queries(
        renumber[neighbours[order]],
        labels[np.argsort(renumber)],
        queries=renumber[queries[order]],
        relevant=relevant[order],
        ks=[2, 5],
    )
    np.testing.assert_allclose(class_means(again)[1], means)


def _by_loop(name, line, relevant):
    """The definitions, spelt out for one list."""
    ranks = [rank for rank, hit in enumerate(line, 1) if hit]
    gains = sum(sum(line[:rank]) / rank for rank in ranks)
    return {
        "ap_over_hits": gains / len(ranks) if ranks else 0,
        "ap_over_min_k_r": gains / min(len(line), relevant) if relevant else 0,
        "ap_over_r": gains / relevant if relevant else 0,
        "precision": len(ranks) / len(line),
        "hit_rate": float(bool(ranks)),
        "rr": 1 / ranks[0] if ranks else 0,
        "ndcg": sum(1 / math.log2(rank + 1) for rank in ranks)
        / sum(1 / math.log2(rank + 1) for rank in range(1, min(len(line), relevant) + 1))
        if relevant
        else 0,
    }[name]


def _score(neighbours, labels, *, queries, ks):
    relevant = np.full((len(queries), 1), int((labels == 1).sum()))
    return score_queries(neighbours, labels, queries=queries, relevant=relevant, ks=ks)[0]


def _of(score, name):
    return score.values[:, list(METRICS).index(name)]
