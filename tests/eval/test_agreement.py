"""Our metrics against pytrec_eval, ir_measures and ranx, and where their definitions part from ours."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import pytest

from chextriev.eval.bench_libraries import LIBRARIES, SHARED, OneFindingLists, largest_difference, ours
from chextriev.eval.candidates import Candidates
from chextriev.eval.metrics import METRICS, FindingScores, RankedHits, score_queries
from chextriev.index.exact import exact_search

KS = (3, 5, 10)
LARGE, SHORT = 60, 8  # of 8 rows, each finds 7 at most, so that lists of 10 end early
CASES = [(0, LARGE), (1, LARGE), (2, SHORT), (3, SHORT)]
EMPTY = 2
EQUAL = 1e-9


@dataclass(frozen=True, eq=False)
class Case:
    """What our code made of a gallery that was searched with itself, and the lists of each finding that has any."""

    scores: list[FindingScores]
    lists: dict[int, OneFindingLists]
    relevant: np.ndarray


def _case(seed, size):
    """Vectors of few values, so that similarities tie; a tenth of the labels unknown; finding 2 nowhere."""
    generator = np.random.default_rng(seed)
    vectors = generator.integers(1, 4, (size, 2)).astype(np.float32)
    labels = (generator.random((size, 4)) < (0.6, 0.3, 0.0, 0.1)).astype(np.int8)
    labels[generator.random(labels.shape) < 0.1] = -1
    queries = np.arange(size)
    similarities, neighbours = exact_search(vectors, vectors, max(KS), groups=(queries, queries))
    assert (similarities[:, 1:] == similarities[:, :-1]).any()
    _, relevant = Candidates(queries, dropped=queries).count(labels)
    scores = score_queries(neighbours, labels, queries=queries, relevant=relevant, ks=KS)
    lists = {
        column: OneFindingLists(neighbours[score.positions], labels[:, column] == 1, score.positions)
        for column, score in enumerate(scores)
        if len(score.positions)
    }
    return Case(scores, lists, relevant)


def _numbers(case, column):
    """Of one finding, by metric and k."""
    values = case.scores[column].values
    return {(name, k): values[:, list(METRICS).index(name), place] for name in SHARED for place, k in enumerate(KS)}


def _agree(case, column, theirs, asked=SHARED):
    found = largest_difference(_numbers(case, column), theirs)
    assert set(found) == set(asked)
    assert max(found.values()) <= EQUAL, found


@pytest.mark.parametrize(("seed", "size"), CASES)
def test_a_finding_nowhere_has_no_queries_and_the_others_do(seed, size):
    case = _case(seed, size)
    assert len(case.scores[EMPTY].positions) == 0
    assert len(case.lists) >= 2
    assert (next(iter(case.lists.values())).neighbours[:, -1] == -1).all() == (size == SHORT)


@pytest.mark.parametrize(("seed", "size"), CASES)
def test_we_agree_with_pytrec_eval(seed, size):
    pytest.importorskip("pytrec_eval", reason="pytrec-eval-terrier is not installed; `make env` installs it")
    case = _case(seed, size)
    answerable = [column for column, lists in case.lists.items() if case.relevant[lists.queries, column].all()]
    assert answerable
    for column in answerable:
        _agree(case, column, LIBRARIES["pytrec_eval-terrier"].of(case.lists[column], KS))


@pytest.mark.parametrize(("seed", "size"), CASES)
def test_we_agree_with_ir_measures(seed, size):
    measures = pytest.importorskip("ir_measures", reason="ir-measures is not installed; `make env` installs it")
    names = {"P": "precision", "Success": "hit_rate", "RR": "rr", "AP": "ap_over_r", "nDCG": "ndcg"}
    asked = {getattr(measures, name) @ k: (ours_, k) for name, ours_ in names.items() for k in KS}
    case = _case(seed, size)
    for column, lists in case.lists.items():
        relevant, found = lists.as_mappings()
        theirs = {key: np.zeros(len(found)) for key in asked.values()}
        for metric in measures.iter_calc(list(asked), relevant, found):
            theirs[asked[metric.measure]][int(metric.query_id.removeprefix("query-"))] = metric.value
        _agree(case, column, theirs)


IN_RANX = """
import json, sys
import numpy as np
from chextriev.eval.bench_libraries import LIBRARIES, OneFindingLists

