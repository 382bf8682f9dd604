"""The figures of a report, drawn from its JSON twin: SVG text that stands by itself or inline in a page.

A system has a colour and a shape, which also tell it in grey; chance is dashed. The pictures have no ids, and their
style sheet reaches nothing but themselves, so that several can stand in one page, which may set their ink for the dark.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from math import ceil, floor
from typing import Any

from chextriev.errors import InvalidSetting, InvalidValue
from chextriev.eval.markdown import DASH, METRIC_NAMES, format_interval, format_value
from chextriev.eval.protocol import MIN_QUERIES
from chextriev.eval.report_twin import Twin, lines_at_k, metric_name
from chextriev.index.bench.picture import draw_recall
from chextriev.pictures import Axis, read_template

FINDINGS_TEMPLATE, CURVE_TEMPLATE = "report_findings.svg.j2", "report_curve.svg.j2"
STYLE = "report_figure.css"

OVER_K = ("ap_over_hits", "ap_over_min_k_r", "precision")
"""Metrics that a report shows against k."""

SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.6 -3.6h7.2v7.2h-7.2z",
    "M0 -5.2l5.2 5.2l-5.2 5.2l-5.2 -5.2z",
    "M0 -5l5 8.6h-10z",
    "M0 5l5 -8.6h-10z",
    "M-1.6 -4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z",
)
"""Circle, square, diamond, triangle, the same on its head, cross; around 0, 0. Systems after the sixth are hollow."""

WIDTH = 460
"""Of the bars' picture, in its own pixels."""
BARS = (8, 400)
"""Where 0 and the end of the scale are."""
TOP, LEGEND, NAME, BAR, SPACE = 30, 18, 18, 12, 9
"""Heights: the title, a line of the legend, the name of a finding, a bar, what stands between findings."""

PANEL_WIDTH, PLOT_HEIGHT, PLOT = 400, 210, (46, 384)
"""Of a curve's picture, its plot's height, and where the plot begins and ends."""
DODGE = 4
"""Between the marks of systems at one k, so that their intervals can be told apart."""


def draw_findings(twin: Twin, *, k: int, metric: str) -> str:
    """The SVG text: of each finding and of the macro average a bar a system with its interval, and chance.

    InvalidSetting for a k or a metric that the report does not have.
    """
    _check(twin, metric, k)
    lines = [line for line in lines_at_k(twin, metric, k) if not line["is_average"] or line["name"] == "macro average"]
    labels = list(twin["systems"])
    axis = Axis((0.0, _end(lines)), BARS)
    y = TOP + LEGEND * (len(labels) + 1) + 8
    rows = []
    for line in lines:
        rows.append(_finding(line, labels, axis, y))
        y = rows[-1]["end"]
    text: str = _template(FINDINGS_TEMPLATE).render(
        style=_style(),
        title=f"{metric_name(metric, k)} of each finding",
        about="; ".join(row["spoken"] for row in rows),
        legend=_legend(labels, BARS[0] + 5),
        rows=rows,
        ticks=axis.ticks(_steps(0.0, axis.values[1]), "{:g}"),
        size=(WIDTH, y + 22),
        top=TOP + LEGEND * (len(labels) + 1),
        bottom=y,
        bars=BARS,
    )
    return text


def draw_over_k(twin: Twin, *, metric: str) -> str:
    """The SVG text: the macro average of a metric against k, a line a system with its intervals, and chance."""
    _check(twin, metric, twin["ks"][0])
    labels = list(twin["systems"])
    at_ks = {k: _macro(twin, metric, k) for k in twin["ks"]}
    top = TOP + LEGEND * (len(labels) + 1) + 6
    low, high = _range(at_ks.values())
    across, up = _k_axis(twin["ks"], len(labels)), Axis((low, high), (top + PLOT_HEIGHT, top))
    text: str = _template(CURVE_TEMPLATE).render(
        style=_style(),
        title=f"{METRIC_NAMES[metric]}, macro average",
        about="; ".join(f"k = {k}: {_spoken(line, labels)}" for k, line in at_ks.items()),
        legend=_legend(labels, PLOT[0] + 5),
        lines=[_line(place, label, at_ks, (across, up), len(labels)) for place, label in enumerate(labels)],
        chance=[
            {"x": across.place(k), "y": up.place(line["chance"]), "title": f"chance at k = {k}: {line['chance']:.3f}"}
            for k, line in at_ks.items()
            if line["chance"] is not None
        ],
        x_ticks=across.ticks(twin["ks"], "{}"),
        y_ticks=up.ticks(_steps(low, high), "{:g}"),
        size=(PANEL_WIDTH, top + PLOT_HEIGHT + 42),
        plot={"left": PLOT[0], "right": PLOT[1], "top": top, "bottom": top + PLOT_HEIGHT},
    )
    return text


def draw_bench(twin: Twin) -> str | None:
    """The SVG text of recall against latency and speed of the index, None where the report has no such measurement."""
    return None if twin["bench"] is None else draw_bench_content(twin["bench"])


def draw_bench_content(bench: Mapping[str, Any]) -> str:
    """The same of what `chextriev bench index` wrote; InvalidValue where it is something else."""
    try:
        return draw_recall(bench)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InvalidValue(
            f"not a measurement of an index ({type(error).__name__}: {error}); give the file that"
            " `chextriev bench index` wrote"
        ) from error


@cache
def _template(name: str) -> Any:
    """Compiled once: a report draws a figure a metric."""
    return read_template("chextriev.eval", f"templates/{name}")


def _style() -> str:
    return files("chextriev.eval").joinpath(f"templates/{STYLE}").read_text().strip()


