"""What intervals cost: the clustered bootstrap of one system, and the comparison of two."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from chextriev.anatomy import Finding
from chextriev.eval.bootstrap import intervals
from chextriev.eval.metrics import METRICS, FindingScores
from chextriev.eval.protocol import DEFAULT, IntervalSpec
from chextriev.eval.scored import ScoredQueries
from chextriev.eval.significance import SignificanceSettings, paired_difference

SHARES = (0.84, 0.42, 0.39, 0.38, 0.26, 0.03, 0.10, 0.05, 0.20)
"""How frequent each finding is in the published test split."""

WITHOUT_FINDING = 372 / 3191
"""The share of its radiographs that have no finding and so are no queries."""


def bootstrap_works(queries: int, patients: int, draws: int, ks: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """What is timed: the intervals of one system, and the paired comparison of two with as many swaps."""
    first, second = (_made_up(queries, patients, ks, seed) for seed in (0, 1))
    codes = np.unique(first.patients.astype(str), return_inverse=True)[1]
    protocol = replace(DEFAULT, ks=ks, interval=IntervalSpec(draws=draws))
    settings = SignificanceSettings(draws=draws)
    return {
        "intervals": lambda: intervals(first.measured, codes, protocol),
        "comparison of two, with as many swaps": lambda: paired_difference(first, second, settings),
    }


def _made_up(queries: int, patients: int, ks: tuple[int, ...], seed: int) -> ScoredQueries:
    """A system's scores; queries, patients and findings are the same for every seed."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    measured = []
    for share in SHARES:
        positions = np.flatnonzero(shared.random(queries) < share)
        measured.append(FindingScores(positions, own.random((len(positions), len(METRICS), len(ks)))))
    return ScoredQueries(
        name=f"system {seed}",
        query_ids=np.array([f"query-{row}" for row in range(queries)], object),
        patients=np.array([f"patient-{row % patients}" for row in range(queries)], object),
        findings=Finding.labels(),
        ks=ks,
        measured=tuple(measured),
        chance=tuple(FindingScores(scores.positions, np.zeros_like(scores.values)) for scores in measured),
    )
