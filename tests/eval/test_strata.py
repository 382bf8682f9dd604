"""Groups of queries: who belongs where, what is averaged, and that nobody can compute the size of a small group."""

import doctest
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chextriev.anatomy import N_FINDINGS, N_REGIONS, Finding, Region
from chextriev.errors import CountMismatch, InvalidSetting, UnknownColumn
from chextriev.eval import strata
from chextriev.eval.metrics import class_means, macro_mean
from chextriev.eval.protocol import DEFAULT, MIN_QUERIES, IntervalSpec
from chextriev.eval.relevance import image_findings
from chextriev.eval.run import evaluate
from chextriev.eval.strata import render_strata, stratify, withheld
from tests.eval.by_hand import scored

QUICK = replace(DEFAULT, interval=IntervalSpec(draws=50))


def _objects(values):
    return np.array(values, dtype=object)


@pytest.fixture(scope="module")
def sixty():
    """60 queries of 30 patients with one to five findings, the values of which follow the row."""
    values = np.full((60, 5), np.nan)
    for row in range(60):
        values[row, : row % 5 + 1] = row / 60
    return scored(values, [row // 2 for row in range(60)])


def test_the_example_in_the_docstring_holds():
    outcome = doctest.testmod(strata)
    assert outcome.attempted >= 1
    assert outcome.failed == 0


def test_a_group_is_averaged_as_its_queries_alone_would_be(sixty):
    views = _objects(["AP"] * 40 + ["PA"] * 20)
    groups = stratify(sixty, {"view": views}, QUICK).strata["view"]
    assert {name: (group.n_queries, group.n_patients) for name, group in groups.items()} == {
        "AP": (40, 20),
        "PA": (20, 10),
    }
    for name, group in groups.items():
        part = sixty.of_queries(np.flatnonzero(views == name))
        _, macro = macro_mean(class_means(part.measured)[1])
        assert group.at_k[5].measured["rr"] == pytest.approx(macro[5, 0])
        low, high = group.at_k[5].interval["rr"]
        assert low < group.at_k[5].measured["rr"] < high
        assert group.at_k[5].chance["rr"] == pytest.approx(0.25)
        assert group.at_k[5].n_classes == 5


def test_the_number_of_findings_is_that_of_the_query(sixty):
    big = sixty.of_queries(np.arange(60))
    values = np.full((100, 5), np.nan)
    for row in range(100):
        values[row, : row % 5] = 0.5
    groups = stratify(scored(values, range(100)), {}, QUICK).strata["number of findings"]
    assert {name: group.n_queries for name, group in groups.items()} == dict.fromkeys(
        ("1", "2", "3", "4 or more", "none"), 20
    )
    assert groups["none"].at_k[5].measured["rr"] is None
    assert groups["2"].at_k[5].n_classes == 2
    assert set(stratify(big, {}, QUICK).strata["number of findings"]) == {"1", "2", "3", "4 or more"}


def test_ages_fall_into_bands_at_their_first_year():
    ages = np.repeat([39, 40, 59, 60, 79, 80, -1, 0, 120], 20)
    groups = stratify(scored(np.full((180, 1), 0.5), range(180)), {"age": ages.astype(np.int16)}, QUICK).strata["age"]
    assert [(name.replace("\N{EN DASH}", "-"), group.n_queries) for name, group in groups.items()] == [
        ("under 40", 40),
        ("40-59", 40),
        ("60-79", 40),
        ("80 and over", 40),
        ("unknown", 20),
    ]


def test_sides_come_from_the_regions_of_the_findings():
    regions = np.zeros((100, 18, 9), np.int8)
    regions[:20, Region.RIGHT_APICAL_ZONE, Finding.PNEUMOTHORAX] = 1
    regions[20:40, Region.LEFT_LUNG, Finding.PNEUMONIA] = 1
    regions[40:60, [Region.RIGHT_LUNG, Region.LEFT_LUNG], [Finding.ATELECTASIS, Finding.PNEUMONIA]] = 1
    regions[60:80, Region.CARDIAC_SILHOUETTE, Finding.ENLARGED_CARDIAC_SILHOUETTE] = 1
    regions[80:] = -1
    groups = stratify(scored(np.full((100, 1), 0.5), range(100)), {"region_findings": regions}, QUICK)
    sizes = {name: group.n_queries for name, group in groups.strata["side of findings"].items()}
    assert sizes == {"right only": 20, "left only": 20, "both": 20, "neither or unknown": 40}
    assert next(iter(sizes)) == "right only"


def test_unknown_views_and_sexes_are_a_group_of_their_own():
    column = _objects(["F"] * 20 + [None] * 20 + ["M"] * 20)
    found = stratify(scored(np.full((60, 1), 0.5), range(60)), {"sex": column, "view": column}, QUICK)
    assert list(found.strata) == ["view", "sex", "number of findings"]
    assert list(found.strata["sex"]) == ["F", "M", "unknown"]


def test_few_queries_get_no_number_and_no_size_anywhere(sixty):
    sexes = _objects(["F"] * 43 + ["M"] * 17)
    found = stratify(sixty, {"sex": sexes}, QUICK)
    content = found.as_dict()["strata"]["sex"]
    assert content["M"] == {"size": "< 20", "n_queries": None, "n_patients": None, "k": {}}
    assert content["F"] == {"size": "withheld", "n_queries": None, "n_patients": None, "k": {}}
    text = render_strata(found, k=5)
    assert "| M | < 20 |" in text
    assert "| F | withheld |" in text
    assert "17" not in text
    assert "43" not in text


def test_a_group_that_gives_a_small_one_away_is_withheld_too():
    assert withheld({"AP": 300, "PA": 150}) == {}
    assert withheld({"AP": 300, "PA": 150, "lateral": 3}) == {"lateral": "< 20", "PA": "withheld"}
    assert withheld({"AP": 300, "PA": 7, "lateral": 8}) == {"PA": "< 20", "lateral": "< 20"}
    assert withheld({"AP": 300, "PA": 1, "lateral": 1}) == {"PA": "< 20", "lateral": "< 20", "AP": "withheld"}
    assert withheld({"AP": 300, "PA": 20, "lateral": 1}) == {"lateral": "< 20", "PA": "withheld", "AP": "withheld"}


@settings(max_examples=300)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=5))
@example([20, 20, 1])
@example([19, 19, 19, 40])
def test_what_is_shown_leaves_more_than_one_size_possible_for_every_small_group(counts):
    sizes = {str(place): count for place, count in enumerate(counts)}
    hidden = withheld(sizes)
    assert {name for name, mark in hidden.items() if mark == "< 20"} == {
        name for name, size in sizes.items() if size < MIN_QUERIES
    }
    if not hidden or len(hidden) == len(sizes):
        return
    total = sum(sizes[name] for name in hidden)
    largest = min(size for name, size in sizes.items() if name not in hidden)
    for name, mark in hidden.items():
        if mark == "< 20":
            rest = [_possible(other, largest) for key, other in hidden.items() if key != name]
            assert len({size for size in _possible(mark, largest) if total - size in _sums(rest)}) > 1


