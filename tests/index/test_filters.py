"""Conditions on columns: how they are written, what they mean, what is refused."""

import numpy as np
import pytest

from chextriev.anatomy import N_FINDINGS, Finding
from chextriev.errors import InvalidSetting, UnknownColumn, UnknownFinding
from chextriev.index.filters import Filter, matching, parse_filter, read_filters

BIG = 2**53 + 1


@pytest.fixture(scope="module")
def columns():
    findings = np.full((4, N_FINDINGS), -1, np.int8)
    findings[:, Finding.PNEUMONIA] = (1, 0, -1, 1)
    findings[:, Finding.PNEUMOTHORAX] = (0, 0, 1, -1)
    return {
        "image_id": np.array([BIG - 1, BIG, BIG + 1, 7], np.int64),
        "view": np.array(["PA", "AP", None, "PA"], object),
        "age": np.array([40, 39, -1, 90], np.int16),
        "dose": np.array([0.5, np.nan, 1.5, 2.0]),
        "icu": np.array([True, False, True, False]),
        "maybe": np.array([True, None, False, np.nan], object),
        "site": np.array(["Ward 1, North", "South", "Ward 1", "North"], object),
        "findings": findings,
    }


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("view = PA", [0, 3]),
        ("view != PA", [1]),
        ("view = PA, AP", [0, 1, 3]),
        ("age >= 40", [0, 3]),
        ("age < 40", [1]),
        ("age != 40", [1, 3]),
        ("age = 39, 90", [1, 3]),
        ("dose > 0.4", [0, 2, 3]),
        ("dose != 2", [0, 2]),
        ("icu = true", [0, 2]),
        ("icu != true", [1, 3]),
        ("maybe = true", [0]),
        ("maybe != true", [2]),
        (f"image_id = {BIG}", [1]),
        (f"image_id != {BIG}, 7", [0, 2]),
        ('site = "Ward 1, North"', [0]),
        ("site = Ward 1, North", [2, 3]),
        ("finding = pneumonia", [0, 3]),
        ("finding != pneumonia", [1]),
        ("finding = pneumonia, pneumothorax", [0, 2, 3]),
        ("finding != pneumonia, pneumothorax", [1]),
        ("view=PA", [0, 3]),
        ("age<=40", [0, 1]),
    ],
)
def test_rows_that_meet_a_condition(columns, text, rows):
    assert np.flatnonzero(matching([parse_filter(text)], columns)).tolist() == rows


def test_all_conditions_must_be_met_and_none_allows_all(columns):
    assert np.flatnonzero(matching(read_filters(["view = PA", "age > 40"]), columns)).tolist() == [3]
    assert matching(read_filters(()), columns).all()
    assert read_filters("view = PA") == (Filter("view", "=", ("PA",)),)


@pytest.mark.parametrize("text", ["view = PA", "age >= 40", 'site != "Ward 1, North", South', "finding = pneumonia"])
def test_a_condition_reads_back_as_it_is_written(text):
    assert parse_filter(str(parse_filter(text))) == parse_filter(text)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("view", InvalidSetting, "COLUMN OPERATOR VALUE"),
        ("view ~ PA", InvalidSetting, "COLUMN OPERATOR VALUE"),
        ("view =", InvalidSetting, "empty value"),
        ("view = PA,,AP", InvalidSetting, "empty value"),
        ("age >= 40, 50", InvalidSetting, "takes one number"),
        ("age >= forty", InvalidSetting, "'forty'; a finite number"),
        ("age >= nan", InvalidSetting, "finite number"),
        ("finding > pneumonia", InvalidSetting, "takes one number"),
        ('site = "abc', InvalidSetting, "open quote or a line break"),
        ("site = a\nb", InvalidSetting, "open quote or a line break"),
        ("finding = flu", UnknownFinding, "no finding 'flu'; choose one of lung opacity"),
    ],
)
def test_what_is_no_condition_is_refused(text, error, words):
    with pytest.raises(error, match=words):
        parse_filter(text)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("colour = red", UnknownColumn, "no column 'colour' in the index; choose one of age"),
        ("findings = 1", UnknownColumn, "choose one of age"),
        ("view < PA", InvalidSetting, "finite number"),
        ("view < 3", InvalidSetting, "holds words; use = or !="),
        ("age = old", InvalidSetting, "finite number"),
    ],
)
def test_what_does_not_fit_the_columns_is_refused(columns, text, error, words):
    with pytest.raises(error, match=words):
        matching([parse_filter(text)], columns)