def _check(twin: Twin, metric: str, k: int) -> None:
    if metric not in METRIC_NAMES:
        raise InvalidSetting(f"no metric {metric!r}; choose one of {', '.join(METRIC_NAMES)}")
    if k not in twin["ks"]:
        raise InvalidSetting(f"k = {k} was not evaluated; choose one of {', '.join(map(str, twin['ks']))}")


def _legend(labels: Sequence[str], x: int) -> dict[str, Any]:
    entries = [{"y": TOP + LEGEND * place, "label": label, **_look(place)} for place, label in enumerate(labels)]
    return {"x": x, "entries": entries, "chance": TOP + LEGEND * len(labels)}


def _look(place: int) -> dict[str, Any]:
    hollow = place // len(SHAPES) % 2 == 1
    return {"shape": SHAPES[place % len(SHAPES)], "style": f"s{place % len(SHAPES)}{' hollow' if hollow else ''}"}


def _finding(line: Mapping[str, Any], labels: Sequence[str], axis: Axis, y: int) -> dict[str, Any]:
    """The name, the bars with their intervals and chance of one finding; words alone where there is no query."""
    measured = any(value is not None for value, _ in line["cells"]) and (any(line["n"]) or line["is_average"])
    first = y + NAME
    bars = [
        {
            "y": first + BAR * place,
            "title": f"{label}, {line['name']}: {format_value(value)} ({format_interval(interval)})",
            "text": format_value(value),
            "x": None if value is None else axis.place(value),
            "interval": None if interval is None else [axis.place(bound) for bound in interval],
            **_look(place),
        }
        for place, (label, (value, interval)) in enumerate(zip(labels, line["cells"], strict=True))
        if measured
    ]
    end = first + BAR * len(bars)
    chance = line["chance"]
    return {
        "name": line["name"],
        "note": _note(line, measured),
        "is_average": line["is_average"],
        "y": y + 12,
        "bars": bars,
        "first": first,
        "last": end,
        "end": end + (SPACE if bars else 4),
        "chance": None if chance is None or not measured else axis.place(chance),
        "chance_title": f"chance, {line['name']}: {format_value(chance)}",
        "spoken": f"{line['name']}: {_spoken(line, labels) if measured else 'no query'}",
    }


def _note(line: Mapping[str, Any], measured: bool) -> str:
    if line["is_average"]:
        return ""
    if not measured:
        return "no query has it" if any(value is None for value, _ in line["cells"]) else "no query has it: counts as 0"
    counted = " / ".join(f"{n:,}" for n in dict.fromkeys(line["n"]))
    few = f", fewer than {MIN_QUERIES}: says little" if min(line["n"]) < MIN_QUERIES else ""
    return f"n = {counted}{few}"


def _spoken(line: Mapping[str, Any], labels: Sequence[str]) -> str:
    told = [
        f"{label} {format_value(value)}" + (f" ({format_interval(interval)})" if interval else "")
        for label, (value, interval) in zip(labels, line["cells"], strict=True)
    ]
    return ", ".join([*told, f"chance {format_value(line['chance'])}"]).replace(DASH, "-")


def _macro(twin: Twin, metric: str, k: int) -> Mapping[str, Any]:
    return next(line for line in lines_at_k(twin, metric, k) if line["is_average"])


def _line(
    place: int, label: str, at_ks: Mapping[int, Mapping[str, Any]], axes: tuple[Axis, Axis], systems: int
) -> dict[str, Any]:
    """The points of a system from left to right, a little beside their k."""
    across, up = axes
    aside = DODGE * (place - (systems - 1) / 2)
    points = []
    for k, line in at_ks.items():
        value, interval = line["cells"][place]
        if value is not None:
            bounds = None if interval is None else [up.place(bound) for bound in interval]
            title = f"{label} at k = {k}: {value:.3f} ({format_interval(interval)})"
            x = round(across.place(k) + aside, 1)
            points.append({"x": x, "y": up.place(value), "bounds": bounds, "title": title})
    return {"points": points, **_look(place)}


def _k_axis(ks: Sequence[int], systems: int) -> Axis:
    """Room at both ends for the marks of all systems; one k alone stands in the middle."""
    room = 14 + DODGE * systems / 2
    ends = (float(ks[0]), float(ks[-1])) if len(ks) > 1 else (ks[0] - 1.0, ks[0] + 1.0)
    return Axis(ends, (PLOT[0] + room, PLOT[1] - room))


def _values(lines: Iterable[Mapping[str, Any]]) -> list[float]:
    """All that has to fit on the scale."""
    found = []
    for line in lines:
        cells = [value for value, _ in line["cells"]] + [line["chance"]]
        cells += [bound for _, interval in line["cells"] for bound in interval or ()]
        found += [value for value in cells if value is not None]
    return found


def _end(lines: Iterable[Mapping[str, Any]]) -> float:
    """The end of a scale from 0."""
    most = max(_values(lines), default=1.0)
    return next((end for end in (0.05, 0.1, 0.2, 0.3, 0.5, 0.75) if most <= end), 1.0)


def _range(lines: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """Whole steps around all values, within 0..1."""
    values = _values(lines) or [0.0, 1.0]
    step = _step(max(values) - min(values))
    low, high = floor(min(values) / step) * step, ceil(max(values) / step) * step
    low = max(0.0, min(low, 1.0 - step))  # where every value is 1, the step below it
    return low, min(1.0, max(high, low + step))


def _step(span: float) -> float:
    return next((step for step in (0.005, 0.01, 0.02, 0.05, 0.1) if span / step <= 6), 0.2)


def _steps(low: float, high: float) -> list[float]:
    step = _step(high - low)
    return [round(count * step, 4) for count in range(round(low / step), floor(high / step + 1e-9) + 1)]
