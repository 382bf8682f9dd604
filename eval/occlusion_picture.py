"""The picture of an occlusion study: a heat map of groups and findings, and the regions where they lie, a side a panel.

A loss is blue and the darker the greater; a gain is orange, lighter and hatched, so that grey prints tell them apart,
and each number has its sign.
"""

from collections.abc import Mapping
from typing import Any

from chextriev.anatomy import Region
from chextriev.errors import InvalidSetting, UnknownFinding
from chextriev.eval.markdown import METRIC_NAMES, format_value
from chextriev.eval.occlusion_groups import GROUPS
from chextriev.eval.occlusion_result import MEASURES, Effect, OcclusionStudy
from chextriev.eval.occlusion_table import format_change
from chextriev.eval.protocol import MIN_QUERIES
from chextriev.pictures import Axis, read_template

TEMPLATE = "occlusion.svg.j2"
NAMES, CELL, ROW, GAP = 138, 86, 26, 10
"""Widths of the column of names and of a cell, height of a row, and what stands before the macro average."""

HEADER, TOP, BETWEEN = 84, 66, 24
SKETCH = 330
"""Width of the sketch; heights of what stands over a heat map, over the first panel and between panels."""

LOSS, NONE, GAIN = (8, 64, 129), (247, 247, 247), (230, 145, 56)
"""Red, green and blue of the greatest loss, of no change and of the greatest gain."""

_SHARES = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
"""Of full colour, in the legend."""

LEAST_LIMIT = 0.01
"""Change that gets full colour at least: noise in a study without effects stays pale."""

_PAINTED = tuple(tuple(Region)[place] for place in (14, 0, 7, 4, 11, 3, 10, 2, 9, 1, 8, 6, 13, 16, 15, 5, 12, 17))
"""Regions in the order in which they are painted, so that each group shows; the lungs frame their zones."""

_LABELS: Mapping[str, tuple[str, float, float]] = {
    "lungs": ("lungs", 0.3, 1.03),
    "apical zones": ("apex", 0.3, 0.5),
    "upper lung zones": ("upper", 0.2, 0.72),
    "mid lung zones": ("mid", 0.17, 0.5),
    "lower lung zones": ("lower", 0.19, 0.3),
    "hilar structures": ("hila", 0.5, 0.5),
    "costophrenic angles": ("angle", 0.5, 0.5),
    "cardiac silhouette": ("heart", 0.5, 0.72),
    "trachea": ("trachea", 0.5, 0.3),
}
"""What is written on a box and where, in shares of the box from its outer and its upper edge."""


def draw_occlusion(
    study: OcclusionStudy, *, measure: str = "ap_over_hits", finding: str | None = None, name: str = "occlusion"
) -> str:
    """The SVG text, for one of `MEASURES`.

    finding: which the sketch shows, by name; None is the macro average. name: begins the ids in the picture, which must
    differ where several stand in one page. InvalidSetting or UnknownFinding for what was not measured or not scored.
    """
    _check(study, measure, finding)
    columns = [*study.findings, None]
    limits = _limit(study, measure, columns), _limit(study, measure, [finding])
    window = _window(study)
    height = max(ROW * (len(GROUPS) + 1), SKETCH * study.aspect * window[3] / window[2]) + HEADER + BETWEEN
    sketch_x = NAMES + len(columns) * CELL + GAP + 40
    text: str = read_template("chextriev.eval", f"templates/{TEMPLATE}").render(
        name=name,
        metric=METRIC_NAMES[measure].replace("@k", f"@{study.k}"),
        study=study,
        shown=finding or "macro average",
        limit=format_value(limits[0]),
        sketch_limit=format_value(limits[1]),
        columns=[_column(study, column, place) for place, column in enumerate(columns)],
        panels=[
            {
                "side": side,
                "y": round(TOP + number * height, 1),
                "rows": _rows(study, side, measure, limits[0]),
                "boxes": _boxes(study, side, measure, finding, limits[1]),
                "most": _most(study, side, measure, finding),
            }
            for number, side in enumerate(study.sides)
        ],
        size=(sketch_x + SKETCH + 16, round(TOP + height * len(study.sides) + 66, 1)),
        scale=[{"x": 22 * step, "fill": _colour(share)} for step, share in enumerate(_SHARES)],
        cell=(CELL - 2, ROW - 2),
        places={"names": NAMES, "row": ROW, "header": HEADER, "sketch_x": sketch_x, "sketch_width": SKETCH},
        min_queries=MIN_QUERIES,
    )
    return text


def _check(study: OcclusionStudy, measure: str, finding: str | None) -> None:
    if measure not in MEASURES:
        raise InvalidSetting(f"no change of {measure!r} was measured; choose one of {', '.join(MEASURES)}")
    if finding is not None and finding not in study.findings:
        raise UnknownFinding(finding, study.findings)
    if finding is not None and study.visible(finding, measure) is None:
        n = study.findings[finding]
        raise InvalidSetting(f"{finding} has {n} queries and was not scored; at least {MIN_QUERIES} are needed")


def _limit(study: OcclusionStudy, measure: str, columns: list[str | None]) -> float:
    """The largest change among these columns."""
    changes = [
        abs(effect.changes[measure].change)
        for groups in study.sides.values()
        for effects in groups.values()
        for column in columns
        if (effect := _effect(effects, column)).changes
    ]
    return max(LEAST_LIMIT, *changes)


def _effect(effects: Any, column: str | None) -> Effect:
    effect: Effect = effects.macro if column is None else effects.per_finding[column]
    return effect


def _x(place: int, column: str | None) -> int:
    return NAMES + place * CELL + (GAP if column is None else 0)


