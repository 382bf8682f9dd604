"""Scores of queries written down by hand."""

import numpy as np

from chextriev.eval.metrics import HIT_RATE, METRICS, FindingScores
from chextriev.eval.scored import ScoredQueries


def scored(values, patients, *, name="a", chance=0.25, findings=None):
    """values: [Q, C], what every metric but the hit rate gives, NaN where the query has not the finding; k is 5."""
    values = np.asarray(values, float)
    measured = []
    for column in values.T:
        positions = np.flatnonzero(~np.isnan(column))
        of_metrics = np.repeat(column[positions, None, None], len(METRICS), axis=1)
        of_metrics[:, HIT_RATE] = of_metrics[:, HIT_RATE] > 0
        measured.append(FindingScores(positions, of_metrics))
    return ScoredQueries(
        name=name,
        query_ids=np.array([f"q{row:04d}" for row in range(len(values))], object),
        patients=np.array([str(patient) for patient in patients], object),
        findings=findings or tuple(f"finding {column}" for column in range(values.shape[1])),
        ks=(5,),
        measured=tuple(measured),
        chance=tuple(FindingScores(part.positions, np.full_like(part.values, chance)) for part in measured),
    )
