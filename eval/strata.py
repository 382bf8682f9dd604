"""The same queries by view, sex, age, side and number of findings, each group against the whole gallery.

A group of fewer than 20 queries gets no numbers, and its size is not told either: with the total it must not be
possible to compute it, so where subtraction would give it away, further groups are withheld (complementary
suppression: A. Hundepool et al., Statistical Disclosure Control, Wiley 2012, chapter 4).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_FINDINGS, N_REGIONS, Region
from chextriev.errors import CountMismatch, InvalidSetting, UnknownColumn
from chextriev.eval.averages import average
from chextriev.eval.bootstrap import intervals
from chextriev.eval.evaluation import Interval
from chextriev.eval.markdown import DASH, METRIC_NAMES, format_interval, format_value
from chextriev.eval.metrics import METRICS, Counts, Values
from chextriev.eval.protocol import DEFAULT, MIN_QUERIES, Protocol
from chextriev.eval.scored import ScoredQueries

UNKNOWN = "unknown"
AGE_BANDS = ((40, "under 40"), (60, f"40{DASH}59"), (80, f"60{DASH}79"), (200, "80 and over"))
"""First age in years that is above the band, and its name."""

FEW = f"< {MIN_QUERIES}"
WITHHELD = "withheld"
"""What is told instead of a size: of a group with few queries, and of one that would give such a group away."""

Groups = npt.NDArray[np.object_]
"""[Q] name of the group of each query."""


@dataclass(frozen=True)
class GroupAtK:
    """Macro averages of a group at one k by metric, their intervals, and what chance gives the same queries.

    n_classes: over how many findings the average goes.
    """

    measured: Mapping[str, float | None]
    interval: Mapping[str, Interval]
    chance: Mapping[str, float | None]
    n_classes: int


@dataclass(frozen=True)
class Group:
    """One group of queries. size: "< 20" or "withheld" where counts are None and at_k is empty, else the number."""

    size: str
    n_queries: int | None
    n_patients: int | None
    at_k: Mapping[int, GroupAtK]


@dataclass(frozen=True)
class Strata:
    """Groups by name within each stratum by name, and the whole."""

    name: str
    ks: tuple[int, ...]
    n_queries: int
    n_patients: int
    strata: Mapping[str, Mapping[str, Group]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in the JSON."""
        strata = {
            stratum: {name: _group_as_dict(group) for name, group in groups.items()}
            for stratum, groups in self.strata.items()
        }
        counts = {"n_queries": self.n_queries, "n_patients": self.n_patients}
        return {"name": self.name, "ks": list(self.ks), **counts, "strata": strata}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Strata":
        """The reverse of `as_dict`."""
        strata = {
            stratum: {name: _group_from_dict(group) for name, group in groups.items()}
            for stratum, groups in values["strata"].items()
        }
        return cls(values["name"], tuple(values["ks"]), values["n_queries"], values["n_patients"], strata)


def stratify(scored: ScoredQueries, columns: Mapping[str, npt.NDArray[Any]], protocol: Protocol = DEFAULT) -> Strata:
    """Average the scores of every group of queries; the lists stay as they are, of the whole gallery.

    columns: of the queries by name, each optional: "view" and "sex" [Q] object, None where unknown; "age" [Q] years, -1
    where unknown; "region_findings" [Q, 18, 9] int8. The number of findings comes from the scores. protocol: how zero
    hits and empty findings are averaged, and the interval. UnknownColumn for other names, CountMismatch for shapes.
    """
    _, patients = np.unique(scored.patients.astype(str), return_inverse=True)
    strata = {name: _stratum(scored, groups, patients, protocol) for name, groups in _groupings(scored, columns)}
    return Strata(scored.name, scored.ks, len(scored.query_ids), len(np.unique(patients)), strata)


