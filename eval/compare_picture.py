"""The differences of a comparison as a forest plot: one SVG file that needs nothing else."""

from math import ceil, floor
from typing import Any

from chextriev.eval.compare import Cell, Comparison, Pair
from chextriev.eval.compare_text import MINUS, Shown, describe_zero_hits, format_difference
from chextriev.pictures import Axis, read_template

TEMPLATE = "compare.svg.j2"
WIDTH, LEFT, RIGHT = 860, 254, 616
"""Of the picture and of the frame in it, in the picture's own pixels."""
TOP, ROW, HEAD, FOOT = 58, 22, 40, 46
"""Above the first panel; of a row; of a panel's head and of its scale."""


def draw_compare(comparison: Comparison, shown: Shown) -> str:
    """The SVG text: a panel a pair, a row a finding, the averages below; a filled mark where the row is decided.

    Queries without a hit are kept. All panels have one scale, 0 included.
    """
    shown.check(comparison)
    axis, ticks = _scale([cell for pair in comparison.pairs for _, cell in _rows(pair, shown)])
    height = HEAD + ROW * len(_rows(comparison.pairs[0], shown)) + FOOT
    one = comparison.pairs[0].difference
    text: str = read_template("chextriev.eval", f"templates/{TEMPLATE}").render(
        panels=[
            _panel(pair, shown, axis, TOP + place * height) | {"ticks": ticks}
            for place, pair in enumerate(comparison.pairs)
        ],
        frame={"width": WIDTH, "height": TOP + height * len(comparison.pairs) + 24, "left": LEFT, "right": RIGHT},
        zero=axis.place(0.0),
        title=f"{shown.metric_name}, {describe_zero_hits('kept')}",
        about=f"{one.n_queries:,} queries of {one.n_patients:,} patients; bars: {one.settings.level:.0%} intervals,"
        " patients drawn",
    )
    return text


def _rows(pair: Pair, shown: Shown) -> list[tuple[str, Cell]]:
    names = (*pair.difference.findings, "macro", "weighted")
    return [(name, pair.cell(name, shown.metric, shown.k)) for name in names]


def _scale(cells: list[Cell]) -> tuple[Axis, list[tuple[float, str]]]:
    """From the least to the greatest bound with a little room, and at least 0.01 to either side of 0."""
    values = [value for cell in cells for value in (cell.effect, *(cell.interval or ())) if value is not None]
    low, high = min([-0.01, *values]), max([0.01, *values])
    room = (high - low) / 20
    low, high = low - room, high + room
    step = next((step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / step <= 8), 0.5)
    axis = Axis((low, high), (LEFT, RIGHT))
    counts = range(ceil(low / step), floor(high / step) + 1)
    form = "{:+.3f}" if step < 0.01 else "{:+.2f}"
    ticks = axis.ticks([count * step for count in counts], form)
    return axis, [(place, _zero_or(text)) for place, text in ticks]


def _panel(pair: Pair, shown: Shown, axis: Axis, top: int) -> dict[str, Any]:
    rows = _rows(pair, shown)
    averages_from = len(pair.difference.findings)
    level = pair.difference.settings.level
    marks = [
        {
            "name": name,
            "y": top + HEAD + ROW * place + ROW // 2,
            "x": None if cell.effect is None else axis.place(cell.effect),
            "bar": None if cell.interval is None else [axis.place(bound) for bound in cell.interval],
            "text": "{} ({})".format(*format_difference(cell)),
            "decided": cell.is_decided(level),
            "average": place >= averages_from,
        }
        for place, (name, cell) in enumerate(rows)
    ]
    named = pair.difference
    bottom = top + HEAD + ROW * len(rows)
    return {
        "top": top + HEAD - 4,
        "bottom": bottom,
        "rule": top + HEAD + ROW * averages_from,
        "head": top + 14,
        "title": f"{named.second} less {named.first}",
        "first": named.first,
        "second": named.second,
        "rows": marks,
    }


def _zero_or(text: str) -> str:
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)
