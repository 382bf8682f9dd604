"""Paired differences: by hand, against every swap of small samples, on data without and with a difference."""

import doctest
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chextriev.errors import DuplicateImage, InvalidSetting, OtherQueries
from chextriev.eval import significance
from chextriev.eval.metrics import HIT_RATE, METRICS, FindingScores
from chextriev.eval.significance import SignificanceSettings, holm, paired_difference
from tests.eval.by_hand import scored

QUICK = SignificanceSettings(draws=400)


def of(values):
    """Of the first metric at the only k."""
    return values[:, 0, 0]


def noisy(seed, *, patients, each=1, shift=0.0, findings=1):
    """Two systems whose queries of one patient are alike: 0 or 1 a patient and finding, the second shifted."""
    generator = np.random.default_rng(seed)
    pair = [np.repeat(generator.normal(size=(patients, findings)), each, axis=0) for _ in range(2)]
    who = np.repeat(np.arange(patients), each)
    return scored(pair[0] + 10, who), scored(pair[1] + 10 + shift, who, name="b")


def test_the_example_in_the_docstring_holds():
    outcome = doctest.testmod(significance)
    assert outcome.attempted >= 1
    assert outcome.failed == 0


def test_effects_by_hand_with_queries_without_a_hit_kept_and_dropped():
    first = scored([[0.5, np.nan], [0.0, 0.4], [1.0, 0.0]], "aab")
    second = scored([[1.0, np.nan], [0.5, 0.6], [0.5, 0.0]], "aab", name="b")
    found = paired_difference(first, second, QUICK)
    assert of(found.kept.first).tolist() == pytest.approx([1 / 2, 1 / 5, 7 / 20, (3 * 1 / 2 + 2 * 1 / 5) / 5])
    assert of(found.kept.effect).tolist() == pytest.approx([1 / 6, 1 / 10, 2 / 15, (1 / 6 * 3 + 1 / 10 * 2) / 5])
    assert of(found.dropped.effect).tolist() == pytest.approx(
        [2 / 3 - 3 / 4, 0.6 - 0.4, (0.2 - 1 / 12) / 2, (-3 / 12 + 0.2 * 2) / 5]
    )
    assert (found.n_queries, found.n_patients, found.n_by_finding.tolist()) == (3, 2, [3, 2])
    assert found.same_chance


@pytest.mark.parametrize("zero_hits", ["kept", "dropped"])
def test_p_is_the_share_of_all_swaps_of_patients_that_are_as_far(zero_hits):
    generator = np.random.default_rng(4)
    patients = np.array([0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 6, 7])
    values = generator.choice([0, 0.25, 0.5, 1], size=(2, 12, 2), p=[0.2, 0.3, 0.3, 0.2])
    values[1] = np.minimum(values[1] + generator.choice([0, 0.25], size=(12, 2)), 1)
    found = getattr(paired_difference(scored(values[0], patients), scored(values[1], patients, name="b")), zero_hits)
    effects = []
    for swapped in product([False, True], repeat=8):
        change = np.array(swapped)[patients][:, None]
        systems = (np.where(change, values[1], values[0]), np.where(change, values[0], values[1]))
        means = [_means(system, zero_hits) for system in systems]
        effects.append(means[1] - means[0])
    exact = [np.mean(np.abs(column) >= abs(column[0]) - 1e-9) for column in np.array(effects).T]
    assert of(found.effect)[:3].tolist() == pytest.approx(effects[0].tolist())
    assert of(found.p)[:3].tolist() == pytest.approx(exact, abs=0.02)
    assert min(exact) < 0.2


def _means(values, zero_hits):
    """Each finding and the macro average, of [Q, C]."""
    each = [column[column > 0].mean() if zero_hits == "dropped" else column.mean() for column in values.T]
    return np.array([*each, np.mean(each)])


