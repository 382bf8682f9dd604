"""Systems set against each other, two at a time, and whether the winner depends on how average precision is defined.

Published tables divide AP by the hits found, by min(k, R) or by R, and keep or drop queries without a hit: six
conventions, each of them fair to both systems and yet able to name another winner.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, groupby, product
from typing import Any, Literal

import numpy as np

from chextriev.errors import InvalidSetting
from chextriev.eval.evaluation import Interval
from chextriev.eval.metrics import METRICS, Values
from chextriev.eval.scored import ScoredQueries
from chextriev.eval.significance import (
    AVERAGES,
    Differences,
    PairedDifference,
    SignificanceSettings,
    holm,
    paired_difference,
)

ZeroHits = Literal["kept", "dropped"]
ZERO_HITS: tuple[ZeroHits, ...] = ("kept", "dropped")
"""What is done with queries without a hit in the top k."""

CONVENTIONS = tuple(product(("ap_over_hits", "ap_over_min_k_r", "ap_over_r"), ZERO_HITS))
"""The six of average precision."""


@dataclass(frozen=True)
class Cell:
    """The difference of two systems in one metric at one k; None where undefined.

    effect: the mean of the second system less that of the first. p_holm: adjusted over the findings, of an average over
    the pairs of systems.
    """

    effect: float | None
    interval: Interval
    p: float | None
    p_holm: float | None
    first: float | None
    second: float | None

    def is_decided(self, level: float) -> bool:
        """Whether the interval leaves out 0 and the adjusted p is below 1 - level."""
        if self.interval is None or self.p_holm is None:
            return False
        low, high = self.interval
        return (low > 0 or high < 0) and self.p_holm < round(1 - level, 12)  # 1 - 0.95 is above 0.05


@dataclass(frozen=True)
class Ruling:
    """What one convention says of a pair by the macro average; winner: None where it does not decide."""

    metric: str
    zero_hits: ZeroHits
    difference: Cell
    winner: str | None


@dataclass(frozen=True)
class Verdict:
    """What the six conventions say of a pair at one k."""

    first: str
    second: str
    k: int
    rulings: tuple[Ruling, ...]

    @property
    def winners(self) -> dict[str, int]:
        """Under how many conventions each winner wins; empty if none is decided."""
        won = sorted(ruling.winner for ruling in self.rulings if ruling.winner)
        return {name: len(list(group)) for name, group in groupby(won)}

    def __str__(self) -> str:
        """As "v6 over v5 under 2 of 6 conventions at k = 5; not distinguishable under 4"."""
        count, winners = len(self.rulings), self.winners
        if not winners:
            neither = f"{self.second} and {self.first} are not distinguishable"
            return f"{neither} under any of {count} conventions at k = {self.k}"
        if set(winners.values()) == {count}:
            winner = next(iter(winners))
            return f"{winner} over {self._other(winner)} under all {count} conventions at k = {self.k}"
        under = [f"{winner} over {self._other(winner)} under {won} of {count}" for winner, won in winners.items()]
        open_ = count - sum(winners.values())
        rest = f"; not distinguishable under {open_}" if open_ else ""
        if len(winners) > 1:
            return f"the winner changes with the convention at k = {self.k}: {', '.join(under)}{rest}"
        return f"{under[0]} conventions at k = {self.k}{rest}"

    def _other(self, name: str) -> str:
        return self.first if name == self.second else self.second


@dataclass(frozen=True, eq=False)
class Pair:
    """Two systems of a comparison.

    average_p_holm: of the averages [averages, metrics, ks], adjusted over the pairs, by what is done with queries
    without a hit.
    """

    difference: PairedDifference
    average_p_holm: Mapping[ZeroHits, Values]

    def cell(self, row: str, metric: str, k: int, *, zero_hits: ZeroHits = "kept") -> Cell:
        """The difference in one metric; row: a finding, "macro" or "weighted"."""
        found: Differences = getattr(self.difference, zero_hits)
        rows = (*self.difference.findings, *AVERAGES)
        at = (rows.index(row), list(METRICS).index(metric), self.difference.ks.index(k))
        adjusted = np.concatenate([found.p_holm, self.average_p_holm[zero_hits]])
        bounds = (_plain(found.low[at]), _plain(found.high[at]))
        return Cell(
            effect=_plain(found.effect[at]),
            interval=None if bounds[0] is None or bounds[1] is None else (bounds[0], bounds[1]),
            p=_plain(found.p[at]),
            p_holm=_plain(adjusted[at]),
            first=_plain(found.first[at]),
            second=_plain(found.second[at]),
        )

    def verdict(self, k: int) -> Verdict:
        """Who wins under which convention."""
        return Verdict(
            self.difference.first, self.difference.second, k, tuple(self._ruling(*named, k) for named in CONVENTIONS)
        )

    def _ruling(self, metric: str, zero_hits: ZeroHits, k: int) -> Ruling:
        cell = self.cell("macro", metric, k, zero_hits=zero_hits)
        better = self.difference.second if (cell.effect or 0) > 0 else self.difference.first
        decided = cell.is_decided(self.difference.settings.level)
        return Ruling(metric, zero_hits, cell, better if decided else None)

    def as_dict(self) -> dict[str, Any]:
        """The pair in the JSON."""
        named = self.difference
        at_k = {
            str(k): {
                "verdict": _verdict_as_dict(self.verdict(k)),
                **{zero_hits: self._rows(k, zero_hits) for zero_hits in ZERO_HITS},
            }
            for k in named.ks
        }
        return {"first": named.first, "second": named.second, "same_chance": named.same_chance, "k": at_k}

    def _rows(self, k: int, zero_hits: ZeroHits) -> dict[str, Any]:
        def of(row: str) -> dict[str, Any]:
            return {metric: asdict(self.cell(row, metric, k, zero_hits=zero_hits)) for metric in METRICS}

        per_finding = {finding: of(finding) for finding in self.difference.findings}
        averaged = getattr(self.difference, zero_hits).n_averaged[self.difference.ks.index(k)]
        return {"n_averaged": int(averaged), **{name: of(name) for name in AVERAGES}, "per_finding": per_finding}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every pair of some systems, the later of them as the second."""

    systems: tuple[str, ...]
    pairs: tuple[Pair, ...]

    @property
    def settings(self) -> SignificanceSettings:
        """The same for all pairs."""
        return self.pairs[0].difference.settings

    def as_dict(self) -> dict[str, Any]:
        """The content of `compare.json`; every effect is the second's less the first's."""
        one = self.pairs[0].difference
        return {
            "systems": list(self.systems),
            "settings": asdict(one.settings),
            "n_queries": one.n_queries,
            "n_patients": one.n_patients,
            "n_by_finding": dict(zip(one.findings, map(int, one.n_by_finding), strict=True)),
            "pairs": [pair.as_dict() for pair in self.pairs],
        }