def _possible(mark, largest):
    """Sizes that a reader can think of: withheld groups are the smallest of the others."""
    return range(1, MIN_QUERIES) if mark == "< 20" else range(MIN_QUERIES, largest + 1)


def _sums(ranges):
    sums = {0}
    for choices in ranges:
        sums = {before + choice for before in sums for choice in choices}
    return sums


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        ({"weight": np.zeros(60)}, UnknownColumn, "no column 'weight' in strata; choose one of view, sex, age"),
        ({"age": np.zeros(59)}, CountMismatch, r"column age has shape \[59\]; \[60\]"),
        ({"region_findings": np.zeros((60, 18))}, CountMismatch, r"\[60, 18, 9\] is needed"),
    ],
)
def test_columns_that_do_not_fit_are_refused(sixty, columns, error, words):
    with pytest.raises(error, match=words):
        stratify(sixty, columns, QUICK)


def test_a_k_or_metric_that_was_not_measured_cannot_be_shown(sixty):
    found = stratify(sixty, {}, QUICK)
    for wrong in ({"k": 3}, {"k": 5, "metric": "auc"}):
        with pytest.raises(InvalidSetting, match=r"there are k = 5 and precision"):
            render_strata(found, **wrong)


def test_an_evaluation_knows_its_groups_and_with_the_study_table_their_sides(made_up, pictures):
    regions = np.zeros((len(made_up), N_REGIONS, N_FINDINGS), np.int8)
    regions[:45, Region.LEFT_LUNG, Finding.PNEUMONIA] = 1
    table = replace(pictures, region_findings=regions).take(np.arange(90)[::-1])  # by id, in whatever order
    found = evaluate(made_up, QUICK, relevance=image_findings(made_up, table)).strata.strata
    assert list(found) == ["view", "sex", "age", "side of findings", "number of findings"]
    asked = (made_up.findings == 1).any(axis=1)
    assert found["side of findings"]["left only"].n_queries == np.count_nonzero(asked[:45])
    assert list(evaluate(made_up, QUICK).strata.strata) == ["view", "sex", "age", "number of findings"]


def test_strata_of_an_evaluation_are_told_and_saved(made_up):
    evaluation = evaluate(made_up, QUICK)
    found = evaluation.strata
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert content["strata"]["sex"]["F"]["k"]["5"]["measured"]["ndcg"] == pytest.approx(
        evaluation.overall.at_k[5].measured.macro.ndcg
    )
    asked = made_up.metadata["view"][(made_up.findings == 1).any(axis=1)]
    assert f"| AP | {np.count_nonzero(asked == 'AP')} |" in render_strata(found, k=5)
