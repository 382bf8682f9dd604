"""Anybody's ranked lists under our protocols: `chextriev eval lists`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import CountMismatch, InvalidValue
from chextriev.eval.candidates import Candidates
from chextriev.eval.evaluation import ScoresAtK
from chextriev.eval.metrics import Counts, check_lists
from chextriev.eval.protocol import DEFAULT, Protocol
from chextriev.eval.remarks import remarks_on_findings
from chextriev.eval.score_tables import score_lists, tables


@dataclass(frozen=True, eq=False)
class GivenLists:
    """Lists that somebody's program found, checked.

    neighbours: [Q, K] int64, gallery rows in rank order without the query itself; a line of -1 alone was not evaluated,
    otherwise -1 fills the end. labels: [G, C] int8, 1 or 0. queries: [Q] int64, gallery row of each query. names: [C].
    groups: [G] int64 codes, equal for rows of one patient; None where that is not known.
    """

    neighbours: Counts
    labels: npt.NDArray[np.int8]
    queries: Counts
    names: tuple[str, ...]
    groups: Counts | None


@dataclass(frozen=True)
class ListsEvaluation:
    """What lists are worth under a protocol.

    n_queries: evaluated, which are those with a list and at least one finding. n_short: of these, with fewer than the
    largest k left. n_own: lists that hold their own query, which only reference protocols allow. remarks: in words,
    what a reader must know of the averages.
    """

    protocol: Protocol
    n_queries: int
    n_short: int
    n_own: int
    at_k: dict[int, ScoresAtK]
    remarks: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "protocol": self.protocol.name,
            "n_queries": self.n_queries,
            "n_short": self.n_short,
            "n_own": self.n_own,
            "remarks": list(self.remarks),
            "k": {str(k): scores.as_dict() for k, scores in self.at_k.items()},
        }


def given_lists(
    neighbours: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    *,
    queries: npt.NDArray[Any] | None = None,
    names: tuple[str, ...] | None = None,
    groups: npt.NDArray[Any] | None = None,
) -> GivenLists:
    """Check lists and what belongs to them.

    queries: default 0..Q-1. names: default "finding 1", ... groups: [G] of any type, one value a patient. Raises
    CountMismatch for shapes, InvalidValue for what is not 0 or 1, out of range or repeated.
    """
    found, known = _integers(neighbours, "neighbours", 2), _labels(labels)
    rows = np.arange(len(found)) if queries is None else _integers(queries, "queries", 1)
    if len(rows) != len(found):
        raise CountMismatch(f"{len(rows)} queries beside {len(found)} lists; give one gallery row to each list")
    if queries is None and len(found) > len(known):
        raise CountMismatch(
            f"{len(found)} lists beside {len(known)} labelled rows: query i is taken for gallery row i; give the"
            " gallery row of each query with --queries, or the labels of the whole gallery"
        )
    _check_range(rows, len(known))
    chosen = names or tuple(f"finding {column + 1}" for column in range(known.shape[1]))
    if len(chosen) != known.shape[1] or len(set(chosen)) != len(chosen):
        raise CountMismatch(f"{len(set(chosen))} different names beside labels of {known.shape[1]} findings")
    codes = None if groups is None else _codes(groups, len(known))
    check_lists(found, len(known), (1,))
    _check_repeats(found)
    return GivenLists(found, known, rows, chosen, codes)


def evaluate_lists(lists: GivenLists, protocol: Protocol = DEFAULT) -> ListsEvaluation:
    """Score them. Under a protocol that leaves out the patient, rows of the query's group are removed where groups are
    known, and the lists close up; R and chance count the gallery after the same exclusions.

    Raises InvalidSetting where a k exceeds K, InvalidValue where a list holds its own query and the protocol forbids
    it, or where no query is left.
    """
    check_lists(lists.neighbours, len(lists.labels), protocol.ks)
    own = (lists.neighbours == lists.queries[:, None]).any(axis=1)
    if own.any() and not protocol.drop_first:
        query = int(np.flatnonzero(own)[0])
        raise InvalidValue(
            f"list {query} holds its own query, gallery row {lists.queries[query]} ({np.count_nonzero(own)} such);"
            f" protocol {protocol.name} wants lists without it: remove it by its row, or choose a reference protocol"
        )
    evaluated = (lists.neighbours >= 0).any(axis=1) & (lists.labels[lists.queries] == 1).any(axis=1)
    rows = np.flatnonzero(evaluated)
    if not len(rows):
        raise InvalidValue(f"none of the {len(own)} lists is of a query with a finding; there is nothing to score")
    queries, neighbours = lists.queries[rows], lists.neighbours[rows]
    if protocol.exclude_same_patient and lists.groups is not None:
        candidates = Candidates(queries, lists.groups)
        neighbours = _without_group(neighbours, lists.groups, queries)
    else:  # of a list that holds its own query nobody knows what was dropped instead
        candidates = Candidates(queries, dropped=np.where(own[rows], -1, queries))
    scores = score_lists(neighbours, lists.labels, candidates, protocol.ks)
    at_k = tables(scores, protocol, lists.names)
    return ListsEvaluation(
        protocol=protocol,
        n_queries=len(rows),
        n_short=int(np.count_nonzero(neighbours[:, max(protocol.ks) - 1] < 0)),
        n_own=int(np.count_nonzero(own[rows])),
        at_k=at_k,
        remarks=(*remarks_on_findings(protocol, at_k), *_remarks_on_groups(lists, protocol)),
    )


def _without_group(neighbours: Counts, groups: Counts, queries: Counts) -> Counts:
    """The lists without the rows of the query's group, closed up; -1 fills the end."""
    own = (groups[neighbours] == groups[queries][:, None]) & (neighbours >= 0)
    kept = np.where(own, -1, neighbours)
    order = np.argsort(kept < 0, axis=1, kind="stable")
    return np.take_along_axis(kept, order, axis=1)


