"""Conditions on the columns of an index: which radiographs a search may find."""

import csv
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Finding
from chextriev.errors import InvalidSetting, UnknownColumn

FINDING = "finding"
FINDINGS = "findings"
PRESENT, ABSENT = 1, 0
NUMBERS = ("<=", ">=", "<", ">")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"\s*([^=!<>\s][^=!<>]*?)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Filter:
    """A condition that a radiograph must meet to be found.

    column: of the index, or "finding". operator: "=", "!=", "<", "<=", ">" or ">=". values: one or, for "=" and "!=",
    several, any of which may (or none of which must) be there. An unknown value (None, age -1) meets no condition.
    "finding = pneumonia" asks for a finding known to be present, "finding != pneumonia" for one known to be absent.
    """

    column: str
    operator: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.operator not in ("=", "!=", *NUMBERS):
            raise InvalidSetting(f"filter operator {self.operator!r}; choose one of =, !=, {', '.join(NUMBERS)}")
        if not self.values or any(not value for value in self.values):
            raise InvalidSetting(f"filter on {self.column!r} has an empty value; write for example 'view = PA'")
        if self.operator in NUMBERS:
            if len(self.values) > 1 or self.column == FINDING:
                raise InvalidSetting(f"filter '{self}': {self.operator} takes one number, as in 'age >= 40'")
            self.number()
        if self.column == FINDING:
            for value in self.values:
                Finding.from_label(value)

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {', '.join(map(_quoted, self.values))}"

    def number(self, value: str | None = None) -> int | float:
        """A value as a finite number; an integer as such, as a float has 53 bits and an id 64."""
        text = self.values[0] if value is None else value
        if re.fullmatch(r"[+-]?[0-9]{1,30}", text):
            return int(text)
        try:
            number = float(text)
        except ValueError:
            number = np.nan
        if not np.isfinite(number):
            raise InvalidSetting(f"filter '{self}' compares with {text!r}; a finite number is needed")
        return number


Where = Iterable[str | Filter]


def parse_filter(text: str) -> Filter:
    """A condition as a person writes it: 'view = PA', 'age >= 40', 'finding = pneumonia, pneumothorax'.

    A value with a comma stands in double quotes: 'site = "Ward 1, North"'.
    """
    found = _CONDITION.fullmatch(text)
    if not found:
        raise InvalidSetting(
            f"filter {text!r:.80} is not COLUMN OPERATOR VALUE; write for example 'view = PA', 'age >= 40' or"
            " 'finding = pneumothorax, pneumonia'"
        )
    column, sign, values = found.groups()
    try:
        (listed,) = csv.reader([values], skipinitialspace=True, strict=True) if values else ([""],)
    except csv.Error:
        raise InvalidSetting(
            f"filter {text!r:.80} has an open quote or a line break in its values; write for example"
            " 'site = A, \"B, North\"'"
        ) from None
    return Filter(column, sign, tuple(value.strip() for value in listed))


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if re.search('[,"]', value) else value


def read_filters(where: str | Where) -> tuple[Filter, ...]:
    """Conditions, all of which must be met, from texts or filters."""
    if isinstance(where, str):
        where = (where,)
    return tuple(each if isinstance(each, Filter) else parse_filter(each) for each in where)


def matching(filters: Iterable[Filter], columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """[N] bool: the rows of these columns that meet every condition."""
    count = len(next(iter(columns.values())))
    allowed = np.ones(count, np.bool_)
    for each in filters:
        allowed &= _meets_finding(each, columns[FINDINGS]) if each.column == FINDING else _meets(each, columns)
    return allowed


def _meets_finding(condition: Filter, findings: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    asked = [Finding.from_label(value) for value in condition.values]
    if condition.operator == "=":
        return np.asarray((findings[:, asked] == PRESENT).any(axis=1))
    return np.asarray((findings[:, asked] == ABSENT).all(axis=1))


def _meets(condition: Filter, columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    if condition.column not in columns or condition.column == FINDINGS:
        raise UnknownColumn(condition.column, sorted({*columns, FINDING} - {FINDINGS}), where="the index")
    column = columns[condition.column]
    if column.dtype.kind in "iuf":
        return _meets_number(condition, column)
    if condition.operator in NUMBERS:
        raise InvalidSetting(f"filter '{condition}': column {condition.column!r} holds words; use = or !=")
    words = [_word(value) for value in column.tolist()]
    same = np.array([word in condition.values for word in words], np.bool_)
    known = np.array([word is not None for word in words], np.bool_)
    return known & (same if condition.operator == "=" else ~same)


def _word(value: Any) -> str | None:
    """A value of a column of words as a condition writes it, None where it is unknown."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None or value != value else str(value)


def _meets_number(condition: Filter, column: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    known = np.isfinite(column)
    if condition.column == "age":
        known &= column >= 0
    if condition.operator in NUMBERS:
        return np.asarray(known & _COMPARE[condition.operator](column, condition.number()))
    same = np.isin(column, [condition.number(value) for value in condition.values])
    return np.asarray(known & (same if condition.operator == "=" else ~same))
