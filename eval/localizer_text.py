"""An evaluation of a localizer as Markdown: every IoU with those of the mean layouts beside it."""

from collections.abc import Iterator

from chextriev.eval.localizer import LocalizerEvaluation, Overlap, Overlaps
from chextriev.eval.markdown import DASH, format_interval, format_value, table_of


def render_localizer(evaluation: LocalizerEvaluation) -> str:
    """The text of `localizer.md`."""
    header = ("region", "IoU", "interval", *evaluation.baselines)
    rows = [
        (name, format_value(ours.mean), format_interval(ours.interval), *(format_value(each.mean) for each in others))
        for name, ours, others in _lines(evaluation)
    ]
    bins = [
        (f"{each.low:g}{DASH}{each.high:g}", f"{each.n:,}", format_value(each.expected), format_value(each.reached))
        for each in evaluation.calibration
    ]
    parts = [
        f"# Boxes of the {evaluation.source} on split `{evaluation.split}`",
        " ".join(_sentences(evaluation)),
        table_of(header, rows),
        "## Confidence: the IoU that boxes expect and reach",
        table_of(("confidence", "boxes", "expected", "reached"), bins),
        f"Mean gap {format_value(evaluation.gap)}; rank correlation of confidence and IoU"
        f" {format_value(evaluation.rank_correlation)}.",
    ]
    return "\n\n".join(parts) + "\n"


def _sentences(evaluation: LocalizerEvaluation) -> Iterator[str]:
    interval, speed = evaluation.interval, evaluation.speed
    yield (
        f"{evaluation.n_radiographs:,} radiographs of {evaluation.n_patients:,} patients; unreadable:"
        f" {evaluation.n_unreadable:,}. Mean IoU (intersection over union) with the boxes given."
    )
    yield f"Intervals: {interval.level:.0%}, {interval.draws:,} bootstrap draws of patients."
    if speed:
        yield (
            f"From decoded pixels to boxes, one radiograph at a time: median {speed['median_ms']:.1f} ms, 95th"
            f" percentile {speed['p95_ms']:.1f} ms, on {speed['machine']['cores']} cores of"
            f" {speed['machine']['cpu']}."
        )


def _lines(evaluation: LocalizerEvaluation) -> Iterator[tuple[str, Overlap, list[Overlap]]]:
    """Name of the line, the localizer's overlap and those of the baselines."""
    sources = [evaluation.localizer, *evaluation.baselines.values()]
    for name in evaluation.localizer.per_region:
        ours, *others = (source.per_region[name] for source in sources)
        yield name, ours, others
    for name, pick in (("both lungs", _lungs), ("all 18 regions", _macro)):
        ours, *others = map(pick, sources)
        yield f"**{name}**", ours, others


def _lungs(source: Overlaps) -> Overlap:
    return source.lungs


def _macro(source: Overlaps) -> Overlap:
    return source.macro
