"""The ranking by view alone against every order of small galleries, and against chance where the views are alike."""

import json
from itertools import permutations
from math import factorial

import numpy as np
import pytest

from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.eval.candidates import Candidates
from chextriev.eval.metrics import METRICS, FindingScores, RankedHits
from chextriev.eval.run import evaluate
from chextriev.eval.view_baseline import (
    PermutationSettings,
    ViewCandidates,
    count_views,
    render_view_baseline,
    view_baseline,
    view_only_scores,
)


def _expected(same, same_hits, others, other_hits, ks, **settings):
    """[metrics, ks] of one query."""
    counts = ViewCandidates(
        *(np.array(value) for value in ([same], [[same_hits]], [same + others], [[same_hits + other_hits]]))
    )
    nothing = [FindingScores(np.array([0]), np.zeros((1, len(METRICS), len(ks))))]
    return view_only_scores(nothing, counts, ks, PermutationSettings(**settings))[0].values[0]


def _over_all_orders(same, same_hits, others, other_hits, ks):
    of_view = np.arange(same) < same_hits
    of_others = np.arange(others) < other_hits
    lists = [
        [*of_view[list(first)], *of_others[list(second)]]
        for first in permutations(range(same))
        for second in permutations(range(others))
    ]
    assert len(lists) == factorial(same) * factorial(others)
    ranked = RankedHits(np.array(lists), np.full(len(lists), same_hits + other_hits))
    return np.stack([metric(ranked, ks).mean(axis=0) for metric in METRICS.values()])


@pytest.mark.parametrize("case", [(4, 2, 3, 1), (4, 0, 3, 2), (4, 1, 3, 0), (5, 5, 2, 2), (4, 0, 2, 0)])
def test_it_is_the_mean_over_all_orders_where_the_view_fills_the_list(case):
    np.testing.assert_allclose(_expected(*case, [1, 2, 4]), _over_all_orders(*case, [1, 2, 4]), atol=1e-12)


@pytest.mark.parametrize("case", [(2, 1, 4, 2), (1, 0, 5, 3), (0, 0, 5, 2), (3, 2, 3, 1)])
def test_it_is_near_the_mean_over_all_orders_where_the_list_reaches_other_views(case):
    found = _expected(*case, [1, 3, 5], draws=20_000)
    np.testing.assert_allclose(found, _over_all_orders(*case, [1, 3, 5]), atol=0.015)
    np.testing.assert_array_equal(found, _expected(*case, [1, 3, 5], draws=20_000))


def test_a_list_ends_where_the_candidates_do():
    found = dict(zip(METRICS, _expected(1, 1, 1, 1, [4], draws=10)[:, 0], strict=True))
    assert found["precision"] == 0.5
    assert found["ap_over_r"] == 1


def test_counts_are_those_of_a_loop():
    generator = np.random.default_rng(3)
    labels = generator.integers(-1, 2, (30, 3)).astype(np.int8)
    views = np.array([("AP", "PA", None)[kind] for kind in generator.integers(3, size=30)], dtype=object)
    groups = generator.integers(12, size=30)
    queries = np.flatnonzero((labels == 1).any(axis=1))
    counts = count_views(labels, views, Candidates(queries, groups))
    for place, query in enumerate(queries):
        allowed = [row for row in range(30) if groups[row] != groups[query]]
        of_view = [row for row in allowed if views[query] is None or views[row] == views[query]]
        assert (counts.same[place], counts.all[place]) == (len(of_view), len(allowed))
        assert counts.same_relevant[place].tolist() == (labels[of_view] == 1).sum(axis=0).tolist()
        assert counts.all_relevant[place].tolist() == (labels[allowed] == 1).sum(axis=0).tolist()


@pytest.fixture(scope="module")
def evaluation(made_up):
    return evaluate(made_up)


def _counts(made_up, evaluation, views):
    rows = np.array([made_up.image_id.tolist().index(name) for name in evaluation.scored.query_ids])
    groups = np.unique(made_up.patient_id.astype(str), return_inverse=True)[1]
    return count_views(made_up.findings, views, Candidates(rows, groups))


@pytest.mark.parametrize("view", ["AP", None])
def test_without_a_difference_in_view_it_is_chance(made_up, evaluation, view):
    counts = _counts(made_up, evaluation, np.array([view] * len(made_up), dtype=object))
    found = view_baseline(evaluation.scored, counts)
    assert found.n_permuted == 0
    for k in (3, 5, 10):
        assert found.view_only[k] == pytest.approx(found.chance[k])
        macro = evaluation.overall.at_k[k]
        assert found.chance[k]["rr"] == pytest.approx(macro.chance.macro.rr)
        assert found.system[k]["rr"] == pytest.approx(macro.measured.macro.rr)


def test_a_view_that_tells_the_finding_beats_chance(made_up, evaluation):
    sick = made_up.findings[:, 0] == 1
    found = view_baseline(evaluation.scored, _counts(made_up, evaluation, np.where(sick, "AP", "PA").astype(object)))
    assert found.view_only[5]["precision"] > found.chance[5]["precision"] + 0.02


def test_it_is_told_beside_the_system_and_chance_and_saved(made_up, evaluation):
    views = np.array(["AP"] * 85 + ["PA"] * 5, dtype=object)
    found = view_baseline(evaluation.scored, _counts(made_up, evaluation, views))
    assert 0 < found.n_permuted <= 5
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert set(content["k"]["10"]) == {"system", "view_only", "chance"}
    row = [content["k"]["5"][column]["rr"] for column in ("system", "view_only", "chance")]
    text = render_view_baseline(found)
    assert f"| RR@5 | {' | '.join(f'{value:.3f}' for value in row)} |" in text
    assert f"but for {found.n_permuted} queries over random orders" in text


def test_what_does_not_fit_is_refused(made_up, evaluation):
    views = made_up.metadata["view"]
    with pytest.raises(CountMismatch, match="views of 89"):
        _counts(made_up, evaluation, views[:-1])
    counts = _counts(made_up, evaluation, views)
    with pytest.raises(CountMismatch, match="beside counts of"):
        view_baseline(evaluation.scored.of_queries(np.arange(5)), counts)
    with pytest.raises(InvalidSetting, match="draws >= 1"):
        PermutationSettings(draws=0)