def compare(systems: Sequence[ScoredQueries], settings: SignificanceSettings | None = None) -> Comparison:
    """Set every system against every later one, on the same queries.

    The averages of all pairs are adjusted together, so adding a system makes the others harder to tell apart.
    InvalidSetting for fewer than two systems or names that are not unique; OtherQueries as `paired_difference` says.
    """
    names = tuple(system.name for system in systems)
    if len(names) < 2:
        raise InvalidSetting(f"compare: {len(names)} evaluations; at least two are needed")
    if len(set(names)) != len(names):
        raise InvalidSetting(f"compare: the names {', '.join(names)} are not unique; give each evaluation its own")
    found = [paired_difference(first, second, settings) for first, second in combinations(systems, 2)]
    adjusted = {zero_hits: _over_pairs([getattr(pair, zero_hits) for pair in found]) for zero_hits in ZERO_HITS}
    pairs = (
        Pair(difference, {zero_hits: adjusted[zero_hits][place] for zero_hits in ZERO_HITS})
        for place, difference in enumerate(found)
    )
    return Comparison(names, tuple(pairs))


def _over_pairs(differences: Sequence[Differences]) -> Values:
    """[pairs, averages, metrics, ks]."""
    return holm(np.stack([difference.p[-len(AVERAGES) :] for difference in differences]))


def _verdict_as_dict(verdict: Verdict) -> dict[str, Any]:
    rulings = [
        {"metric": ruling.metric, "zero_hit_queries": ruling.zero_hits, "winner": ruling.winner}
        for ruling in verdict.rulings
    ]
    return {"text": str(verdict), "winners": verdict.winners, "conventions": rulings}


def _plain(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
