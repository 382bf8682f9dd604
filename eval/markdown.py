"""An evaluation as Markdown: every number with chance beside it."""

from collections.abc import Sequence

from chextriev.eval.evaluation import Evaluation, Interval, Measures, ScoresAtK, Scoring
from chextriev.eval.lists import ListsEvaluation
from chextriev.eval.protocol import Protocol
from chextriev.eval.remarks import remarks_on_findings

METRIC_NAMES = {
    "precision": "precision@k",
    "hit_rate": "hit rate@k",
    "rr": "RR@k",
    "ap_over_hits": "AP@k over hits",
    "ap_over_min_k_r": "AP@k over min(k,R)",
    "ap_over_r": "AP@k over R",
    "ndcg": "nDCG@k",
}
"""How people read the metrics, in the order of the tables."""

DASH = "\N{EN DASH}"


def render_markdown(evaluation: Evaluation) -> str:
    """The text of `evaluation.md`: macro averages for each k, each finding, each view."""
    parts = [
        f"# Retrieval on split `{evaluation.split}`, protocol `{evaluation.protocol.name}`",
        describe(evaluation.protocol, evaluation.overall),
        *(_macro_section(evaluation, k) for k in evaluation.protocol.ks),
        *(_finding_section(k, scores) for k, scores in evaluation.overall.at_k.items()),
        _view_section(evaluation),
    ]
    return "\n\n".join(parts) + "\n"


def render_lists(evaluation: ListsEvaluation) -> str:
    """What `chextriev eval lists` prints."""
    sentences = [
        f"Protocol {evaluation.protocol.name}, {evaluation.n_queries:,} queries;",
        f"with fewer than the largest k left: {evaluation.n_short:,};",
        f"lists that hold their own query: {evaluation.n_own:,}.",
        "Chance: exact expectation for random order.",
        *map(_sentence, evaluation.remarks),
    ]
    parts = ["# Ranked lists", " ".join(sentences)]
    parts += [_finding_section(k, scores) for k, scores in evaluation.at_k.items()]
    return "\n\n".join(parts)


def describe(protocol: Protocol, scoring: Scoring) -> str:
    """The population and the rules in words."""
    nothing = "the first of each list, whatever it is" if protocol.drop_first else "nothing"
    excluded = "the query itself" if protocol.exclude_self else nothing
    excluded = "the query and every image of its patient" if protocol.exclude_same_patient else excluded
    zero_hits = "count as 0" if protocol.keep_zero_hit_queries else "are left out"
    interval = protocol.interval
    sentences = [
        f"{scoring.n_queries:,} queries of {scoring.n_patients:,} patients among {scoring.n_gallery:,} radiographs"
        f" by exact cosine search, leaving out {excluded}.",
        f"Queries without a hit {zero_hits}; queries with fewer candidates than the largest k: {scoring.n_short:,}.",
        f"Intervals: {interval.level:.0%}, {interval.draws:,} bootstrap draws of patients.",
        "Chance: exact expectation for random order.",
    ]
    return " ".join([*sentences, *map(_sentence, remarks_on_findings(protocol, scoring.at_k))])


def format_value(value: float | None) -> str:
    """Three decimals, or a dash where there is nothing to measure."""
    return DASH if value is None else f"{value:.3f}"


def format_interval(bounds: Interval) -> str:
    """Both bounds, or a dash."""
    return DASH if bounds is None else f"{bounds[0]:.3f}{DASH}{bounds[1]:.3f}"


def _sentence(remark: str) -> str:
    return f"{remark[0].upper()}{remark[1:]}."


def _macro_section(evaluation: Evaluation, k: int) -> str:
    scores = evaluation.overall.at_k[k]
    rows = [
        (
            label,
            format_value(getattr(scores.measured.macro, name)),
            format_interval(scores.interval[name]),
            format_value(getattr(scores.chance.macro, name)),
        )
        for name, label in METRIC_NAMES.items()
    ]
    heading = f"## k = {k}: macro average over {scores.measured.n_classes} findings"
    return f"{heading}\n\n{table_of(('metric', 'measured', 'interval', 'chance'), rows)}"


def _finding_section(k: int, scores: ScoresAtK) -> str:
    measured, chance = scores.measured, scores.chance
    rows = [_measures_row(name, each, chance.per_finding[name]) for name, each in measured.per_finding.items()]
    rows += [
        _measures_row(f"macro over {measured.n_classes}", measured.macro, chance.macro),
        _measures_row("weighted by positives", measured.weighted, chance.weighted),
        _measures_row("micro", measured.micro, chance.micro),
    ]
    graded = scores.graded
    text = f"nDCG@{k} graded by shared findings (Jaccard): {format_value(graded.value)} ({format_value(graded.chance)})"
    header = ("finding", "n", *METRIC_NAMES.values())
    return f"## k = {k}: each finding (chance in brackets)\n\n{table_of(header, rows)}\n\n{text}."


def _measures_row(name: str, measured: Measures, chance: Measures) -> tuple[str, ...]:
    pairs = (f"{_cell(measured, metric)} ({_cell(chance, metric)})" for metric in METRIC_NAMES)
    return (name, str(measured.n), *pairs)


def _view_section(evaluation: Evaluation) -> str:
    rows = []
    for view, scoring in evaluation.views.items():
        for k, scores in scoring.at_k.items():
            pair = (_cell(scores.measured.macro, "precision"), _cell(scores.chance.macro, "precision"))
            counts = (str(scoring.n_queries), str(scores.measured.n_classes))
            rows.append((view, str(k), *counts, *pair))
    rows += [(view, DASH, told, DASH, DASH, DASH) for view, told in evaluation.views_withheld.items()]
    header = ("view", "k", "queries", "findings", "precision@k", "chance")
    return f"## Queries and gallery of one view (macro)\n\n{table_of(header, rows)}"


def _cell(measures: object, name: str) -> str:
    return format_value(getattr(measures, name))


def table_of(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    numeric = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, numeric, *rows))
