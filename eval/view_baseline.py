"""What a ranking would reach that knows nothing of a radiograph but its view.

It puts the candidates of the query's view first, in random order, and then the others. Frozen features tell AP from PA
at a glance, and AP radiographs are of sicker patients, so a system has to beat this and not chance alone. A query whose
view is not known has no such order: all its candidates are alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.eval.averages import average
from chextriev.eval.candidates import Candidates
from chextriev.eval.chance import CHANCE, RandomRanking
from chextriev.eval.markdown import METRIC_NAMES, format_value
from chextriev.eval.metrics import METRICS, Counts, FindingScores, RankedHits, Values, discounts_of
from chextriev.eval.protocol import DEFAULT, Protocol
from chextriev.eval.scored import ScoredQueries

BLOCK_LISTS = 100_000
"""Permuted lists held at once."""


@dataclass(frozen=True)
class PermutationSettings:
    """Random orders of each query whose view holds fewer candidates than the longest list."""

    draws: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1 or self.seed < 0:
            raise InvalidSetting(f"permutations {asdict(self)}; draws >= 1 and seed >= 0 are needed")


@dataclass(frozen=True, eq=False)
class ViewCandidates:
    """Candidates of each query [Q] int64 and the hits among them [Q, C] int64: of its view, and of all views."""

    same: Counts
    same_relevant: Counts
    all: Counts
    all_relevant: Counts


@dataclass(frozen=True)
class ViewBaseline:
    """Macro averages by k and metric: of the system, of the ranking by view, and by chance; None where undefined.

    n_permuted: queries whose view holds fewer candidates than the longest list, so that orders had to be drawn.
    """

    name: str
    n_queries: int
    n_permuted: int
    system: Mapping[int, Mapping[str, float | None]]
    view_only: Mapping[int, Mapping[str, float | None]]
    chance: Mapping[int, Mapping[str, float | None]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in the JSON."""
        at_k = {
            str(k): {name: dict(getattr(self, name)[k]) for name in ("system", "view_only", "chance")}
            for k in self.system
        }
        return {"name": self.name, "n_queries": self.n_queries, "n_permuted": self.n_permuted, "k": at_k}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ViewBaseline":
        """The reverse of `as_dict`."""
        columns = (
            {int(k): scores[name] for k, scores in values["k"].items()} for name in ("system", "view_only", "chance")
        )
        return cls(values["name"], values["n_queries"], values["n_permuted"], *columns)


def count_views(labels: npt.NDArray[np.int8], views: npt.NDArray[np.object_], candidates: Candidates) -> ViewCandidates:
    """Count the candidates of each query by view.

    labels: [G, C] int8, 1 is a hit. views: [G] object, None where unknown.
    """
    if len(views) != len(labels):
        raise CountMismatch(f"views of {len(views)} radiographs beside labels of {len(labels)}")
    everyone, relevant = candidates.count(labels)
    same, same_relevant = everyone.copy(), relevant.copy()
    for view in sorted({view for view in views if isinstance(view, str)}):
        inside = (views == view)[:, None]  # [G, 1] bool
        counts = candidates.count(np.where(inside, np.concatenate([labels, inside], axis=1), 0).astype(np.int8))[1]
        rows = np.flatnonzero(inside[candidates.queries, 0])
        same[rows], same_relevant[rows] = counts[rows, -1], counts[rows, :-1]
    return ViewCandidates(same, same_relevant, everyone, relevant)


def view_baseline(
    scored: ScoredQueries,
    counts: ViewCandidates,
    protocol: Protocol = DEFAULT,
    permutations: PermutationSettings | None = None,
) -> ViewBaseline:
    """The ranking by view beside the system and chance, averaged by the protocol; counts: of the same queries."""
    if len(counts.same) != len(scored.query_ids):
        raise CountMismatch(f"{scored.name}: {len(scored.query_ids)} queries beside counts of {len(counts.same)}")
    by_view = view_only_scores(scored.measured, counts, scored.ks, permutations)
    system, view_only, chance = (
        _by_k(average(scores, protocol).macro, scored.ks) for scores in (scored.measured, by_view, scored.chance)
    )
    permuted = int(np.count_nonzero(_is_permuted(counts, scored.ks)))
    return ViewBaseline(scored.name, len(scored.query_ids), permuted, system, view_only, chance)


