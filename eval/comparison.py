"""Systems side by side on the same queries, with chance as one of them."""

from collections.abc import Sequence
from typing import Any

from chextriev.eval.evaluation import Evaluation
from chextriev.eval.markdown import METRIC_NAMES, format_interval, format_value

Row = tuple[str, Evaluation]


def render_comparison(rows: Sequence[Row]) -> str:
    """A Markdown table: a line for each metric and k, a column for each system with its interval, and chance."""
    labels = [f"{label} ({evaluation.protocol.interval.level:.0%} interval)" for label, evaluation in rows]
    head = ["macro over findings", *labels, "chance"]
    lines = [_line(head), _line(["---"] * len(head))]
    for k in rows[0][1].protocol.ks:
        systems = [evaluation.overall.at_k[k] for _, evaluation in rows]
        for metric, name in METRIC_NAMES.items():
            cells = [
                f"{format_value(getattr(at_k.measured.macro, metric))} ({format_interval(at_k.interval[metric])})"
                for at_k in systems
            ]
            chance = format_value(getattr(systems[0].chance.macro, metric))
            lines.append(_line([name.replace("@k", f"@{k}"), *cells, chance]))
    return "\n".join(lines)


def comparison_as_dict(rows: Sequence[Row]) -> dict[str, Any]:
    """The evaluations by label, and the ids of the queries, which are the same for all."""
    return {
        "systems": {label: evaluation.as_dict() for label, evaluation in rows},
        "query_ids": sorted(rows[0][1].lists.query_ids.tolist()),
    }


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
