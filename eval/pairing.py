"""The same queries of two systems, side by side."""

from dataclasses import replace

import numpy as np

from chextriev.errors import DuplicateImage, OtherQueries
from chextriev.eval.metrics import FindingScores
from chextriev.eval.scored import ScoredQueries


def aligned(first: ScoredQueries, second: ScoredQueries) -> tuple[ScoredQueries, ScoredQueries]:
    """Both in the order of their query ids, so that sums over queries are equal to the last digit.

    OtherQueries if they differ in query ids, patients, findings of a query, names of findings or ks; DuplicateImage if
    a query id stands twice.
    """
    first, second = _in_order_of_ids(first), _in_order_of_ids(second)
    _check_same(first, second)
    return first, second


def have_same_chance(first: ScoredQueries, second: ScoredQueries) -> bool:
    """Whether chance is the same for all queries of two aligned systems."""
    pairs = zip(first.chance, second.chance, strict=True)
    return all(np.allclose(ours.values, theirs.values, atol=1e-9) for ours, theirs in pairs)


def _in_order_of_ids(scored: ScoredQueries) -> ScoredQueries:
    ids = scored.query_ids.astype(str)
    order = np.argsort(ids, kind="stable")
    twice = ids[order][:-1][ids[order][1:] == ids[order][:-1]]
    if len(twice):
        raise DuplicateImage(f"{scored.name}: query {str(twice[0])!r} stands twice; every query is compared once")
    moved = scored.of_queries(order)
    measured, chance = (tuple(map(_by_position, scores)) for scores in (moved.measured, moved.chance))
    return replace(moved, measured=measured, chance=chance)


def _check_same(first: ScoredQueries, second: ScoredQueries) -> None:
    """Refuse two systems that were not asked the same; both in order of ids."""
    pair = f"{first.name} and {second.name}"
    for what in ("findings", "ks"):
        ours, theirs = getattr(first, what), getattr(second, what)
        if ours != theirs:
            shown = (", ".join(map(str, values)) for values in (ours, theirs))
            raise OtherQueries(f"{pair} have the {what} {' and '.join(shown)}; evaluate both with the same")
    if not np.array_equal(first.query_ids, second.query_ids):
        ours, theirs = set(first.query_ids), set(second.query_ids)
        raise OtherQueries(
            f"{pair} were asked other queries: {len(ours - theirs):,} of {len(ours):,} and {len(theirs - ours):,} of"
            f" {len(theirs):,} are only in one; evaluate both on the same split"
        )
    if not np.array_equal(first.patients, second.patients):
        raise OtherQueries(f"{pair} name other patients for the same queries; evaluate both from the same study table")
    for finding, one, other in zip(first.findings, first.measured, second.measured, strict=True):
        if not np.array_equal(one.positions, other.positions):
            raise OtherQueries(f"{pair} differ in which queries have {finding}; evaluate both with the same labels")


def _by_position(scores: FindingScores) -> FindingScores:
    order = np.argsort(scores.positions)
    return FindingScores(scores.positions[order], scores.values[order])
