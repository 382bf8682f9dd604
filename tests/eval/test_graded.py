"""nDCG by shared findings: against its definition, spelt out."""

import doctest

import numpy as np
import pytest

from chextriev.eval import averages, graded
from chextriev.eval.candidates import Candidates
from chextriev.eval.graded import ndcg_jaccard

KS = [2, 5, 8]
RANDOM = np.random.default_rng(11)
LABELS = (RANDOM.random((40, 4)) < 0.3).astype(np.int8)
QUERIES = np.flatnonzero(LABELS.any(axis=1))
PATIENTS = RANDOM.integers(0, 12, 40)
FEW = np.zeros(40, np.int64)
FEW[::8] = np.arange(5) + 1
DROPPED = RANDOM.integers(-1, 40, len(QUERIES))


@pytest.mark.parametrize("module", [graded, averages])
def test_the_examples_in_the_docstrings_hold(module):
    outcome = doctest.testmod(module)
    assert (outcome.attempted > 0, outcome.failed) == (True, 0)


def rows_of(candidates, query):
    """The rows that a query may find."""
    row = candidates.queries[query]
    return [
        other
        for other in range(len(LABELS))
        if (candidates.groups is None or candidates.groups[other] != candidates.groups[row])
        and (candidates.dropped is None or candidates.dropped[query] != other)
    ]


def gain(row, other):
    return (LABELS[row] & LABELS[other]).sum() / (LABELS[row] | LABELS[other]).sum()


def discounted(gains):
    return sum(value / np.log2(rank + 2) for rank, value in enumerate(gains))


@pytest.mark.parametrize(
    "candidates",
    [
        Candidates(QUERIES),
        Candidates(QUERIES, np.arange(40)),
        Candidates(QUERIES, PATIENTS),
        Candidates(QUERIES, FEW),
        Candidates(QUERIES, dropped=DROPPED),
    ],
    ids=["everybody", "without self", "without the patient", "few candidates", "without one"],
)
def test_it_equals_its_definition(candidates):
    lists = np.full((len(QUERIES), 8), -1)
    for query in range(len(QUERIES)):
        found = RANDOM.permutation(rows_of(candidates, query))[:8]
        lists[query, : len(found)] = found
    scores = ndcg_jaccard(lists, LABELS, candidates, KS)
    for query, row in enumerate(QUERIES):
        gains = [gain(row, other) for other in rows_of(candidates, query)]
        for column, k in enumerate(KS):
            best = discounted(sorted(gains, reverse=True)[:k])
            found = discounted(gain(row, other) for other in lists[query, :k] if other >= 0)
            by_chance = np.mean(gains) * discounted([1] * min(k, len(gains)))
            wanted = (found / best, by_chance / best) if best else (0, 0)
            assert (scores.measured[query, column], scores.chance[query, column]) == pytest.approx(wanted)


def test_it_is_one_for_the_best_order_and_for_labels_that_agree():
    labels = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]], np.int8)
    best = ndcg_jaccard(np.array([[1, 2, 3]]), labels, Candidates(np.array([0]), np.arange(4)), [1, 3])
    assert best.measured.tolist() == [[1, 1]]


def test_unknown_findings_count_as_absent():
    labels = np.array([[1, -1], [1, 0], [-1, 1]], np.int8)
    candidates = Candidates(np.array([0]), np.arange(3))
    assert ndcg_jaccard(np.array([[2, 1]]), labels, candidates, [1, 2]).measured[0].tolist() == [0, 1 / np.log2(3)]
