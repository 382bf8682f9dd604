"""`chextriev bench eval` at a small size: what it measures, and what it says where a library is missing."""

import json
import sys

import numpy as np
import pytest

from chextriev.errors import InvalidSetting
from chextriev.eval.bench import EvalBenchSettings, bench_eval, made_up_lists
from chextriev.eval.bench_libraries import OneFindingLists, largest_difference
from chextriev.eval.bench_loop import (
    evaluation_in_arrays,
    published_evaluation,
    published_evaluation_searched_once,
)
from chextriev.eval.bench_targets import targets

TREC = "pytrec_eval-terrier"
SMALL = EvalBenchSettings(
    lists=60, gallery=50, radiographs=40, width=8, queries=30, draws=20, libraries=(TREC,), repeats=1
)


@pytest.fixture(scope="module")
def content():
    return bench_eval(SMALL)


def test_the_results_are_json_with_a_line_for_every_target(content):
    assert json.loads(json.dumps(content, allow_nan=False))["settings"]["lists"] == 60
    shown = "\n".join(content["table"])
    assert all(name in shown for name in content["targets"])
    assert min(content["bootstrap"]["seconds"]["a_patient_each"].values()) > 0


def test_the_numbers_are_equal_whatever_computed_them(content):
    pytest.importorskip("pytrec_eval", reason="pytrec-eval-terrier is not installed; `make env` installs it")
    apart = content["libraries"][TREC]["largest_difference"]
    assert set(apart) == {"precision", "hit_rate", "rr", "ap_over_r", "ndcg"}
    assert max(apart.values()) <= 1e-9
    assert content["loop"]["largest_difference"] <= 1e-9


def test_a_library_that_is_not_installed_is_left_out_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "ranx", None)
    found = bench_eval(EvalBenchSettings(**{**vars(SMALL), "libraries": ("ranx",)}))
    assert "pip install 'chextriev[bench]'" in found["libraries"]["ranx"]["left_out"]
    goal = found["targets"]["60 lists: times ranx, its call alone"]
    assert goal == {"measured": None, "asked": "at least 100", "met": False}
    assert any("ranx: left out; this needs the module 'ranx'" in line for line in found["table"])


def test_lists_hold_no_row_twice_and_never_their_query():
    lists = made_up_lists(SMALL)
    assert all(len(set(line)) == 10 for line in lists.neighbours.tolist())
    assert not (lists.neighbours == lists.queries[:, None]).any()
    assert lists.has_it[lists.queries].all()
    assert 0.2 < lists.has_it[lists.neighbours].mean() < 0.4


def test_the_mappings_leave_out_the_query_and_filler():
    lists = OneFindingLists(np.array([[2, 1, -1]]), np.array([True, True, False]), np.array([0]))
    relevant, found = lists.as_mappings()
    assert relevant == {"query-000000": {"image-000001": 1}}
    assert found == {"query-000000": {"image-000002": 3.0, "image-000001": 2.0}}


def test_the_largest_difference_is_seen():
    some, others = {("rr", 3): np.array([0.5, 1.0]), ("ndcg", 3): np.zeros(2)}, {("rr", 3): np.array([0.5, 0.25])}
    assert largest_difference(some, others) == {"rr": 0.75}


def test_the_three_ways_to_evaluate_agree_also_where_a_finding_is_nowhere():
    generator = np.random.default_rng(1)
    vectors = generator.standard_normal((30, 6), np.float32)
    labels = (generator.random((30, 3)) < (0.5, 0.2, 0.0)).astype(np.int8)
    loop = published_evaluation(vectors, labels, (2, 5))
    assert loop.shape == (5, 3, 2)
    assert loop[:2, :, 1].min() > 0
    assert loop[2].max() == 0
    np.testing.assert_allclose(published_evaluation_searched_once(vectors, labels, (2, 5)), loop, atol=1e-12)
    np.testing.assert_allclose(evaluation_in_arrays(vectors, labels, (2, 5)), loop, atol=1e-12)


def test_a_target_is_met_by_its_number(content):
    fast = {**content, "loop": {"times_faster": {"loop": 20.0}, "largest_difference": 2e-9}}
    found = targets(fast)
    assert found["40 x 8: times the published loop"]["met"]
    assert not found["40 x 8: largest difference from it"]["met"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lists": 0}, "counts and k are at least 1"),
        ({"radiographs": 10}, "radiographs more than the largest k"),
        ({"positives": 10}, "10 positives of 50"),
        ({"gallery": 29}, "20 positives of 29"),
        ({"libraries": ("trec",)}, "no library 'trec'; choose among pytrec_eval-terrier, ranx"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(given, words):
    with pytest.raises(InvalidSetting, match=words):
        EvalBenchSettings(**{**vars(SMALL), **given})