def view_only_scores(
    scores: Sequence[FindingScores],
    counts: ViewCandidates,
    ks: Sequence[int],
    permutations: PermutationSettings | None = None,
) -> list[FindingScores]:
    """Expected scores of the same queries under the ranking by view.

    Exact where the view holds max(ks) candidates or all of them; else the mean over seeded random orders.
    """
    permutations = permutations or PermutationSettings()
    generator = np.random.default_rng(permutations.seed)
    drawn = _is_permuted(counts, ks)
    expected = []
    for column, score in enumerate(scores):
        values = _in_closed_form(counts, score.positions, column, ks)
        rows = np.flatnonzero(drawn[score.positions])
        size = max(1, BLOCK_LISTS // permutations.draws)
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            blocks = _Blocks.of(counts, score.positions[block], column)
            values[block] = _permuted(blocks, ks, permutations.draws, generator)
        expected.append(FindingScores(score.positions, values))
    return expected


def render_view_baseline(baseline: ViewBaseline) -> str:
    """A Markdown table: a line a metric and k."""
    lines: list[tuple[str, ...]] = [("macro average", baseline.name or "measured", "by view alone", "chance")]
    lines.append(("---", "---:", "---:", "---:"))
    for k in baseline.system:
        for metric, name in METRIC_NAMES.items():
            values = (column[k][metric] for column in (baseline.system, baseline.view_only, baseline.chance))
            lines.append((name.replace("@k", f"@{k}"), *map(format_value, values)))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    told = "By view alone: candidates of the query's view first, in random order, then the others; exact expectation"
    told += f", but for {baseline.n_permuted:,} queries over random orders." if baseline.n_permuted else "."
    return f"## Against a ranking by view alone\n\n{told}\n\n{table}\n"


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Of n queries [n] int64: candidates of their view and the hits among them, and those of other views."""

    same: Counts
    same_hits: Counts
    others: Counts
    other_hits: Counts

    @classmethod
    def of(cls, counts: ViewCandidates, rows: Counts, column: int) -> "_Blocks":
        """Of these rows, for one finding."""
        same, hits = counts.same[rows], counts.same_relevant[rows, column]
        return cls(same, hits, counts.all[rows] - same, counts.all_relevant[rows, column] - hits)


def _is_permuted(counts: ViewCandidates, ks: Sequence[int]) -> npt.NDArray[np.bool_]:
    """[Q] whether a list reaches beyond the candidates of the query's view."""
    return np.asarray((counts.same < max(ks)) & (counts.same < counts.all))


def _in_closed_form(counts: ViewCandidates, rows: Counts, column: int, ks: Sequence[int]) -> Values:
    """[n, metrics, ks] of lists that hold candidates of the view alone, all views' hits being there to be found."""
    ranking = RandomRanking(counts.same[rows], counts.same_relevant[rows, column])
    values = np.stack([CHANCE[name](ranking, ks) for name in METRICS], axis=1)
    names = list(METRICS)
    for name, perfect in _PERFECT.items():
        of_view, of_all = (perfect(hits[rows, column], ks) for hits in (counts.same_relevant, counts.all_relevant))
        values[:, names.index(name)] *= of_view / np.where(of_all > 0, of_all, 1.0)
    return values


def _permuted(blocks: _Blocks, ks: Sequence[int], draws: int, generator: np.random.Generator) -> Values:
    """[n, metrics, ks] mean over random orders: at each rank one of the candidates that are left, first of the view."""
    shape = (len(blocks.same), draws)
    same, others = blocks.same[:, None], blocks.others[:, None]
    hits, other_hits = (np.repeat(held[:, None], draws, axis=1) for held in (blocks.same_hits, blocks.other_hits))
    lists = np.zeros((*shape, max(ks)), bool)
    for rank in range(max(ks)):
        inside = rank < same  # [n, 1] bool
        left = np.where(inside, same - rank, others - (rank - same))
        found = generator.random(shape) * np.maximum(left, 1) < np.where(inside, hits, other_hits)
        lists[:, :, rank] = found & (left > 0)
        hits -= lists[:, :, rank] & inside
        other_hits -= lists[:, :, rank] & ~inside
    relevant = np.repeat(blocks.same_hits + blocks.other_hits, draws)
    ranked = RankedHits(lists.reshape(-1, max(ks)), relevant)
    values = np.stack([metric(ranked, ks) for metric in METRICS.values()], axis=1)
    return np.asarray(values.reshape(*shape, *values.shape[1:]).mean(axis=1))


def _min_k_r(hits: Counts, ks: Sequence[int]) -> Values:
    fewer: Values = np.minimum(np.asarray(ks), hits[:, None]).astype(np.float64)
    return fewer


def _all_hits(hits: Counts, ks: Sequence[int]) -> Values:
    repeated: Values = np.repeat(hits[:, None], len(ks), axis=1).astype(np.float64)
    return repeated


def _perfect_gain(hits: Counts, ks: Sequence[int]) -> Values:
    gained = np.concatenate([[0.0], np.cumsum(discounts_of(max(ks)))])
    return np.asarray(gained[np.minimum(np.asarray(ks), hits[:, None])])


_PERFECT = {"ap_over_min_k_r": _min_k_r, "ap_over_r": _all_hits, "ndcg": _perfect_gain}
"""Metrics that are divided by what a perfect list would gain, [n, ks] of the hits [n] there are."""


def _by_k(macro: Values, ks: Sequence[int]) -> dict[int, dict[str, float | None]]:
    """macro: [metrics, ks]."""
    return {
        k: {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(METRICS, macro[:, column], strict=True)
        }
        for column, k in enumerate(ks)
    }