def _column(study: OcclusionStudy, column: str | None, place: int) -> dict[str, Any]:
    """Where a column begins, its name in lines, how many queries it has, and whether they are enough."""
    if column is None:
        return {"x": _x(place, None), "lines": ["macro"], "n": f"{study.n_scored} findings", "scored": True}
    n = study.findings[column]
    return {"x": _x(place, column), "lines": _wrapped(column), "n": f"n = {n:,}", "scored": n >= MIN_QUERIES}


def _wrapped(name: str, longest: int = 13) -> list[str]:
    lines = [""]
    for word in name.replace("/", "/ ").split():
        joined = f"{lines[-1]}{'' if lines[-1].endswith('/') or not lines[-1] else ' '}{word}"
        lines = [*lines[:-1], joined] if len(joined) <= longest else [*lines, word]
    return [line for line in lines if line]


def _rows(study: OcclusionStudy, side: str, measure: str, limit: float) -> list[dict[str, Any]]:
    """The group's name and its cells; a first row holds the metric itself with nothing hidden."""
    columns = [*study.findings, None]
    values = [study.visible(column, measure) for column in columns]
    nothing = [
        {"x": _x(place, column), "text": format_value(value), "plain": True}
        for place, (column, value) in enumerate(zip(columns, values, strict=True))
        if value is not None
    ]
    rows: list[dict[str, Any]] = [{"name": "nothing hidden", "cells": nothing}]
    for group, effects in study.sides[side].items():
        cells = [_cell(_effect(effects, column), group, column, measure) for column in columns]
        placed = [
            {**cell, **_painted(cell["change"] / limit), "x": _x(place, column), "plain": False}
            for place, (column, cell) in enumerate(zip(columns, cells, strict=True))
            if cell
        ]
        rows.append({"name": group, "cells": placed})
    return rows


def _cell(effect: Effect, group: str, column: str | None, measure: str) -> dict[str, Any]:
    """Nothing where there are too few queries."""
    if not effect.changes:
        return {}
    change = effect.changes[measure]
    low, high = map(format_change, change.interval)
    value = format_change(change.change)
    title = f"{group} hidden, {column or 'macro average'}: {value} ({low} to {high}), n = {effect.n}"
    return {"change": change.change, "text": value.replace("0.", ".", 1), "is_clear": change.is_clear, "title": title}


def _painted(share: float) -> dict[str, Any]:
    """Colour, ink and hatching of a change in -1..1."""
    return {"fill": _colour(share), "ink": "#fff" if share < -0.5 else "#1b2430", "hatched": share >= 0.05}


def _colour(share: float) -> str:
    end = LOSS if share < 0 else GAIN
    mixed = [Axis((0.0, 1.0), (none, most)).place(min(abs(share), 1.0)) for none, most in zip(NONE, end, strict=True)]
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


def _most(study: OcclusionStudy, side: str, measure: str, finding: str | None) -> str:
    """The greatest loss in words."""
    changes = {group: _effect(effects, finding).changes[measure] for group, effects in study.sides[side].items()}
    group, change = min(changes.items(), key=lambda item: item[1].change)
    if change.change >= 0:
        return "no group's absence is a loss"
    return f"greatest loss: {group}, {format_change(change.change)}" + ("" if change.is_clear else " (unclear)")


def _boxes(study: OcclusionStudy, side: str, measure: str, finding: str | None, limit: float) -> list[dict[str, Any]]:
    """Rectangles and names in the sketch's own pixels, in painting order."""
    left, top, width, _ = _window(study)
    across = Axis((left, left + width), (0, SKETCH))
    scale = SKETCH / width
    drawn = []
    for region in _PAINTED:
        group = next((name for name in study.sides[side] if region in GROUPS[name]), None)
        if group is None:
            continue
        x1, y1, x2, y2 = study.boxes[region]
        inset = 4 if group != "lungs" and region.side else 0
        shape = {
            "x": round(across.place(x1) + inset, 1),
            "y": round((y1 - top) * scale * study.aspect + inset, 1),
            "width": round((x2 - x1) * scale - 2 * inset, 1),
            "height": round((y2 - y1) * scale * study.aspect - 2 * inset, 1),
        }
        change = _effect(study.sides[side][group], finding).changes[measure].change
        title = f"{region.label}: {format_change(change)}"
        drawn.append({**shape, **_painted(change / limit), "title": title, "label": _label(region, group, shape)})
    return drawn


def _label(region: Region, group: str, shape: Mapping[str, float]) -> dict[str, Any] | None:
    """The mediastinum shows beside the trachea alone, so its name runs downwards there."""
    if region == Region.UPPER_MEDIASTINUM:
        return {
            "text": "mediastinum",
            "x": shape["x"] + 0.83 * shape["width"],
            "y": shape["y"] + shape["height"] / 2,
            "turned": True,
        }
    if group not in _LABELS or region == Region.MEDIASTINUM:
        return None
    text, across, down = _LABELS[group]
    share = 1 - across if region.side == "left" else across
    return {
        "text": text,
        "x": round(shape["x"] + share * shape["width"], 1),
        "y": round(shape["y"] + down * shape["height"], 1),
        "turned": False,
    }


def _window(study: OcclusionStudy) -> tuple[float, float, float, float]:
    """Left, top, width and height of what the boxes take, in shares of the image, with a margin."""
    x1, y1, x2, y2 = zip(*study.boxes, strict=True)
    margin = 0.02
    left, top = min(x1) - margin, min(y1) - margin
    return left, top, max(x2) + margin - left, max(y2) + 2 * margin - top
