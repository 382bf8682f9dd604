"""Is one system better than another on the same queries, or were these patients lucky for it?

Of every metric and k, for each finding and for the macro and weighted averages:

- effect: the second system's mean less the first's.
- interval: percentile bootstrap. A draw takes as many patients as there are, with replacement and with all their
  queries, and both systems are averaged over it, so what makes a draw easy or hard cancels out.
- p: two-sided randomisation test. If the systems were alike, it would not matter which of them gave a patient's
  numbers, so the two are swapped for each patient with probability 1/2; p is the share of such swaps, the actual one
  among them, whose effect is at least as far from 0.

Images of one patient are alike, so patients and not images are drawn and swapped. The gallery stays as it is: both
speak of other patients' queries against this gallery.
Sources: C. Field and A. Welsh, "Bootstrapping clustered data", J. R. Stat. Soc. B 69 (2007); M. Smucker, J. Allan and
B. Carterette, "A comparison of statistical significance tests for information retrieval evaluation", CIKM 2007;
S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from chextriev.errors import InvalidSetting
from chextriev.eval.metrics import HIT_RATE, METRICS, Counts, Values
from chextriev.eval.pairing import aligned, have_same_chance
from chextriev.eval.scored import ScoredQueries

AVERAGES = ("macro", "weighted")
"""What follows the findings in the rows of `Differences`."""

BLOCK_CELLS = 1_000_000
"""Cells of a block's [draws, patients] weights and of its [draws, cells] sums (8 MB each)."""

ROUNDING = 1e-9
"""Effects that differ by less are equal: a swap of two equal patients must not count as smaller."""


@dataclass(frozen=True)
class SignificanceSettings:
    """draws: of the bootstrap, and as many swaps. level: of the intervals; p below 1 - level is significant."""

    draws: int = 10_000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1 or not 0 < self.level < 1 or self.seed < 0:
            raise InvalidSetting(f"significance {asdict(self)}; draws >= 1, 0 < level < 1 and seed >= 0 are needed")


@dataclass(frozen=True, eq=False)
class Differences:
    """What separates two systems, all [rows, metrics, ks] float64, NaN where undefined.

    Rows are the findings, then `AVERAGES`. An average goes over the findings that both systems have a mean of;
    "weighted" counts a finding as often as queries have it. first, second: the systems' means. low, high: bounds of
    the effect, undefined where they rest on a single patient. p: of the randomisation test. p_holm: [C,
    metrics, ks], the p of the findings adjusted for there being several of them, by Holm. n_averaged: [ks] int64, over
    how many findings the averages go.
    """

    first: Values
    second: Values
    effect: Values
    low: Values
    high: Values
    p: Values
    p_holm: Values
    n_averaged: Counts


@dataclass(frozen=True, eq=False)
class PairedDifference:
    """Two systems on the same queries; every number is the second's less the first's.

    n_by_finding: [C] int64, queries of each finding. kept: where a query without a hit in the top k counts as 0.
    dropped: where each system leaves out its own queries without a hit, for each finding and k.
    same_chance: whether chance is the same for both, as it is when they were searched in one gallery by one protocol.
    """

    first: str
    second: str
    findings: tuple[str, ...]
    ks: tuple[int, ...]
    n_queries: int
    n_patients: int
    n_by_finding: Counts
    kept: Differences
    dropped: Differences
    same_chance: bool
    settings: SignificanceSettings


def paired_difference(
    first: ScoredQueries, second: ScoredQueries, settings: SignificanceSettings | None = None
) -> PairedDifference:
    """How much the second system is better than the first, query by query of the same id.

    The same seed gives the same numbers, whatever the order of the queries. OtherQueries if the two differ in query
    ids, patients, findings of a query, names of findings or ks; DuplicateImage if a query id stands twice.
    """
    settings = settings or SignificanceSettings()
    first, second = aligned(first, second)
    _, patients = np.unique(first.patients.astype(str), return_inverse=True)
    sample = _Sample.of(first, second, patients)
    kept, dropped = _differences(sample, settings)
    return PairedDifference(
        first=first.name,
        second=second.name,
        findings=first.findings,
        ks=first.ks,
        n_queries=len(first.query_ids),
        n_patients=len(sample.sums),
        n_by_finding=np.array([len(scores.positions) for scores in first.measured]),
        kept=kept,
        dropped=dropped,
        same_chance=have_same_chance(first, second),
        settings=settings,
    )


