"""The cheapest setting that reaches the goal, by measurement."""

import numpy as np
import pytest

from chextriev.errors import CountMismatch
from chextriev.index.bench import Mixture, clustered_vectors
from chextriev.index.exact import exact_search
from chextriev.index.spec import Goal, IndexSpec, n_lists
from chextriev.index.tune import least_recall, overlap, scan_cost, tune
from chextriev.index.vector_index import Scan, train_index

N, WIDTH, K = 6_000, 32, 10


@pytest.fixture(scope="module")
def made():
    return clustered_vectors(Mixture(n=N, width=WIDTH, queries=200, centres=600, spread=1.0))


@pytest.fixture(scope="module")
def wanted(made):
    return exact_search(made[N:], made[:N], K)[1]


@pytest.fixture(scope="module")
def built(made):
    return train_index(made[:N], IndexSpec("IVF64,PQ8x4fs,Refine(SQfp16)", auto=True))


def recall(built, made, wanted, spec):
    return overlap(built.search(made[N:], K, Scan(nprobe=spec.nprobe, rerank=spec.rerank))[1], wanted)


def test_the_cheapest_measured_setting_that_reaches_the_goal(built, made, wanted):
    goal = Goal(recall=0.9)
    spec, measured = tune(built, made[N:], wanted, goal)
    assert recall(built, made, wanted, spec) >= least_recall(goal)
    assert (spec.factory, spec.auto) == (built.spec.factory, True)
    reached = [each for each in measured if each["reached"]]
    costs = [scan_cost(built, each, K) for each in reached]
    assert scan_cost(built, {"nprobe": spec.nprobe, "rerank": spec.rerank}, K) == min(costs)
    assert {each["nprobe"] for each in measured} > {4}
    for each in measured:
        assert each["reached"] == (each["ann_recall"] >= 0.904)


def test_a_higher_goal_costs_more_and_the_same_goal_the_same(built, made, wanted):
    specs = [tune(built, made[N:], wanted, Goal(recall=each))[0] for each in (0.7, 0.9, 0.97)]
    costs = [scan_cost(built, {"nprobe": spec.nprobe, "rerank": spec.rerank}, K) for spec in specs]
    assert costs == sorted(set(costs))
    assert tune(built, made[N:], wanted, Goal(recall=0.9))[0] == specs[1]


def test_a_goal_that_is_out_of_reach_is_said_and_the_best_taken(made, wanted):
    coarse = train_index(made[:N], IndexSpec("IVF64,PQ8x4fs", auto=True))
    spec, measured = tune(coarse, made[N:], wanted, Goal(recall=0.99))
    assert not any(each["reached"] for each in measured)
    assert max(each["ann_recall"] for each in measured) == round(recall(coarse, made, wanted, spec), 4) < 0.9
    assert [each["nprobe"] for each in measured][-1] == n_lists(coarse.spec.factory)


def test_lists_alone_and_graphs_and_flat_codes_have_fewer_axes(made, wanted):
    goal = Goal(recall=0.9)
    spec, measured = tune(train_index(made[:N], IndexSpec("IVF64,SQfp16")), made[N:], wanted, goal)
    assert [set(each) for each in measured] == [{"nprobe", "ann_recall", "reached"}] * len(measured)
    assert spec.nprobe == measured[-1]["nprobe"] > 4
    spec, measured = tune(train_index(made[:N], IndexSpec("HNSW16")), made[N:], wanted, Goal(recall=0.99))
    assert spec.ef_search == measured[-1]["ef_search"]
    assert measured[-1]["reached"]
    assert not any(each["reached"] for each in measured[:-1])
    given = IndexSpec("SQ8")
    spec, measured = tune(train_index(made[:N], given), made[N:], wanted, goal)
    assert spec == given
    assert [set(each) for each in measured] == [{"ann_recall", "reached"}]


def test_a_query_that_stands_in_the_index_does_not_count_itself(built, made):
    own = np.arange(0, N, 40)
    groups = (own, np.arange(N))
    wanted = exact_search(made[own], made[:N], K, groups=groups)[1]
    counted, measured = tune(built, made[own], wanted, Goal(recall=0.9), own=own)
    found = built.search(made[own], K + 1, Scan(nprobe=counted.nprobe, rerank=(counted.rerank * K + 1) / (K + 1)))[1]
    assert overlap(np.where(found == own[:, None], -1, found), wanted) >= least_recall(Goal(recall=0.9))
    _, deeper = tune(built, made[own], wanted, Goal(recall=0.9))
    assert deeper[0]["ann_recall"] < measured[0]["ann_recall"]


def test_every_query_needs_its_exact_results(built, made, wanted):
    with pytest.raises(CountMismatch, match="200 queries beside exact results of 199"):
        tune(built, made[N:], wanted[1:], Goal())
