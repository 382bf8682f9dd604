"""Anybody's ranked lists: small cases that are computed by hand, each convention, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from chextriev.cli import main
from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue
from chextriev.eval.lists import evaluate_lists, given_lists
from chextriev.eval.metrics import METRICS
from chextriev.eval.protocol import DEFAULT, REFERENCE, REFERENCE_SKIP

# Six radiographs; the last has no finding. Lists of the first five, without themselves.
LABELS = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 1], [0, 0]], np.int8)
LISTS = np.array([[1, 2, 3, -1], [5, 4, 0, 3], [0, 1, 5, -1], [0, 2, 4, 1], [5, 0, 1, -1]])
PATIENTS = np.array(["a", "a", "b", "b", "c", "d"])


def at(evaluation, k):
    return evaluation.at_k[k].measured


def scored(protocol=DEFAULT, ks=(1, 3), **given):
    return evaluate_lists(given_lists(LISTS, LABELS, names=("opacity", "oedema"), **given), replace(protocol, ks=ks))


def test_the_numbers_of_a_small_case_are_those_computed_by_hand():
    found = scored()
    opacity, oedema = (at(found, 3).per_finding[name] for name in ("opacity", "oedema"))
    # opacity: queries 0 (hits 1, 3), 1 (0 at rank 3) and 3 (0 at rank 1), two others have it; oedema: 2, 3 and 4
    assert (opacity.n, oedema.n) == (3, 3)
    assert opacity.precision == pytest.approx((2 + 1 + 1) / 9)
    assert opacity.ap_over_hits == pytest.approx(((1 + 2 / 3) / 2 + 1 / 3 + 1) / 3)
    assert opacity.ap_over_min_k_r == pytest.approx(((1 + 2 / 3) / 2 + 1 / 6 + 1 / 2) / 3)
    assert opacity.ap_over_r == opacity.ap_over_min_k_r  # R = 2 is below k
    assert opacity.rr == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert oedema.precision == pytest.approx(2 / 9)
    assert oedema.hit_rate == pytest.approx(1 / 3)
    assert at(found, 3).macro.precision == pytest.approx((4 / 9 + 2 / 9) / 2)
    assert at(found, 3).micro.precision == at(found, 3).weighted.precision == pytest.approx(6 / 18)
    assert (found.n_queries, found.n_short, found.n_own) == (5, 0, 0)


def test_a_short_list_counts_and_precision_still_divides_by_k():
    found = scored(ks=(4,))
    assert found.n_short == 3
    assert at(found, 4).per_finding["opacity"].precision == pytest.approx((2 + 2 + 2) / 12)


def test_rows_of_the_patient_are_removed_and_the_list_closes_up():
    found = scored(groups=PATIENTS, ks=(1, 2))
    # query 0 keeps 2, 3; query 1 keeps 5, 4, 3; query 2 keeps 0, 1, 5; query 3 keeps 0, 4, 1
    opacity, oedema = (at(found, 2).per_finding[name] for name in ("opacity", "oedema"))
    assert opacity.precision == pytest.approx((1 + 0 + 1) / 6)
    # R: row 3 for query 0, row 3 for query 1, rows 0 and 1 for query 3
    assert opacity.ap_over_r == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)
    assert oedema.ap_over_r == pytest.approx((0 + 1 / 2 + 0) / 3)
    assert found.n_short == 0
    assert scored(groups=PATIENTS, ks=(3,)).n_short == 1
    assert found.at_k[1].chance.per_finding["opacity"].precision == pytest.approx((1 / 4 + 1 / 4 + 2 / 4) / 3)


def test_reference_keeps_the_patient_and_says_that_groups_were_not_used():
    plain, grouped = scored(REFERENCE), scored(REFERENCE, groups=PATIENTS)
    assert plain.at_k == grouped.at_k == scored().at_k
    assert any("groups were not used" in remark for remark in grouped.remarks)


def test_skip_drops_queries_by_finding_and_k():
    found = scored(REFERENCE_SKIP)
    assert [at(found, k).per_finding["opacity"].n for k in (1, 3)] == [2, 3]
    assert [at(found, k).per_finding["oedema"].n for k in (1, 3)] == [0, 1]
    assert at(found, 1).per_finding["opacity"].precision == 1
    # nobody with oedema has a hit at rank 1: undefined, and the averages over findings with it
    assert at(found, 1).per_finding["oedema"].precision is None
    assert at(found, 1).macro.precision is at(found, 1).weighted.precision is None
    assert at(found, 1).micro.precision == 1
    assert any("at k = 1 every query was dropped that has oedema" in remark for remark in found.remarks)
    assert found.at_k[1].chance.per_finding["oedema"].n == 3  # the queries that chance is the expectation of
    # weights are all positives, dropped or not
    oedema = at(found, 3).per_finding["oedema"].precision
    assert at(found, 3).weighted.precision == pytest.approx((3 * 4 / 9 + 3 * oedema) / 6)


def test_a_finding_without_positives_is_left_out_or_zero_by_name():
    labels = np.hstack([LABELS, np.zeros((6, 1), np.int8)])
    lists = given_lists(LISTS, labels)
    default, reference = (evaluate_lists(lists, replace(protocol, ks=(3,))) for protocol in (DEFAULT, REFERENCE))
    assert (at(default, 3).n_classes, at(reference, 3).n_classes) == (2, 3)
    assert at(default, 3).per_finding["finding 3"].precision is None
    assert at(reference, 3).per_finding["finding 3"].precision == 0
    assert at(default, 3).macro.precision == pytest.approx(1 / 3)
    assert at(reference, 3).macro.precision == pytest.approx(2 / 9)
    assert at(default, 3).weighted.precision == at(reference, 3).weighted.precision
    for found in (default, reference):
        assert any("finding 3" in remark for remark in found.remarks)


def test_what_is_not_evaluated_is_no_query_but_stays_in_the_gallery():
    lists = LISTS.copy()
    lists[3] = -1
    found = evaluate_lists(given_lists(lists, LABELS), replace(DEFAULT, ks=(3,)))
    assert found.n_queries == 4
    assert at(found, 3).per_finding["finding 1"].precision == pytest.approx((2 + 1) / 6)
    # query 5 has no finding: evaluated or not, it asks for nothing
    more = evaluate_lists(given_lists(np.vstack([lists, [[0, 1, 2, 3]]]), LABELS), replace(DEFAULT, ks=(3,)))
    assert (more.n_queries, more.at_k) == (4, found.at_k)


def test_queries_may_be_any_rows_of_the_gallery():
    order = np.array([4, 0, 3])
    found = evaluate_lists(given_lists(LISTS[order], LABELS, queries=order), replace(DEFAULT, ks=(3,)))
    assert at(found, 3).per_finding["finding 1"].precision == pytest.approx((2 + 1) / 6)


def test_the_query_in_its_own_list_counts_under_reference_protocols_alone():
    lists = LISTS.copy()
    lists[0] = [0, 1, 2, 3]
    found = evaluate_lists(given_lists(lists, LABELS), replace(REFERENCE, ks=(3,)))
    assert found.n_own == 1
    assert at(found, 3).per_finding["finding 1"].precision == pytest.approx((2 + 1 + 1) / 9)
    with pytest.raises(InvalidValue, match="list 0 holds its own query, gallery row 0"):
        evaluate_lists(given_lists(lists, LABELS), replace(DEFAULT, ks=(3,)))


def test_values_stay_in_bounds_where_the_query_is_in_its_own_list():
    lists, labels = np.array([[0, 2], [0, 2]]), np.array([[1], [1], [0]], np.int8)
    found = evaluate_lists(given_lists(lists, labels), replace(REFERENCE, ks=(1, 2)))
    for k in (1, 2):
        assert all(0 <= getattr(at(found, k).macro, name) <= 1 for name in METRICS)
        assert 0 <= found.at_k[k].graded.value <= 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"neighbours": LISTS[0]}, CountMismatch, r"\[queries, ranks\]"),
        ({"neighbours": LISTS.astype(float)}, InvalidValue, "float64; row numbers are integers"),
        ({"neighbours": np.where(LISTS == 5, 6, LISTS)}, InvalidValue, "row 6 is outside the gallery of 6"),
        ({"neighbours": np.where(LISTS == 5, -2, LISTS)}, InvalidValue, "row -2 is outside"),
        ({"neighbours": np.where(LISTS == 2, -1, LISTS)}, InvalidValue, "-1 only fills the end"),
        ({"neighbours": np.where(LISTS == 5, 0, LISTS)}, InvalidValue, "row 0 more than once"),
        ({"labels": LABELS[:, 0]}, CountMismatch, r"\[gallery, findings\]"),
        ({"labels": LABELS * 2}, InvalidValue, "row 0, finding 1: 2"),
        ({"labels": -LABELS}, InvalidValue, "1 .present. or 0"),
        ({"labels": LABELS.astype(float)}, InvalidValue, "float64"),
        ({"labels": LABELS[:4]}, CountMismatch, "5 lists beside 4 labelled rows"),
        ({"queries": np.arange(4)}, CountMismatch, "4 queries beside 5 lists"),
        ({"queries": np.array([0, 1, 2, 3, 6])}, InvalidValue, "place 4: row 6"),
        ({"names": ("one",)}, CountMismatch, "1 different names beside labels of 2 findings"),
        ({"names": ("one", "one")}, CountMismatch, "1 different names"),
        ({"groups": np.zeros(5)}, CountMismatch, r"\[6\] is needed"),
        ({"groups": np.array([0, 1, np.nan, 3, np.nan, 5])}, InvalidValue, r"row 2: no value \(2 such\)"),
        ({"groups": np.array(["a", "", "b", "c", "", "d"])}, InvalidValue, r"row 1: no value \(2 such\)"),
    ],
)
def test_wrong_input_is_refused_in_words(change, error, words):
    given = {"neighbours": LISTS, "labels": LABELS, **change}
    with pytest.raises(error, match=words):
        given_lists(given.pop("neighbours"), given.pop("labels"), **given)


def test_more_ranks_than_there_are_and_no_query_at_all_are_refused():
    with pytest.raises(InvalidSetting, match="k = 1, 5 of lists with 4 ranks"):
        scored(ks=(1, 5))
    with pytest.raises(InvalidValue, match="none of the 5 lists"):
        evaluate_lists(given_lists(np.full((5, 3), -1), LABELS), replace(DEFAULT, ks=(1,)))


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "n.npy", LISTS)
    np.save(tmp_path / "y.npy", np.asfortranarray(LABELS))
    np.save(tmp_path / "g.npy", PATIENTS)
    (tmp_path / "names.txt").write_text("opacity\noedema\n")
    (tmp_path / "names.json").write_text('["opacity", "oedema"]')
    return tmp_path


@pytest.mark.parametrize("names", ["opacity,oedema", "names.txt", "names.json"])
def test_the_command_prints_one_document(files, names, capsys):
    names = str(files / names) if "." in names else names
    words = ["--neighbours", files / "n.npy", "--labels", files / "y.npy", "--groups", files / "g.npy", "-k", "2,1"]
    assert main(["eval", "lists", *map(str, words), "--names", names, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == scored(groups=PATIENTS, ks=(1, 2)).as_dict()
    assert list(said["k"]["2"]["per_finding"]) == ["opacity", "oedema"]
    assert set(said["k"]["2"]["macro"]) == {"n", *METRICS}
    assert set(said["k"]["2"]["chance"]["macro"]) == {"n", *METRICS}


def test_the_command_prints_a_table_and_refuses_in_words(files, capsys):
    words = ["eval", "lists", "--neighbours", str(files / "n.npy"), "--labels", str(files / "y.npy")]
    assert main([*words, "-k", "3"]) == 0
    assert "| macro over 2 | 6 | 0.333 (" in capsys.readouterr().out
    assert main([*words, "-k", "9"]) == 2
    assert "each k is 1..4" in capsys.readouterr().err
    np.save(files / "n.npy", np.array([{}]), allow_pickle=True)
    assert main(words) == 2
    assert "is not a .npy file of numbers" in capsys.readouterr().err
