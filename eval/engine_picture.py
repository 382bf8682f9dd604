"""The picture of quality against speed: one SVG file that needs nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from chextriev.eval.engine_comparison import EngineComparison, EngineResult, K
from chextriev.eval.engine_labels import Box, Mark, place_labels
from chextriev.pictures import read_template

TEMPLATE = "engines.svg.j2"
WIDTH, HEIGHT = 760, 460
LEFT, TOP, RIGHT, BOTTOM = 70, 56, 736, 366
"""The frame, in the picture's own pixels."""

SHAPES = {"torch": "square", "onnx": "circle", "tensorrt": "triangle"}
"""Mark of each executor, so that the picture reads without colour."""


def draw_engines(comparison: EngineComparison) -> str:
    """The SVG text: milliseconds of a radiograph (p50, logarithmic) across, AP@5 over hits up.

    The bar of an engine is the paired interval of its change against PyTorch; a mark is hollow where the engine is not
    proven on this kind of machine. An engine without a number is left out.
    """
    template = read_template("chextriev.eval", f"templates/{TEMPLATE}")
    level = f"{comparison.reference.evaluation.protocol.interval.level:.0%}"
    text: str = template.render(**_drawing(comparison), k=K, about=comparison.about, level_of_bars=level)
    return text


def _drawing(comparison: EngineComparison) -> dict[str, Any]:
    shown = [result for result in comparison.results if result.scores.measured.macro.ap_over_hits is not None]
    chance = comparison.reference.scores.chance.macro.ap_over_hits
    across = _Axis.of_speeds([result.speed.p50_ms for result in shown])
    heights = [value for result in shown for value in _heights(result)]
    up = _Axis.of_scores([*heights, *([] if chance is None else [chance])])
    points = [_point(result, across, up) for result in shown]
    level = None if chance is None else round(up.place(chance), 1)
    return {
        "frame": {"left": LEFT, "top": TOP, "right": RIGHT, "bottom": BOTTOM, "width": WIDTH, "height": HEIGHT},
        "x_ticks": [(round(across.place(value), 1), f"{value:g}") for value in across.ticks],
        "y_ticks": [(round(up.place(value), 1), f"{value:.2f}") for value in up.ticks],
        "points": _with_labels(points, level),
        "chance": level,
        "chance_value": chance,
        "level": round(up.place(_score(comparison.reference)), 1) if shown else None,
    }


def _score(result: EngineResult) -> float:
    return float(result.scores.measured.macro.ap_over_hits or 0.0)


def _heights(result: EngineResult) -> tuple[float, float, float]:
    """Score and the ends of its bar: the reference's score and the interval of the change."""
    score, (change, bounds) = _score(result), result.change_of_ap
    low, high = (change, change) if bounds is None else bounds
    return score, score - change + low, score - change + high


@dataclass(frozen=True)
class _Axis:
    """Values to places. first, last: at the ends of the frame. logarithmic: of the horizontal one."""

    first: float
    last: float
    ticks: tuple[float, ...]
    logarithmic: bool

    @classmethod
    def of_speeds(cls, values: Sequence[float]) -> "_Axis":
        """From half the least to twice the greatest, so that at least two ticks fall in."""
        low, high = min(values, default=1.0) / 2, max(values, default=1.0) * 2
        powers = range(floor(log10(low)), ceil(log10(high)) + 1)
        steps = (digit * 10.0**power for power in powers for digit in (1, 2, 5))
        return cls(low, high, tuple(step for step in steps if low <= step <= high), logarithmic=True)

    @classmethod
    def of_scores(cls, values: Sequence[float]) -> "_Axis":
        """With a tenth of room at either end."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        room = max((high - low) / 10, 0.01)
        low, high = low - room, high + room
        step = next((step for step in (0.01, 0.02, 0.05, 0.1) if (high - low) / step <= 8), 0.2)
        ticks = tuple(count * step for count in range(ceil(low / step), floor(high / step) + 1))
        return cls(low, high, ticks, logarithmic=False)

    def place(self, value: float) -> float:
        """Where a value is, in the picture's own pixels."""
        if self.logarithmic:
            share = log10(value / self.first) / log10(self.last / self.first)
            return LEFT + share * (RIGHT - LEFT)
        return BOTTOM - (value - self.first) / (self.last - self.first) * (BOTTOM - TOP)


def _point(result: EngineResult, across: _Axis, up: _Axis) -> dict[str, Any]:
    score, low, high = (round(up.place(value), 1) for value in _heights(result))
    return {
        "name": result.name,
        "x": round(across.place(result.speed.p50_ms), 1),
        "y": score,
        "low": low,
        "high": high,
        "shape": SHAPES.get(result.name.split("-")[0], "circle"),
        "filled": result.verdict in ("proven", "reference"),
        "title": f"{result.name}: AP@{K} {_score(result):.3f}, p50 {result.speed.p50_ms:.1f} ms, {result.verdict}",
    }


def _with_labels(points: Sequence[dict[str, Any]], chance: float | None) -> list[dict[str, Any]]:
    """Each point with the place of its name, which keeps off the line of chance and what is written on it."""
    bars = [Mark(point["name"], point["x"], point["y"], point["high"], point["low"]) for point in points]
    kept = [] if chance is None else [Box(LEFT, chance - 16, RIGHT, chance + 2)]
    labels = place_labels(bars, inside=Box(LEFT + 2, TOP + 2, RIGHT - 2, BOTTOM - 2), kept=kept)
    return [{**point, "label": label} for point, label in zip(points, labels, strict=True)]
