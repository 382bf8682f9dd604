"""Ready sections of a report: groups of queries, what the view alone reaches, significance, and occlusion."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from chextriev.encoder import Encoder
from chextriev.eval.cases import Case, Neighbour
from chextriev.eval.compare import Comparison, Pair
from chextriev.eval.compare_picture import draw_compare
from chextriev.eval.compare_text import Shown, format_difference, format_p
from chextriev.eval.evaluation import Evaluation
from chextriev.eval.markdown import DASH, METRIC_NAMES, format_interval, format_value
from chextriev.eval.occlusion_picture import draw_occlusion
from chextriev.eval.occlusion_result import MEASURES, Change, Effect, OcclusionStudy
from chextriev.eval.occlusion_table import describe_occlusion, format_change, remarks
from chextriev.eval.protocol import MIN_QUERIES
from chextriev.eval.region_pairs import split_cases
from chextriev.eval.region_pairs_picture import draw_pairs
from chextriev.eval.report_content import ReportContent, Section, Table
from chextriev.eval.strata import Strata
from chextriev.study_table import StudyTable


def all_sections(content: ReportContent) -> list[Section]:
    """What the evaluations themselves hold of groups and views, then the sections that were handed in."""
    labels = [label for label, _ in content.rows]
    evaluations = [evaluation for _, evaluation in content.rows]
    own = [*_strata(labels, evaluations, content), *_view_baseline(labels, evaluations, content.shown_k)]
    return [*own, *content.sections]


def comparison_section(comparison: Comparison, shown: Shown) -> Section:
    """Effects and intervals of each pair of systems first, then p and the verdicts over the conventions of AP."""
    settings = comparison.settings
    text = (
        f"Differences on the same queries; above 0 the first-named system is better. Intervals: {settings.level:.0%},"
        f" {settings.draws:,} bootstrap draws of patients; p by swapping the systems for random patients, adjusted by"
        " Holm. Not distinguishable does not mean equal."
    )
    return Section(
        title="Whether the systems differ",
        text="\n\n".join(
            [text, *(f"By the six conventions of AP: {pair.verdict(shown.k)}." for pair in comparison.pairs)]
        ),
        tables=[_pair(pair, shown) for pair in comparison.pairs],
        svg=draw_compare(comparison, shown),
        data=comparison.as_dict(),
    )


def occlusion_section(study: OcclusionStudy, *, measure: str = MEASURES[0]) -> Section:
    """What hiding a group of regions does to each finding; measure: a name of `MEASURES`."""
    name = METRIC_NAMES[measure].replace("@k", f"@{study.k}")
    tables = [
        Table(
            ("hidden", *study.findings, "macro average"),
            [
                (group, *(_change(effect, measure) for effect in (*effects.per_finding.values(), effects.macro)))
                for group, effects in groups.items()
            ],
            f"Change of {name}, regions hidden in the {side} (interval)",
        )
        for side, groups in study.sides.items()
    ]
    sentences = "; ".join(remarks(study))
    return Section(
        title="Which region matters for which finding",
        text=f"{describe_occlusion(study)}\n\n{sentences[:1].upper()}{sentences[1:]}.",
        tables=tables,
        svg=draw_occlusion(study, measure=measure),
        data=study.as_dict(),
    )


def with_region_pairs(cases: Iterable[Case], encoder: Encoder, table: StudyTable) -> tuple[Case, ...]:
    """The cases with a picture of which pairs of regions set each neighbour apart from the others that are shown.

    Where a case has one neighbour alone, the picture splits its whole score.
    """
    return tuple(_with_pairs(case, encoder, table) for case in cases)


def _with_pairs(case: Case, encoder: Encoder, table: StudyTable) -> Case:
    query = table.radiograph(table.row_of(case.query.image_id))
    found = [table.radiograph(table.row_of(each.picture.image_id)) for each in case.neighbours]
    pairs = split_cases(encoder, query, found)
    drawn: list[Neighbour] = []
    for place, neighbour in enumerate(case.neighbours):
        others = [each for other, each in enumerate(pairs) if other != place]
        shown = pairs[place].above(others) if others else pairs[place]
        picture = draw_pairs(shown, case.query, neighbour.picture)
        drawn.append(replace(neighbour, picture_of_similarity=picture))
    return replace(case, neighbours=tuple(drawn))


def _strata(labels: Sequence[str], evaluations: Sequence[Evaluation], content: ReportContent) -> Iterable[Section]:
    held = [evaluation.strata for evaluation in evaluations if evaluation.strata is not None]
    if len(held) < len(labels):
        return
    metric, k = content.metric, content.shown_k
    yield Section(
        title=f"Groups of queries: {METRIC_NAMES[metric].replace('@k', f'@{k}')}",
        text=(
            "Macro averages of each group, each query against the whole gallery; intervals in brackets. Groups under"
            f" {MIN_QUERIES} queries, and groups that would give their size away, are withheld."
        ),
        tables=[_stratum(stratum, labels, held, metric, k) for stratum in held[0].strata],
    )


def _stratum(stratum: str, labels: Sequence[str], held: Sequence[Strata], metric: str, k: int) -> Table:
    rows = []
    for name, first in held[0].strata[stratum].items():
        groups = [strata.strata[stratum][name] for strata in held]
        if not all(group.at_k for group in groups):
            rows.append((name, first.size, *[DASH] * (len(labels) + 3)))
            continue
        scores = [group.at_k[k] for group in groups]
        cells = [f"{format_value(each.measured[metric])} ({format_interval(each.interval[metric])})" for each in scores]
        counts = (f"{first.n_patients:,}", str(scores[0].n_classes))
        rows.append((name, first.size, *counts, *cells, format_value(scores[0].chance[metric])))
    return Table((stratum, "queries", "patients", "findings", *labels, "chance"), rows)


def _view_baseline(labels: Sequence[str], evaluations: Sequence[Evaluation], k: int) -> Iterable[Section]:
    held = [evaluation.view_baseline for evaluation in evaluations if evaluation.view_baseline is not None]
    if len(held) < len(labels):
        return
    rows = [
        (
            name.replace("@k", f"@{k}"),
            *(format_value(each.system[k][metric]) for each in held),
            format_value(held[0].view_only[k][metric]),
            format_value(held[0].chance[k][metric]),
        )
        for metric, name in METRIC_NAMES.items()
    ]
    yield Section(
        title="What the view alone would reach",
        text=(
            "A ranking that knows only the view puts the candidates of the query's view first, in random order, and"
            " then the others. A system has to beat it and not chance alone. Macro averages."
        ),
        tables=[Table(("metric", *labels, "by view alone", "chance"), rows)],
    )


def _pair(pair: Pair, shown: Shown) -> Table:
    """Of each finding and the averages."""
    difference = pair.difference
    rows = []
    for name in (*difference.findings, "macro", "weighted"):
        cell = pair.cell(name, shown.metric, shown.k)
        told = (*format_difference(cell), format_p(cell.p), format_p(cell.p_holm))
        rows.append((name, *told, format_value(cell.second), format_value(cell.first)))
    header = ("finding", "difference", "interval", "p", "p, Holm", difference.second, difference.first)
    return Table(header, rows, f"{shown.metric_name}: {difference.second} less {difference.first}")


def _change(effect: Effect, measure: str) -> str:
    if not effect.changes:
        return DASH
    change: Change = effect.changes[measure]
    low, high = map(format_change, change.interval)
    return f"{format_change(change.change)} ({low} to {high}){' *' if change.is_clear else ''}"