@pytest.mark.parametrize("zero_hits", ["kept", "dropped"])
def test_the_interval_is_that_of_a_plain_bootstrap_of_patients(zero_hits):
    generator = np.random.default_rng(8)
    patients = np.sort(generator.integers(60, size=150))
    values = generator.choice([0, 0.5, 1], size=(2, 150, 2))
    found = getattr(paired_difference(scored(values[0], patients), scored(values[1], patients, name="b")), zero_hits)
    rows = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    effects = []
    for _ in range(3000):
        taken = np.concatenate([rows[patient] for patient in generator.integers(len(rows), size=len(rows))])
        effects.append(_means(values[1][taken], zero_hits) - _means(values[0][taken], zero_hits))
    low, high = np.quantile(effects, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(of(found.low)[:3], low, atol=0.012)
    np.testing.assert_allclose(of(found.high)[:3], high, atol=0.012)


def test_two_equal_systems_do_not_differ():
    first, _ = noisy(1, patients=30, each=2, findings=3)
    found = paired_difference(first, replace(first, name="b"), QUICK)
    for differences in (found.kept, found.dropped):
        for values in (differences.effect, differences.low, differences.high):
            assert np.abs(values).max() == 0
        assert differences.p.min() == 1
        assert differences.p_holm.min() == 1


def test_a_difference_that_is_there_is_found_in_its_finding_alone():
    first, second = noisy(2, patients=80, findings=3)
    better = second.measured[1].values + np.where(np.arange(len(METRICS)) == HIT_RATE, 0, 1.5)[:, None]
    second = replace(second, measured=(second.measured[0], FindingScores(np.arange(80), better), second.measured[2]))
    found = paired_difference(first, second, SignificanceSettings(draws=2000)).kept
    assert of(found.p_holm)[1] < 0.01
    assert of(found.low)[1] > 1
    assert (of(found.p_holm)[[0, 2]] > 0.05).all()
    assert of(found.p)[3] < 0.05


def test_without_a_difference_p_is_below_the_level_as_often_as_the_level_says_if_patients_are_swapped_whole():
    quick, sets = SignificanceSettings(draws=99), 250
    whole, single = 0, 0
    for seed in range(sets):
        first, second = noisy(seed, patients=20, each=4)
        apart = first.query_ids
        whole += of(paired_difference(first, second, quick).kept.p)[0] <= 0.05
        alone = (replace(system, patients=apart) for system in (first, second))
        single += of(paired_difference(*alone, quick).kept.p)[0] <= 0.05
    assert 0.01 <= whole / sets <= 0.09
    assert single / sets > 0.2


def test_further_images_of_the_same_patients_tell_nothing_new():
    once, many = (paired_difference(*noisy(3, patients=60, each=each)).kept for each in (1, 9))
    np.testing.assert_allclose(many.low[:1], once.low[:1])
    np.testing.assert_allclose(many.p[:1], once.p[:1])
    first, second = noisy(3, patients=60, each=9)
    alone = paired_difference(*(replace(system, patients=first.query_ids) for system in (first, second))).kept
    width, too_narrow = (of(found.high - found.low)[0] for found in (many, alone))
    assert width / too_narrow == pytest.approx(3, rel=0.1)


def test_what_rests_on_one_patient_has_no_interval_and_what_nobody_has_no_number():
    values = np.full((6, 3), np.nan)
    values[:, 0], values[:2, 1] = 0.5, 0.5
    patients = [0, 0, 1, 2, 3, 4]
    found = paired_difference(scored(values, patients), scored(values * 1.2, patients, name="b"), QUICK).kept
    assert np.isnan(of(found.low)).tolist() == [False, True, True, False, False]
    assert of(found.p)[1] == 1
    assert np.isnan(of(found.effect)).tolist() == [False, False, True, False, False]
    assert np.isnan(of(found.p_holm)).tolist() == [False, False, True]
    assert found.n_averaged.tolist() == [2]


def test_a_finding_that_one_system_never_hits_is_averaged_for_neither_when_such_queries_are_dropped():
    values = np.array([[0.5, 0.0], [0.7, 0.0], [0.6, 0.0], [0.4, 0.0]])
    better = values + np.array([0.1, 0.3])
    found = paired_difference(scored(values, "abcd"), scored(better, "abcd", name="b"), QUICK)
    assert np.isnan(of(found.dropped.effect)[1])
    assert of(found.dropped.effect)[2] == pytest.approx(0.1)
    assert (found.dropped.n_averaged.tolist(), found.kept.n_averaged.tolist()) == ([1], [2])
    assert of(found.kept.effect)[2] == pytest.approx(0.2)


def test_a_finding_that_rests_on_one_patient_does_not_hide_what_the_others_say():
    common = np.array([[0.2 + 0.01 * row, 0.0] for row in range(12)])
    common[:2, 1] = [0.5, 0.0]  # one hit for each system, of other patients: half the swaps give both to one
    better = common + np.array([0.3, 0.0])
    better[:2, 1] = [0.0, 0.5]
    found = paired_difference(scored(common, "abcdefghijkl"), scored(better, "abcdefghijkl", name="b")).dropped
    assert of(found.p)[0] < 0.01
    assert of(found.p)[1] == 1
    assert of(found.p)[2] < 0.01  # half the swaps leave one system without a hit of the second finding


def test_a_draw_without_a_rare_finding_keeps_the_effect_it_has():
    values = np.full((200, 2), np.nan)
    values[:, 0], values[:2, 1] = 0.5, 0.2
    better = values + np.array([0.1, 0.3])
    found = paired_difference(scored(values, range(200)), scored(better, range(200), name="b"), QUICK).kept
    assert of(found.low)[:3].tolist() == pytest.approx([0.1, 0.3, 0.2])
    assert of(found.high)[:3].tolist() == pytest.approx([0.1, 0.3, 0.2])


small_samples = st.integers(3, 12).flatmap(
    lambda count: st.tuples(
        st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=count, max_size=count),
        st.lists(st.integers(0, 5), min_size=count, max_size=count),
        st.permutations(range(count)),
    )
)


