"""Conditions of a search as a boolean expression of Milvus. Values are written as literals, never pasted."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from chextriev.anatomy import Finding
from chextriev.errors import InvalidSetting, UnknownColumn
from chextriev.hits import ImageId
from chextriev.index.filters import ABSENT, FINDING, NUMBERS, PRESENT, Filter
from chextriev.index.milvus_schema import INTEGER, MIXED, NUMBER, TRUTH, Column, finding_field

NOTHING = None
"""In place of an expression: no radiograph can meet the conditions, so that there is nothing to ask."""

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def expression(filters: Iterable[Filter], columns: Mapping[str, Column]) -> str | None:
    """All conditions joined, "" where there are none, NOTHING where they can never be met.

    columns: by the name in a filter, `image_id` among them. It means what `filters.matching` means. Milvus has
    templates for values, but the embedded milvus-lite does not know them.
    """
    parts = [_finding(each) if each.column == FINDING else _condition(each, columns) for each in filters]
    if any(part is NOTHING for part in parts):
        return NOTHING
    return " and ".join(f"({part})" for part in parts if part)


def literal(value: ImageId) -> str:
    """A text or integer as Milvus reads it: quotes, backslashes and line ends escaped."""
    if isinstance(value, int | np.integer):
        return str(int(value))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidSetting(f"{value!r:.80} is no text that can be written in UTF-8") from None
    return f'"{value.translate(_ESCAPES)}"'


def one_of(field: str, values: Iterable[ImageId], *, negate: bool = False) -> str:
    """The field is (or is not) one of these texts or integers."""
    return f"{field} {'not in' if negate else 'in'} [{', '.join(literal(value) for value in values)}]"


def _finding(condition: Filter) -> str:
    fields = [finding_field(Finding.from_label(value)) for value in condition.values]
    if condition.operator == "=":
        return " or ".join(f"{field} == {PRESENT}" for field in fields)
    return " and ".join(f"{field} == {ABSENT}" for field in fields)


def _condition(condition: Filter, columns: Mapping[str, Column]) -> str | None:
    if condition.column not in columns:
        raise UnknownColumn(condition.column, sorted({*columns, FINDING}), where="the collection")
    column = columns[condition.column]
    if column.kind == INTEGER:
        return _integer(condition, column)
    if column.kind == NUMBER:
        return _number(condition, column.field)
    if condition.operator in NUMBERS:
        raise InvalidSetting(f"filter '{condition}': column {condition.column!r} holds words; use = or !=")
    if column.kind == MIXED:
        raise InvalidSetting(
            f"filter '{condition}': column {condition.column!r} holds values of several types, which Milvus keeps but"
            " cannot be asked for; build the collection with one type"
        )
    if column.kind == TRUTH:
        return _truth(condition, column.field)
    negate = condition.operator == "!="
    return one_of(column.field, (*condition.values, *([""] if negate else [])), negate=negate)


def _truth(condition: Filter, field: str) -> str | None:
    named = {value for value in condition.values if value in ("true", "false")}
    wanted = named if condition.operator == "=" else {"true", "false"} - named
    return " or ".join(f"{field} == {value}" for value in sorted(wanted)) or NOTHING


def _integer(condition: Filter, column: Column) -> str | None:
    """Bounds and members that are integers of the column's width, because others are refused or overflow there."""
    least, most = -(2 ** (8 * column.bytes - 1)), 2 ** (8 * column.bytes - 1) - 1
    known = f"{column.field} >= 0" if condition.column == "age" else ""
    if condition.operator in NUMBERS:
        bound = condition.number()
        upper = condition.operator in ("<", "<=")
        if upper:
            most = min(most, math.ceil(bound) - 1 if condition.operator == "<" else math.floor(bound))
        else:
            least = max(least, math.floor(bound) + 1 if condition.operator == ">" else math.ceil(bound))
        if least > most:
            return NOTHING
        part = f"{column.field} <= {most}" if upper else f"{column.field} >= {least}"
        return f"{known} and {part}" if known else part
    numbers = [condition.number(value) for value in condition.values]
    members = [int(number) for number in numbers if int(number) == number and least <= number <= most]
    if condition.operator == "=":
        members = [member for member in members if member >= 0 or not known]
        return one_of(column.field, members) if members else NOTHING
    return " and ".join(part for part in (known, one_of(column.field, members, negate=True) if members else "") if part)


def _number(condition: Filter, field: str) -> str:
    """Comparisons that a value which is not a number never meets."""
    if condition.operator in NUMBERS:
        return f"{field} {condition.operator} {condition.number()!r}"
    numbers = [condition.number(value) for value in condition.values]
    if condition.operator == "=":
        return " or ".join(f"{field} == {number!r}" for number in numbers)
    return " and ".join(f"({field} < {number!r} or {field} > {number!r})" for number in numbers)
