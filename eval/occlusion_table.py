"""An occlusion study as Markdown: for each side what hiding a group does to the averages, then to each finding."""

from collections.abc import Sequence

from chextriev.eval.markdown import DASH, METRIC_NAMES, format_value
from chextriev.eval.occlusion_result import MEASURES, METHODS, Change, Effect, OcclusionStudy
from chextriev.eval.protocol import MIN_QUERIES

MINUS = "\N{MINUS SIGN}"


def render_occlusion(study: OcclusionStudy) -> str:
    """The text of `occlusion.md`."""
    what = {"pixels": "Regions black in the radiograph", "vectors": "Region vectors left out of the mean"}[study.method]
    parts = [
        f"# {what}, split `{study.split}`, k = {study.k}",
        describe_occlusion(study),
        *(_side(study, side) for side in study.sides),
        "\n".join(f"- {sentence}" for sentence in remarks(study)),
    ]
    return "\n\n".join(parts) + "\n"


def describe_occlusion(study: OcclusionStudy) -> str:
    """The population and the method in words."""
    interval = study.protocol.interval
    return (
        f"{study.n_queries:,} queries of {study.n_patients:,} patients among {study.n_gallery:,} radiographs by exact"
        f" cosine search, leaving out every image of the query's patient. Hidden: {METHODS[study.method]}. A negative"
        f" change is a loss: the region matters. Intervals: {interval.level:.0%}, {interval.draws:,} paired bootstrap"
        f" draws of patients."
    )


def remarks(study: OcclusionStudy) -> list[str]:
    """What has to be known to read the numbers."""
    few = [f"{name} ({n})" for name, n in study.findings.items() if n < MIN_QUERIES]
    sentences = [
        f"macro: the mean over the {study.n_scored} findings with at least {MIN_QUERIES} queries",
        *([f"not scored, fewer than {MIN_QUERIES} queries: {', '.join(few)}"] if few else []),
        "* the interval leaves out 0; intervals are not corrected for their number, so some do so by chance",
        "hidden and visible radiographs are paired by image id; the published code pairs them by position after a"
        " shuffle",
    ]
    if study.method == "pixels":
        sentences += [
            "crops: how many of the 18 crops lose pixels; groups overlap, and a larger box takes more of the picture,"
            " so groups do not compare without their extent",
            "a radiograph with a black part is unlike those the encoder has learned from, and such radiographs are like"
            " each other: a gain for a frequent finding may be no more than that",
        ]
    return sentences


def format_change(change: float) -> str:
    """With its sign, in three decimals."""
    text = f"{change:+.3f}".replace("-", MINUS)
    return text.lstrip("+" + MINUS) if text[1:] == "0.000" else text


def _side(study: OcclusionStudy, side: str) -> str:
    tables = [_averages(study, side), *(_by_finding(study, side, measure) for measure in MEASURES)]
    return "\n\n".join([f"## Hidden in the {side}", *tables])


def _averages(study: OcclusionStudy, side: str) -> str:
    header = ["group", "pixels hidden", "crops", *(f"macro {_name(study, measure)} (change)" for measure in MEASURES)]
    rows = [["nothing", DASH, DASH, *(format_value(study.visible(None, measure)) for measure in MEASURES)]]
    for group, effects in study.sides[side].items():
        extent = study.extents[group]
        changes = [_with_interval(effects.macro.changes[measure]) for measure in MEASURES]
        rows.append([group, f"{extent.pixels:.0%}", f"{extent.crops:.1f}", *changes])
    return _table(header, rows)


def _by_finding(study: OcclusionStudy, side: str, measure: str) -> str:
    header = [f"change of {_name(study, measure)}", *(f"{name} ({n})" for name, n in study.findings.items()), "macro"]
    visible = [study.visible(name, measure) for name in (*study.findings, None)]
    rows = [["nothing hidden", *map(format_value, visible)]]
    for group, effects in study.sides[side].items():
        rows.append([group, *(_cell(effect, measure) for effect in (*effects.per_finding.values(), effects.macro))])
    return _table(header, rows)


def _cell(effect: Effect, measure: str) -> str:
    if not effect.changes:
        return DASH
    change = effect.changes[measure]
    return format_change(change.change) + (" *" if change.is_clear else "")


def _with_interval(change: Change) -> str:
    low, high = map(format_change, change.interval)
    return f"{format_value(change.hidden)} ({format_change(change.change)}, {low} to {high})"


def _name(study: OcclusionStudy, measure: str) -> str:
    return METRIC_NAMES[measure].replace("@k", f"@{study.k}")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
