"""What was measured of every query, before anything is averaged: what significance, strata and reports begin from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from chextriev.errors import CountMismatch
from chextriev.eval.metrics import METRICS, Counts, FindingScores


@dataclass(frozen=True, eq=False)
class ScoredQueries:
    """The metrics of Q queries, each for the findings that it has, at every k, beside what chance would give.

    name: of what was evaluated, as "v6". query_ids, patients: [Q] object, text; the patient of each query. findings:
    names [C]. ks: list lengths. measured, chance: one `FindingScores` a finding; positions [n] count the queries above,
    values [n, metrics, ks] are in the order of `METRICS`; both have the same positions. n_candidates: [Q] int64 and
    relevant: [Q, C] int64, how many rows a query may find and how many of them are hits; None where that is not known.
    """

    name: str
    query_ids: npt.NDArray[np.object_] = field(repr=False)  # what is printed of it tells of nobody
    patients: npt.NDArray[np.object_] = field(repr=False)
    findings: tuple[str, ...]
    ks: tuple[int, ...]
    measured: tuple[FindingScores, ...] = field(repr=False)
    chance: tuple[FindingScores, ...] = field(repr=False)
    n_candidates: Counts | None = field(default=None, repr=False)
    relevant: Counts | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if len(self.patients) != len(self.query_ids):
            raise CountMismatch(f"{self.name}: {len(self.query_ids)} queries beside {len(self.patients)} patients")
        for scores in (self.measured, self.chance):
            _check(scores, self)

    def of_queries(self, rows: Counts) -> "ScoredQueries":
        """The same for these queries alone (rows of `query_ids`, each once), in this order."""
        place = np.full(len(self.query_ids), -1)
        place[rows] = np.arange(len(rows))
        return ScoredQueries(
            name=self.name,
            query_ids=self.query_ids[rows],
            patients=self.patients[rows],
            findings=self.findings,
            ks=self.ks,
            measured=tuple(_moved(scores, place) for scores in self.measured),
            chance=tuple(_moved(scores, place) for scores in self.chance),
            n_candidates=None if self.n_candidates is None else self.n_candidates[rows],
            relevant=None if self.relevant is None else self.relevant[rows],
        )


def _check(scores: Sequence[FindingScores], whole: ScoredQueries) -> None:
    if len(scores) != len(whole.findings):
        raise CountMismatch(f"{whole.name}: scores of {len(scores)} findings beside {len(whole.findings)} names")
    for finding, score in zip(whole.findings, scores, strict=True):
        wanted = (len(score.positions), len(METRICS), len(whole.ks))
        if score.values.shape != wanted:
            raise CountMismatch(
                f"{whole.name}, {finding}: values have shape {list(score.values.shape)}; {list(wanted)} is needed"
            )


def _moved(scores: FindingScores, place: Counts) -> FindingScores:
    kept = place[scores.positions] >= 0
    return FindingScores(place[scores.positions[kept]], scores.values[kept])