cases, ks = json.load(sys.stdin)
answers = [LIBRARIES["ranx"].of(OneFindingLists(*map(np.array, case)), ks) for case in cases]
print(json.dumps([[[name, k, values.tolist()] for (name, k), values in answer.items()] for answer in answers]))
"""


@pytest.mark.skipif(find_spec("ranx") is None, reason="ranx is not installed; `make test-all` installs it")
def test_we_agree_with_ranx():
    """In a process of its own where numba compiles nothing: compiling takes a minute, and the numbers are the same."""
    cases = [_case(seed, size) for seed, size in CASES]
    asked = [
        (case, column, lists)
        for case in cases
        for column, lists in case.lists.items()
        if case.relevant[lists.queries, column].any()  # ranx refuses relevances that are all empty
    ]
    given = [[each.tolist() for each in (lists.neighbours, lists.has_it, lists.queries)] for _, _, lists in asked]
    answered = subprocess.run(
        [sys.executable, "-c", IN_RANX],
        input=json.dumps([given, KS]),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answered.returncode == 0, answered.stderr
    for (case, column, _), answer in zip(asked, json.loads(answered.stdout), strict=True):
        _agree(case, column, {(name, k): np.array(values) for name, k, values in answer})


class TestWhereDefinitionsPart:
    """Each shows the difference, so that it would be seen if a release of theirs took it away."""

    def test_their_average_precision_is_neither_over_hits_nor_over_the_best_list(self):
        _, theirs = _by_trec("1010", relevant=4, ks=(3,))
        assert theirs["ap_over_r", 3] == pytest.approx((1 + 2 / 3) / 4)
        assert _by_us("ap_over_hits", "1010", 4, 3) == pytest.approx((1 + 2 / 3) / 2)
        assert _by_us("ap_over_min_k_r", "1010", 4, 3) == pytest.approx((1 + 2 / 3) / 3)

    def test_trec_eval_cuts_the_reciprocal_rank_at_no_k(self):
        lists, theirs = _by_trec("0001", relevant=4, ks=(3, 4))
        assert theirs["rr", 4] == 1 / 4
        assert ("rr", 3) not in theirs
        assert ours(lists, (3, 4))["rr", 3] == 0

    def test_trec_eval_leaves_out_a_query_that_has_nothing_to_find_and_we_count_it_as_0(self):
        pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec-eval-terrier is not installed")
        lists = OneFindingLists(np.array([[1, 2]]), np.array([True, False, False]), np.array([0]))
        relevant, found = lists.as_mappings()
        assert pytrec_eval.RelevanceEvaluator(relevant, {"P.1", "success.1"}).evaluate(found) == {}
        assert {float(values[0]) for values in ours(lists, (1, 2)).values()} == {0.0}

    def test_trec_eval_orders_equal_scores_by_falling_id_and_we_by_rising_row(self):
        pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec-eval-terrier is not installed")
        vectors = np.array([[1, 0], [1, 1], [1, 1]], np.float32)
        rows = np.arange(3)
        scores, neighbours = exact_search(vectors[:1], vectors, 2, groups=(rows[:1], rows))
        tied = {"query": {f"image-{row}": float(score) for row, score in zip(neighbours[0], scores[0], strict=True)}}
        evaluator = pytrec_eval.RelevanceEvaluator({"query": {"image-1": 1}}, {"recip_rank"})
        assert evaluator.evaluate(tied)["query"]["recip_rank"] == 1 / 2
        assert neighbours.tolist() == [[1, 2]]


def _by_trec(pattern, *, relevant, ks):
    """One list of this pattern of hits, and what pytrec_eval says of it."""
    pytest.importorskip("pytrec_eval", reason="pytrec-eval-terrier is not installed; `make env` installs it")
    hits = [mark == "1" for mark in pattern]
    has_it = np.array([True, *hits, *[True] * (relevant - sum(hits))])
    lists = OneFindingLists(np.arange(1, len(hits) + 1)[None], has_it, np.array([0]))
    return lists, {key: float(values[0]) for key, values in LIBRARIES["pytrec_eval-terrier"].of(lists, ks).items()}


def _by_us(name, pattern, relevant, k):
    ranked = RankedHits(np.array([[mark == "1" for mark in pattern]]), np.array([relevant]))
    return float(METRICS[name](ranked, [k])[0, 0])