def withheld(sizes: Mapping[str, int]) -> dict[str, str]:
    """Which groups are not told of, and what stands in place of their size; sizes: of all groups, none 0.

    Groups under 20 are withheld, and then the smallest others, until the total leaves more than one size possible for
    a small group.

    >>> withheld({"AP": 300, "PA": 150, "lateral": 3})
    {'lateral': '< 20', 'PA': 'withheld'}
    """
    hidden = {name: FEW for name, size in sizes.items() if size < MIN_QUERIES}
    few = len(hidden)
    for name in sorted(sizes.keys() - hidden.keys(), key=lambda name: (sizes[name], name)):
        if not few or _is_open(few, sizes, hidden):
            break
        hidden[name] = WITHHELD
    return hidden


def render_strata(strata: Strata, *, k: int, metric: str = "ap_over_hits") -> str:
    """A Markdown table a stratum: a metric at k of each group, with its interval and chance beside it."""
    if k not in strata.ks or metric not in METRIC_NAMES:
        allowed = f"k = {', '.join(map(str, strata.ks))} and {', '.join(METRIC_NAMES)}"
        raise InvalidSetting(f"strata of {metric!r} at k = {k}; there are {allowed}")
    title = METRIC_NAMES[metric].replace("@k", f"@{k}")
    parts = [
        f"## {title} by group, macro average",
        f"{strata.n_queries:,} queries of {strata.n_patients:,} patients, each against the whole gallery. Groups under"
        f" {MIN_QUERIES} queries, and groups that would give their size away, are withheld.",
    ]
    for stratum, groups in strata.strata.items():
        header = (stratum, "queries", "patients", "findings", "measured", "interval", "chance")
        rows = [_row(name, group, k, metric) for name, group in groups.items()]
        lines = (header, ("---", *["---:"] * (len(header) - 1)), *rows)
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def _is_open(few: int, sizes: Mapping[str, int], hidden: Mapping[str, str]) -> bool:
    """Whether a reader who adds up what is shown is left with more than one size of a small group."""
    total = sum(sizes[name] for name in hidden)
    others = len(hidden) - few
    largest = min((size for name, size in sizes.items() if name not in hidden), default=total)
    most = MIN_QUERIES - 1
    low = max(1, total - most * (few - 1) - largest * others)
    high = min(most, total - (few - 1) - MIN_QUERIES * others)
    return high > low


def _groupings(scored: ScoredQueries, columns: Mapping[str, npt.NDArray[Any]]) -> list[tuple[str, Groups]]:
    """The strata that these columns allow, in a fixed order."""
    for name, column in columns.items():
        if name not in _OF_COLUMN:
            raise UnknownColumn(name, _OF_COLUMN, where="strata")
        tail = (N_REGIONS, N_FINDINGS) if name == "region_findings" else ()
        if column.shape != (len(scored.query_ids), *tail):
            wanted = [len(scored.query_ids), *tail]
            raise CountMismatch(f"strata: column {name} has shape {list(column.shape)}; {wanted} is needed")
    given = [(title, group(columns[name])) for name, (title, group) in _OF_COLUMN.items() if name in columns]
    return [*given, ("number of findings", _by_number(scored))]


def _by_name(column: npt.NDArray[Any]) -> Groups:
    return _objects([value if isinstance(value, str) and value else UNKNOWN for value in column])


def _by_age(column: npt.NDArray[Any]) -> Groups:
    names = _objects([*(name for _, name in AGE_BANDS), UNKNOWN])
    places = np.searchsorted([above for above, _ in AGE_BANDS], column, side="right")
    return np.asarray(names[np.where(column < 0, len(AGE_BANDS), places)])


def _by_side(regions: npt.NDArray[Any]) -> Groups:
    sides = {side: [region for region in Region if region.side == side] for side in ("right", "left")}
    right, left = ((regions[:, rows] == 1).any(axis=(1, 2)) for rows in sides.values())
    names = _objects(["neither or unknown", "right only", "left only", "both"])
    return np.asarray(names[right + 2 * left])