def holm(p: Values) -> Values:
    """p-values [tests, ...] adjusted for the number of tests along the first axis; NaN is no test and stays.

    The smallest of m is multiplied by m, the next by m - 1, ..., none falls below one before it, and none exceeds 1.

    >>> holm(np.array([0.01, 0.04, 0.03, np.nan])).round(3).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    order = np.argsort(p, axis=0)  # NaN last
    ranked = np.take_along_axis(p, order, axis=0)
    place = np.arange(len(p)).reshape(-1, *[1] * (p.ndim - 1))
    left = np.maximum(np.count_nonzero(~np.isnan(p), axis=0) - place, 1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(ranked * left, axis=0), 1.0), axis=0)
    return adjusted


@dataclass(frozen=True, eq=False)
class _Sample:
    """Sums over the queries of each of P patients.

    sums: [P, 2, C, metrics, ks] float64, of the first and the second system. queries: [P, C] float64.
    """

    sums: Values
    queries: Values

    @classmethod
    def of(cls, first: ScoredQueries, second: ScoredQueries, patients: Counts) -> "_Sample":
        count = int(patients.max(initial=-1)) + 1
        sums = np.zeros((count, 2, len(first.findings), len(METRICS), len(first.ks)))
        queries = np.zeros((count, len(first.findings)))
        for system, scored in enumerate((first, second)):
            for column, scores in enumerate(scored.measured):
                np.add.at(sums[:, system, column], patients[scores.positions], scores.values)
        for column, scores in enumerate(first.measured):
            np.add.at(queries[:, column], patients[scores.positions], 1.0)
        return cls(sums, queries)


def _differences(sample: _Sample, settings: SignificanceSettings) -> tuple[Differences, Differences]:
    """With queries without a hit kept, and dropped; both from the same draws and swaps."""
    generator = np.random.default_rng(settings.seed)
    total, queries = sample.sums.sum(axis=0)[None], sample.queries.sum(axis=0)[None]
    conventions = [_Convention.of(total, queries, keep) for keep in (True, False)]
    drawn: list[list[Values]] = [[], []]
    for sums, held in _bootstrap(sample, settings.draws, generator):
        for convention, effects in zip(conventions, drawn, strict=True):
            effects.append(convention.drawn(sums, held))
    beyond = [np.zeros(convention.effect.shape, np.int64) for convention in conventions]
    for sums in _swaps(sample, settings.draws, generator):
        for convention, count in zip(conventions, beyond, strict=True):
            count += convention.as_far(convention.swapped(sums, queries))
    asked = np.concatenate([sample.queries] + [sample.queries.sum(axis=1, keepdims=True)] * len(AVERAGES), axis=1)
    alone = np.count_nonzero(asked, axis=0) < 2  # [rows] bool
    kept, dropped = (
        convention.conclude(np.concatenate(effects), (1 + count) / (1 + settings.draws), alone, settings.level)
        for convention, effects, count in zip(conventions, drawn, beyond, strict=True)
    )
    return kept, dropped


@dataclass(frozen=True, eq=False)
class _Convention:
    """One way to treat queries without a hit, and what the sample itself gives by it.

    means: [2, rows, metrics, ks]. effect: [rows, metrics, ks]. used: [C, ks] bool, findings that are averaged.
    """

    keep_zero_hits: bool
    means: Values
    effect: Values
    used: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, sums: Values, queries: Values, keep_zero_hits: bool) -> "_Convention":
        means = _means(sums, queries, keep_zero_hits)[0]
        used = ~np.isnan(means[:, :, 0]).any(axis=0)  # a k is defined for all metrics or for none
        whole = np.stack([_with_averages(system[None], queries, used)[0] for system in means])
        return cls(keep_zero_hits, whole, whole[1] - whole[0], used)

    def drawn(self, sums: Values, queries: Values) -> Values:
        """[draws, rows, metrics, ks] of drawn patients: sums [draws, 2, C, metrics, ks] and queries [draws, C].

        In the averages, a finding that a draw has no mean of keeps its effect of the whole sample. Left out, it would
        make draws without a rare finding look unlike the average that they belong to.
        """
        by_finding = self._by_finding(sums, queries)
        return _with_averages(by_finding, queries, self.used, self.effect[: len(self.used)])

    def swapped(self, sums: Values, queries: Values) -> Values:
        """[draws, rows, metrics, ks] of swapped systems: sums [draws, 2, C, metrics, ks] and queries [1, C].

        The averages sum the effects of all findings that both systems have a mean of after the swap, which in the
        sample are those used, and divide by what the sample divides by. Were they undefined where one finding is, a
        finding that rests on two patients would make half the swaps count as far, whatever the others say.
        """
        by_finding = self._by_finding(sums, queries)
        added, weights = np.nan_to_num(by_finding), queries[:, :, None, None]
        with np.errstate(divide="ignore", invalid="ignore"):  # no finding is used: the effect itself is undefined
            macro = added.sum(axis=1) / np.count_nonzero(self.used, axis=0)
            weighted = (added * weights).sum(axis=1) / (weights * self.used[:, None]).sum(axis=1)
        return np.concatenate([by_finding, macro[:, None], weighted[:, None]], axis=1)

    def _by_finding(self, sums: Values, queries: Values) -> Values:
        means = _means(sums, queries, self.keep_zero_hits)
        effects: Values = means[:, 1] - means[:, 0]
        return effects

    def as_far(self, effects: Values) -> Counts:
        """In how many draws the effect is as far from 0 as the actual one: [rows, metrics, ks] int64.

        A finding's undefined effect counts as far: the test stays exact, since any fixed rule may order the swaps.
        """
        return np.asarray(np.count_nonzero(~(np.abs(effects) < np.abs(self.effect) - ROUNDING), axis=0))

    def conclude(self, drawn: Values, p: Values, alone: npt.NDArray[np.bool_], level: float) -> Differences:
        """drawn: [draws, rows, metrics, ks]. alone: [rows] bool, what rests on a single patient."""
        low, high = _percentiles(drawn, level)
        undefined = np.isnan(self.effect) | alone[:, None, None]
        low[undefined], high[undefined] = np.nan, np.nan
        p = np.where(np.isnan(self.effect), np.nan, p)
        adjusted, averaged = holm(p[: len(self.used)]), np.count_nonzero(self.used, axis=0)
        return Differences(self.means[0], self.means[1], self.effect, low, high, p, adjusted, averaged)


def _means(sums: Values, queries: Values, keep_zero_hits: bool) -> Values:
    """[draws, 2, C, metrics, ks] from sums of that shape and queries [draws or 1, C]; NaN where there are none.

    A query without a hit is 0 by every metric, so leaving it out changes the divisor alone, which is then the number
    of queries with a hit: the sum of the hit rate.
    """
    counts = queries[:, None, :, None, None] if keep_zero_hits else sums[:, :, :, HIT_RATE, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(
            counts > 0.5, sums / counts, np.nan
        )  # of whole numbers, which a swap may leave a rounding off 0


def _with_averages(
    values: Values, queries: Values, used: npt.NDArray[np.bool_], filler: Values | None = None
) -> Values:
    """values [draws, C, metrics, ks] and, behind them, their macro and weighted averages over the findings used.

    Undefined values make an average undefined unless there is a filler [C, metrics, ks].
    """
    shown = used[:, None]  # [C, 1, ks]
    filled = values if filler is None else np.where(np.isnan(values), filler, values)
    filled = np.where(shown, filled, 0.0)
    weights = queries[:, :, None, None] * shown  # [draws or 1, C, 1, ks]
    with np.errstate(invalid="ignore"):
        macro = filled.sum(axis=1) / np.count_nonzero(used, axis=0)
        weighted = (filled * weights).sum(axis=1) / weights.sum(axis=1)
    return np.concatenate([values, macro[:, None], weighted[:, None]], axis=1)


def _bootstrap(sample: _Sample, draws: int, generator: np.random.Generator) -> Iterator[tuple[Values, Values]]:
    """Sums [draws of this block, 2, C, metrics, ks] and queries [draws of this block, C] of drawn patients."""
    patients = len(sample.sums)
    flat = np.concatenate([sample.sums.reshape(patients, -1), sample.queries], axis=1)
    split = flat.shape[1] - sample.queries.shape[1]
    for block in _blocks(draws, flat.shape):
        taken = generator.integers(patients, size=(block, patients)) + patients * np.arange(block)[:, None]
        times = np.bincount(taken.ravel(), minlength=block * patients).reshape(block, patients)
        drawn = times.astype(np.float64) @ flat
        yield drawn[:, :split].reshape(block, *sample.sums.shape[1:]), drawn[:, split:]


def _swaps(sample: _Sample, draws: int, generator: np.random.Generator) -> Iterator[Values]:
    """Sums [draws of this block, 2, C, metrics, ks] after the systems were swapped for half of the patients."""
    first, second = sample.sums.sum(axis=0)
    gained = (sample.sums[:, 1] - sample.sums[:, 0]).reshape(len(sample.sums), -1)
    for block in _blocks(draws, gained.shape):
        swapped = generator.integers(2, size=(block, len(gained)), dtype=np.int8).astype(np.float64)
        moved = (swapped @ gained).reshape(block, *first.shape)
        yield np.stack([first + moved, second - moved], axis=1)


def _blocks(draws: int, shape: tuple[int, ...]) -> Iterator[int]:
    size = max(1, BLOCK_CELLS // max(*shape, 1))
    for start in range(0, draws, size):
        yield min(size, draws - start)


def _percentiles(drawn: Values, level: float) -> tuple[Values, Values]:
    """Bounds over the draws that are defined, cell by cell of [draws, ...]."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    cells = np.ascontiguousarray(drawn.reshape(len(drawn), -1).T)
    bounds = np.full((2, len(cells)), np.nan)
    gaps = np.isnan(cells).any(axis=1)
    bounds[:, ~gaps] = np.quantile(cells[~gaps], tails, axis=1)
    for cell in np.flatnonzero(gaps):
        defined = cells[cell][~np.isnan(cells[cell])]
        if len(defined):
            bounds[:, cell] = np.quantile(defined, tails)
    low, high = bounds.reshape(2, *drawn.shape[1:])
    return low, high
