"""The picture of recall against speed: one SVG file that needs nothing else."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from typing import Any

from chextriev.pictures import Axis, read_template

TEMPLATE = "recall.svg.j2"
PANEL_WIDTH, PANEL_HEIGHT, LEFT, TOP = 360, 280, 76, 76
ACROSS, DOWN = 480, 370
MEASURES = {
    "queries_per_s": "queries/s, all in one call (logarithmic)",
    "single_p50_ms": "ms, one query a call, p50 (logarithmic)",
}


def draw_recall(content: Mapping[str, Any]) -> str:
    """The SVG text of what `bench_index` found: of each case of the most vectors, speed against recall."""
    template = read_template("chextriev.index.bench", TEMPLATE)
    most = max(case["n"] for case in content["cases"])
    shown = [case for case in content["cases"] if case["n"] == most]
    text: str = template.render(
        width=2 * ACROSS,
        height=TOP + DOWN * len(shown) + 30,
        panels=[
            _panel(case, measure, content["settings"], (LEFT + ACROSS * column, TOP + DOWN * row))
            for row, case in enumerate(shown)
            for column, measure in enumerate(MEASURES)
        ],
        n=most,
        dimensions=shown[0]["width"],
        recall=content["settings"]["recall"],
        machine=content["machine"],
    )
    return text


def _panel(
    case: Mapping[str, Any], measure: str, settings: Mapping[str, Any], corner: tuple[int, int]
) -> dict[str, Any]:
    name = f"ann_recall@{settings['k']}"
    curves = {kind: _front(each["curve"], name, measure) for kind, each in case["candidates"].items()}
    points = [point for curve in curves.values() for point in curve]
    left, top = corner
    across = Axis((min(0.9, *(point[0] for point in points)) - 0.01, 1.002), (left, left + PANEL_WIDTH))
    values = [point[1] for point in points]
    up = Axis((min(values) / 1.5, max(values) * 1.5), (top + PANEL_HEIGHT, top), logarithmic=True)
    powers = range(floor(log10(up.values[0])), ceil(log10(up.values[1])) + 1)
    digits = (1,) if len(powers) > 4 else (1, 2, 5)
    return {
        "box": {"left": left, "top": top, "right": left + PANEL_WIDTH, "bottom": top + PANEL_HEIGHT},
        "title": f"{case['vectors']}",
        "x_ticks": across.ticks((0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0), "{:g}"),
        "y_ticks": up.ticks((digit * 10.0**power for power in powers for digit in digits), "{:,g}"),
        "asked": across.place(settings["recall"]),
        "across": name,
        "up": MEASURES[measure],
        "lines": [
            _line(place, kind, curve, (across, up)) for place, (kind, curve) in enumerate(curves.items()) if curve
        ],
    }


def _front(curve: Sequence[Mapping[str, Any]], name: str, measure: str) -> list[tuple[float, float]]:
    """The settings that no other one beats in both, by rising recall."""
    sign = -1 if measure.endswith("_ms") else 1
    front: list[tuple[float, float]] = []
    for each in sorted(curve, key=lambda each: (-each[name], -sign * each[measure])):
        if not front or sign * each[measure] > sign * front[-1][1]:
            front.append((each[name], each[measure]))
    return front[::-1]


def _line(place: int, kind: str, curve: Sequence[tuple[float, float]], axes: tuple[Axis, Axis]) -> dict[str, Any]:
    points = [
        {"x": axes[0].place(recall), "y": axes[1].place(value), "title": f"{kind}: recall {recall:.4f}, {value:,.3g}"}
        for recall, value in curve
    ]
    return {"name": kind, "style": f"line{place}", "points": points}
