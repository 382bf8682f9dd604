"""The same queries of two systems, side by side."""

import numpy as np

from chextriev.errors import DuplicateImage, OtherQueries
from chextriev.eval.metrics import FindingScores, Values
from chextriev.eval.scored import ScoredQueries


def aligned(first: ScoredQueries, second: ScoredQueries) -> tuple[ScoredQueries, ScoredQueries]:
    """Both in the order of their query ids.

    OtherQueries if they differ in query ids, patients, findings of a query, names of findings or ks; DuplicateImage if
    a query id stands twice.
    """
    first, second = _in_order_of_ids(first), _in_order_of_ids(second)
    _check_same(first, second)
    return first, second


def have_same_chance(first: ScoredQueries, second: ScoredQueries) -> bool:
    """Whether chance is the same for all queries of two aligned systems."""
    pairs = zip(first.chance, second.chance, strict=True)
    return all(np.allclose(_by_position(ours), _by_position(theirs), atol=1e-9) for ours, theirs in pairs)


def _in_order_of_ids(scored: ScoredQueries) -> ScoredQueries:
    ids = scored.query_ids.astype(str)
    order = np.argsort(ids, kind="stable")
    twice = ids[order][:-1][ids[order][1:] == ids[order][:-1]]
    if len(twice):
        raise DuplicateImage(f"{scored.name}: query {str(twice[0])!r} stands twice; every query is compared once")
    return scored.of_queries(order)


def _check_same(first: ScoredQueries, second: ScoredQueries) -> None:
    """Refuse two systems that were not asked the same; both in order of ids."""
    pair = f"{first.name} and {second.name}"
    for what in ("findings", "ks"):
        ours, theirs = getattr(first, what), getattr(second, what)
        if ours != theirs:
            shown = (", ".join(map(str, values)) for values in (ours, theirs))
            raise OtherQueries(f"{pair} have the {what} {' and '.join(shown)}; evaluate both with the same")
    if not np.array_equal(first.query_ids, second.query_ids):
        ids = (set(scored.query_ids) for scored in (first, second))
        ours, theirs = ids
        raise OtherQueries(
            f"{pair} were asked other queries: {len(ours - theirs):,} of {len(ours):,} and {len(theirs - ours):,} of"
            f" {len(theirs):,} are only in one; evaluate both on the same split"
        )
    if not np.array_equal(first.patients, second.patients):
        raise OtherQueries(f"{pair} name other patients for the same queries; evaluate both from the same study table")
    for finding, ours_, theirs_ in zip(first.findings, first.measured, second.measured, strict=True):
        if not np.array_equal(np.sort(ours_.positions), np.sort(theirs_.positions)):
            raise OtherQueries(f"{pair} differ in which queries have {finding}; evaluate both with the same labels")


def _by_position(scores: FindingScores) -> Values:
    values: Values = scores.values[np.argsort(scores.positions)]
    return values