@settings(max_examples=40, deadline=None)
@given(small_samples)
def test_swapping_the_systems_turns_the_sign_and_the_order_of_queries_changes_nothing(sample):
    rows, patients, order = sample
    values = np.array(rows) / 7  # no sum of these is exact
    first, second = scored(values[:, :2], patients), scored(values[:, 2:], patients, name="b")
    quick = SignificanceSettings(draws=50)
    found, turned = paired_difference(first, second, quick), paired_difference(second, first, quick)
    moved = paired_difference(first.of_queries(np.array(order)), second, quick)
    for one, other, same in zip(*((pair.kept, pair.dropped) for pair in (found, turned, moved)), strict=True):
        np.testing.assert_allclose(one.effect, -other.effect, atol=1e-12)
        np.testing.assert_allclose(one.low, -other.high, atol=1e-12)
        np.testing.assert_array_equal(one.p, other.p)
        for name in ("effect", "low", "high", "p", "p_holm"):
            np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
        assert (np.nan_to_num(one.p_holm, nan=1.0) >= np.nan_to_num(one.p[:2], nan=1.0)).all()


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.5, 0.9, 0.02])).tolist() == pytest.approx([1.0, 1.0, 0.06])
    columns = holm(np.array([[0.02, np.nan], [0.04, 0.3]]))
    np.testing.assert_allclose(columns, [[0.04, np.nan], [0.04, 0.3]])


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_p_and_bonferroni_and_keeps_the_order(values):
    p = np.array(values)
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(p * len(p), 1)).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def _other(change):
    first, second = noisy(5, patients=4, findings=2)
    return first, replace(second, **change(second))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda b: {"findings": ("finding 0", "other")}, OtherQueries, "have the findings finding 0, finding 1 and"),
        (lambda b: {"ks": (10,)}, OtherQueries, "have the ks 5 and 10"),
        (lambda b: {"query_ids": np.array(["q0000", "x", "y", "q0003"], object)}, OtherQueries, "2 of 4 and 2 of 4"),
        (lambda b: {"query_ids": np.array(["q0000", "x", "x", "q0003"], object)}, DuplicateImage, "'x' stands twice"),
        (lambda b: {"patients": np.array(list("0122"), object)}, OtherQueries, "other patients"),
        (
            lambda b: {"measured": (FindingScores(np.array([0, 1, 2]), b.measured[0].values[:3]), b.measured[1])},
            OtherQueries,
            "which queries have finding 0",
        ),
    ],
)
def test_systems_that_were_not_asked_the_same_are_refused_in_words(change, error, words):
    with pytest.raises(error, match=words):
        paired_difference(*_other(change), QUICK)


def test_other_chance_is_told():
    first, _ = noisy(5, patients=4)
    elsewhere = replace(first, chance=(FindingScores(first.chance[0].positions, first.chance[0].values + 0.1),))
    assert not paired_difference(first, elsewhere, QUICK).same_chance


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"level": 1.0}, {"seed": -1}])
def test_settings_check_themselves(wrong):
    with pytest.raises(InvalidSetting, match="draws >= 1"):
        SignificanceSettings(**wrong)
