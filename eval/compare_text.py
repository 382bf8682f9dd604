"""A comparison as Markdown: what differs and how surely first, then p."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chextriev.errors import InvalidSetting
from chextriev.eval.compare import CONVENTIONS, Cell, Comparison, Pair, ZeroHits
from chextriev.eval.markdown import DASH, METRIC_NAMES, format_value

MINUS = "\N{MINUS SIGN}"
OTHERS: tuple[tuple[str, ZeroHits], ...] = tuple((metric, "kept") for metric in ("precision", "hit_rate", "rr", "ndcg"))


@dataclass(frozen=True)
class Shown:
    """What tables and pictures show in detail; metric: a name of `chextriev.eval.metrics.METRICS`."""

    k: int = 5
    metric: str = "ap_over_hits"

    def check(self, comparison: Comparison) -> None:
        """InvalidSetting where the comparison has no such k, or there is no such metric."""
        ks = comparison.pairs[0].difference.ks
        if self.k not in ks:
            raise InvalidSetting(f"k = {self.k} was not evaluated; choose one of {', '.join(map(str, ks))}")
        if self.metric not in METRIC_NAMES:
            raise InvalidSetting(f"no metric {self.metric!r}; choose one of {', '.join(sorted(METRIC_NAMES))}")

    @property
    def metric_name(self) -> str:
        """As people read it."""
        return METRIC_NAMES[self.metric].replace("@k", f"@{self.k}")


def render_compare(comparison: Comparison, shown: Shown) -> str:
    """The text of `compare.md`: for each pair the verdicts, the averages at k and a metric for each finding."""
    shown.check(comparison)
    parts = [f"# {' against '.join(reversed(comparison.systems))}", _describe(comparison)]
    for pair in comparison.pairs:
        parts += [
            f"## {pair.difference.second} less {pair.difference.first}",
            _verdicts(pair),
            *_remarks(pair),
            _averages(pair, shown),
            _findings(pair, shown),
        ]
    return "\n\n".join(parts) + "\n"


def format_difference(cell: Cell) -> tuple[str, str]:
    """Effect and interval with their signs, or dashes: three decimals, four where all of it is below 0.01."""
    values = [value for value in (cell.effect, *(cell.interval or ())) if value is not None]
    decimals = 3 if max(map(abs, values), default=1.0) >= 0.01 else 4
    effect = DASH if cell.effect is None else _signed(cell.effect, decimals)
    bounds = DASH if cell.interval is None else " to ".join(_signed(bound, decimals) for bound in cell.interval)
    return effect, bounds


def format_p(value: float | None) -> str:
    """Two digits that count, never 0."""
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def describe_zero_hits(zero_hits: ZeroHits) -> str:
    """In words."""
    return f"queries without a hit {zero_hits}"


def _describe(comparison: Comparison) -> str:
    one, settings = comparison.pairs[0].difference, comparison.settings
    several = f" and, for averages, over the {len(comparison.pairs)} pairs" if len(comparison.pairs) > 1 else ""
    return (
        f"{one.n_queries:,} queries of {one.n_patients:,} patients, the same for all; above 0 the first-named system is"
        f" better. Intervals: {settings.level:.0%}, {settings.draws:,} bootstrap draws of patients. p: two-sided"
        f" randomisation, {settings.draws:,} times the systems swapped for random patients; Holm over the"
        f" {len(one.findings)} findings{several}. A convention decides where the interval of the macro average leaves"
        f" out 0 and the adjusted p is below {1 - settings.level:.2g}. Not distinguishable does not mean equal."
    )


def _verdicts(pair: Pair) -> str:
    return "\n".join(f"- {_capital(str(pair.verdict(k)))}." for k in pair.difference.ks)


def _remarks(pair: Pair) -> Iterable[str]:
    if not pair.difference.same_chance:
        yield (
            "Chance differs between the two: they were not searched in the same gallery by the same protocol, so the"
            " difference is not that of the systems alone."
        )


def _averages(pair: Pair, shown: Shown) -> str:
    winners = {(ruling.metric, ruling.zero_hits): ruling.winner or DASH for ruling in pair.verdict(shown.k).rulings}
    rows = []
    for metric, zero_hits in (*CONVENTIONS, *OTHERS):
        cell = pair.cell("macro", metric, shown.k, zero_hits=zero_hits)
        name = Shown(shown.k, metric).metric_name
        averaged = getattr(pair.difference, zero_hits).n_averaged[pair.difference.ks.index(shown.k)]
        rows.append([name, zero_hits, *_cells(cell), str(averaged), winners.get((metric, zero_hits), "")])
    header = ("macro average", "without a hit", *_header(pair, "p, Holm over pairs"), "findings", "winner")
    return f"### k = {shown.k}, over the findings\n\n{_table(header, rows)}"


def _findings(pair: Pair, shown: Shown) -> str:
    named = pair.difference
    counts = [*map(int, named.n_by_finding), int(named.n_by_finding.sum())]
    rows = [
        [row, f"{count:,}", *_cells(pair.cell(row, shown.metric, shown.k))]
        for row, count in zip((*named.findings, "weighted"), counts, strict=True)
    ]
    header = ("finding", "queries", *_header(pair, "p, Holm"))
    return f"### {shown.metric_name} of each finding, {describe_zero_hits('kept')}\n\n{_table(header, rows)}"


def _header(pair: Pair, adjusted: str) -> tuple[str, ...]:
    return ("difference", "interval", "p", adjusted, pair.difference.second, pair.difference.first)


def _cells(cell: Cell) -> list[str]:
    return [
        *format_difference(cell),
        format_p(cell.p),
        format_p(cell.p_holm),
        format_value(cell.second),
        format_value(cell.first),
    ]


def _signed(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith("the ") else text


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    named = [[cell.replace("|", "\\|") for cell in cells] for cells in (header, rule, *rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in named)
