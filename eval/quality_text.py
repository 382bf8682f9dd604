"""The table of a quality study for people."""

from chextriev.eval.quality_study import CopyRow, OthersRow, QualityStudy


def render_quality(study: QualityStudy) -> str:
    """Markdown."""
    lines = [
        f"{study.rows[0].n} radiographs of the {study.split} split, each as it is and changed.",
        f"The check was fitted to {study.source}.",
        "",
        "| image | expected | refused | for that reason | with boxes | median score |",
        "|---|---|--:|--:|--:|--:|",
        *(_line(row) for row in study.rows),
        "",
        *(_others_line(row) for row in study.others),
        *(f"refused as it is: {name}: {reason}" for name, reason in study.refused_ids),
    ]
    return "\n".join(lines).rstrip()


def _line(row: CopyRow) -> str:
    named, boxed = (_percent(value) for value in (row.named, row.with_boxes))
    return f"| {row.name} | {row.expected or 'none'} | {_percent(row.refused)} | {named} | {boxed} | {row.median:.2f} |"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _others_line(row: OthersRow) -> str:
    passed = f"; not refused: {', '.join(row.passed)}" if row.passed else ""
    return f"{row.folder}: {row.refused} of {row.n} pictures of other things refused{passed}"