def _remarks_on_groups(lists: GivenLists, protocol: Protocol) -> tuple[str, ...]:
    if lists.groups is not None and not protocol.exclude_same_patient:
        return (f"protocol {protocol.name} keeps images of the same patient; the groups were not used",)
    if lists.groups is None and protocol.exclude_same_patient:
        return ("no groups were given, so images of the same patient may be among the neighbours",)
    return ()


def _integers(values: npt.NDArray[Any], what: str, dimensions: int) -> Counts:
    if values.ndim != dimensions:
        shape = "[queries, ranks]" if dimensions == 2 else "[queries]"
        raise CountMismatch(f"{what} have shape {list(values.shape)}; {shape} is needed")
    if values.dtype.kind not in "iu":
        raise InvalidValue(f"{what} are {values.dtype}; row numbers are integers, as int64")
    return values.astype(np.int64)


def _labels(values: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    if values.ndim != 2:
        raise CountMismatch(f"labels have shape {list(values.shape)}; [gallery, findings] is needed")
    if values.dtype.kind not in "iub":
        raise InvalidValue(f"labels are {values.dtype}; 1 and 0 as int8 are needed")
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InvalidValue(
            f"labels, row {row}, finding {column + 1}: {values[row, column]} ({np.count_nonzero(wrong)} such); each is"
            " 1 (present) or 0: decide what unknown shall count as"
        )
    return values.astype(np.int8)


def _codes(groups: npt.NDArray[Any], rows: int) -> Counts:
    if groups.shape != (rows,):
        raise CountMismatch(f"groups have shape {list(groups.shape)}; [{rows}] is needed, one value a gallery row")
    missing = np.flatnonzero(np.isin(groups.astype(str), ("", "nan", "NaT")))
    if len(missing):
        raise InvalidValue(
            f"groups, row {missing[0]}: no value ({len(missing)} such); rows without one would count as one patient, so"
            " give each patient an id, or each row one of its own"
        )
    codes: Counts = np.unique(groups, return_inverse=True)[1]
    return codes


def _check_range(queries: Counts, rows: int) -> None:
    outside = (queries < 0) | (queries >= rows)
    if outside.any():
        place = int(np.flatnonzero(outside)[0])
        raise InvalidValue(f"queries, place {place}: row {queries[place]} is outside the gallery of {rows}")


def _check_repeats(neighbours: Counts) -> None:
    ordered = np.sort(neighbours, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        query, place = np.argwhere(twice)[0]
        raise InvalidValue(
            f"list {query} holds gallery row {ordered[query, place]} more than once"
            f" ({np.count_nonzero(twice.any(axis=1))} such lists); a neighbour has one rank"
        )
