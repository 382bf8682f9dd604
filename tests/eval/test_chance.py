"""The closed forms against every order of small cases, and against simulation of larger ones."""

from itertools import combinations

import numpy as np
import pytest

from chextriev.errors import CountMismatch, InvalidValue
from chextriev.eval.chance import CHANCE, RandomRanking, expected_scores
from chextriev.eval.metrics import METRICS, FindingScores, RankedHits

KS = [1, 2, 3, 5, 8]
SMALL = [(n, r) for n in range(1, 8) for r in range(n + 1)]


def test_every_metric_has_its_expectation():
    assert list(CHANCE) == list(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_the_expectation_is_the_mean_over_all_orders(name):
    expected = CHANCE[name](RandomRanking(*np.array(SMALL).T), KS)
    for (candidates, relevant), value in zip(SMALL, expected, strict=True):
        orders = np.array([_padded(places) for places in combinations(range(candidates), relevant)])
        over_all = METRICS[name](RankedHits(orders, np.full(len(orders), relevant)), KS).mean(axis=0)
        np.testing.assert_allclose(value, over_all, atol=1e-12, err_msg=f"N={candidates}, R={relevant}")


@pytest.mark.parametrize(("candidates", "relevant"), [(60, 2), (300, 90), (300, 150)])
def test_the_expectation_lies_within_the_error_of_a_simulation(candidates, relevant):
    ranks = 10
    generator = np.random.default_rng(11)
    pool = np.arange(candidates) < relevant
    orders = generator.permuted(np.tile(pool, (20_000, 1)), axis=1)[:, :ranks]
    ranked = RankedHits(orders, np.full(len(orders), relevant))
    ranking = RandomRanking(np.array([candidates]), np.array([relevant]))
    for name, metric in METRICS.items():
        simulated = metric(ranked, [3, 5, ranks])
        error = simulated.std(axis=0) / np.sqrt(len(orders))
        difference = np.abs(CHANCE[name](ranking, [3, 5, ranks])[0] - simulated.mean(axis=0))
        assert (difference <= 4 * error + 1e-12).all(), name


def test_a_query_without_candidates_expects_nothing():
    ranking = RandomRanking(np.array([0]), np.array([0]))
    assert all(expectation(ranking, KS).max() == 0 for expectation in CHANCE.values())


def test_scores_by_chance_belong_to_the_same_queries():
    measured = [FindingScores(np.array([0, 2]), np.zeros((2, len(METRICS), 1)))]
    scores = expected_scores(measured, np.array([4, 4, 8]), np.array([[1], [4], [4]]), [1])
    assert scores[0].positions.tolist() == [0, 2]
    assert scores[0].values[:, list(METRICS).index("precision"), 0].tolist() == [0.25, 0.5]


def test_impossible_counts_are_refused():
    with pytest.raises(InvalidValue, match="more hits than candidates"):
        RandomRanking(np.array([3]), np.array([4]))
    with pytest.raises(CountMismatch, match="both are"):
        RandomRanking(np.array([3]), np.array([1, 2]))


def _padded(places):
    line = np.zeros(max(KS), bool)
    line[list(places)] = True
    return line