def _by_number(scored: ScoredQueries) -> Groups:
    counts = np.zeros(len(scored.query_ids), np.int64)
    for scores in scored.measured:
        counts[scores.positions] += 1
    return np.asarray(_objects(["none", "1", "2", "3", "4 or more"])[np.minimum(counts, 4)])


_OF_COLUMN: Mapping[str, tuple[str, Callable[[npt.NDArray[Any]], Groups]]] = {
    "view": ("view", _by_name),
    "sex": ("sex", _by_name),
    "age": ("age", _by_age),
    "region_findings": ("side of findings", _by_side),
}
_ORDER = (*(name for _, name in AGE_BANDS), "right only", "left only", "both", "neither or unknown", UNKNOWN)
"""Of groups whose names do not sort as people read them."""


def _stratum(scored: ScoredQueries, groups: Groups, patients: Counts, protocol: Protocol) -> dict[str, Group]:
    names, counts = np.unique(groups.astype(str), return_counts=True)
    sizes = dict(sorted(zip(map(str, names), map(int, counts), strict=True), key=_place))
    hidden = withheld(sizes)
    return {
        name: Group(hidden[name], None, None, {})
        if name in hidden
        else _group(scored, np.flatnonzero(groups == name), patients, protocol)
        for name in sizes
    }


def _place(entry: tuple[str, int]) -> tuple[int, str]:
    name = entry[0]
    return (_ORDER.index(name) if name in _ORDER else -1, name)


def _group(scored: ScoredQueries, rows: Counts, patients: Counts, protocol: Protocol) -> Group:
    part, of_part = scored.of_queries(rows), patients[rows]
    measured, chance = average(part.measured, protocol), average(part.chance, protocol)
    bounds = intervals(part.measured, of_part, protocol).macro
    at_k = {
        k: GroupAtK(
            measured=_by_metric(measured.macro[:, column]),
            interval={
                name: None if low is None or high is None else (low, high)
                for name, low, high in zip(METRICS, *map(_plain, bounds[:, :, column]), strict=True)
            },
            chance=_by_metric(chance.macro[:, column]),
            n_classes=int(measured.classes[column]),
        )
        for column, k in enumerate(scored.ks)
    }
    return Group(f"{len(rows):,}", len(rows), len(np.unique(of_part)), at_k)


def _group_as_dict(group: Group) -> dict[str, Any]:
    counts = {"size": group.size, "n_queries": group.n_queries, "n_patients": group.n_patients}
    at_k = {}
    for k, scores in group.at_k.items():
        bounds = {name: None if pair is None else list(pair) for name, pair in scores.interval.items()}
        at_k[str(k)] = {**asdict(scores), "interval": bounds}
    return {**counts, "k": at_k}


def _group_from_dict(values: Mapping[str, Any]) -> Group:
    at_k = {}
    for k, scores in values["k"].items():
        bounds = {name: (pair[0], pair[1]) if pair else None for name, pair in scores["interval"].items()}
        at_k[int(k)] = GroupAtK(scores["measured"], bounds, scores["chance"], scores["n_classes"])
    return Group(values["size"], values["n_queries"], values["n_patients"], at_k)


def _row(name: str, group: Group, k: int, metric: str) -> tuple[str, ...]:
    if not group.at_k:
        return (name, group.size, *[DASH] * 5)
    scores = group.at_k[k]
    return (
        name,
        group.size,
        f"{group.n_patients:,}",
        str(scores.n_classes),
        format_value(scores.measured[metric]),
        format_interval(scores.interval[metric]),
        format_value(scores.chance[metric]),
    )


def _by_metric(values: Values) -> dict[str, float | None]:
    return dict(zip(METRICS, _plain(values), strict=True))


def _plain(values: Values) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _objects(values: list[str]) -> Groups:
    return np.array(values, dtype=object)
