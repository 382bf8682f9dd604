"""`chextriev train quality`: the parameters of the quality check from prepared data.

Weights are those of ridge regression on the train split of one or several study tables; thresholds are quantiles of the
scores that views of the validation split have. A table counts as much as another, whatever its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Region
from chextriev.errors import EmptySplit, InvalidSetting
from chextriev.progress import track
from chextriev.quality import chest_scores, mirror_score, past_borders
from chextriev.quality_model import EDGES, QualityModel
from chextriev.quality_view import View, inverted, mirrored, turned
from chextriev.study_table import StudyTable
from chextriev.train.quality_views import MILD, WIDE, cut_view, no_chest

Floats = npt.NDArray[np.float64]
_UNCUT = 0.01
"""A lung's box that ends nearer to the border, as a share, may have been cut by it: where the lung ends is unknown."""


@dataclass(frozen=True)
class QualityFit:
    """How the parameters are found.

    views: of each kind, an image and table of the train split, counted on the largest table; smaller ones give more.
    ridge: penalty on the squares of the weights. false_alarms: share of the validation views that each of the six
    scores (chest, mirrored, four borders) may refuse.
    """

    views: int = 10
    checked_views: int = 8
    ridge: float = 0.003
    false_alarms: float = 0.004
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.views, self.checked_views) < 1 or self.ridge <= 0 or not 0 < self.false_alarms < 0.1:
            raise InvalidSetting(f"{self}: views of at least 1, ridge above 0 and false_alarms in 0 to 0.1 are needed")


@dataclass(frozen=True, eq=False)
class _Seen:
    """Views of one table. past: [N, 4], how far lungs reach past the borders; nan where that is unknown."""

    mild: list[View]
    wide: list[View]
    none: list[View]
    past: Floats


def fit_quality(tables: Sequence[StudyTable], *, source: str, settings: QualityFit | None = None) -> QualityModel:
    """The parameters for these tables; source says in words what data they are.

    Raises EmptySplit where no table has images in the train and in the validation split.
    """
    chosen = settings or QualityFit()
    rng = np.random.default_rng(chosen.seed)
    fitted = [_look_at(part, chosen.views, rng) for part in _parts(tables, "train")]
    checked = [_look_at(part, chosen.checked_views, rng) for part in _parts(tables, "validate")]
    unscaled = QualityModel(
        chest=_chest_weights(fitted, chosen.ridge),
        mirror=_mirror_weights(fitted, chosen.ridge),
        edges=_edge_weights(fitted, chosen.ridge),
        chest_scale=np.zeros(2),
        mirror_scale=np.zeros(2),
        edge_scale=np.zeros((len(EDGES), 2)),
        source=source,
    )
    return _with_thresholds(unscaled, checked, chosen.false_alarms)


def _parts(tables: Sequence[StudyTable], split: str) -> list[StudyTable]:
    parts = [table.of_split(split) for table in tables if (table.split == split).any()]
    if not parts:
        raise EmptySplit(f"no table has a radiograph in split {split!r}; prepare data with train and validate splits")
    return parts


def _look_at(table: StudyTable, views: int, rng: np.random.Generator) -> _Seen:
    seen = _Seen([], [], [], np.zeros((0, len(EDGES))))
    past = []
    for row in track(range(len(table)), "views"):
        radiograph = table.radiograph(row)
        lungs = lung_edges(radiograph.boxes.xyxy, radiograph.pixels.shape)
        for _ in range(views):
            seen.mild.append(cut_view(radiograph.pixels, lungs, MILD, rng)[0])
            view, ends = cut_view(radiograph.pixels, lungs, WIDE, rng)
            seen.wide.append(view)
            past.append(np.where(_inside(lungs), _past(ends), np.nan))
            seen.none.append(no_chest(radiograph.pixels, rng))
    return _Seen(seen.mild, seen.wide, seen.none, np.array(past))


def lung_edges(boxes_xyxy: npt.NDArray[np.float32], shape: tuple[int, ...]) -> Floats:
    """[4] left, top, right and bottom of both lungs, as shares of the sides of an image of this shape."""
    height, width = shape
    lungs = boxes_xyxy[[Region.RIGHT_LUNG, Region.LEFT_LUNG]] / np.array([width, height] * 2, np.float64)
    return np.concatenate([lungs[:, :2].min(axis=0), lungs[:, 2:].max(axis=0)])


def _past(ends: Floats) -> Floats:
    return np.concatenate([-ends[:2], ends[2:] - 1])


def _inside(lungs: Floats) -> npt.NDArray[np.bool_]:
    return _past(lungs) < -_UNCUT


def _directions(views: Sequence[View]) -> Floats:
    return np.array([view.directions.ravel() for view in views], np.float64)


def _solve(groups: Sequence[tuple[Floats, Floats, float]], ridge: float) -> Floats:
    """Ridge regression of values [N, K] on features [N, D] over (features, values, weight of the group)."""
    width, targets = groups[0][0].shape[1], groups[0][1].shape[1]
    products, sums = np.zeros((width + 1, width + 1)), np.zeros((width + 1, targets))
    for features, values, weight in groups:
        design = np.concatenate([features, np.ones((len(features), 1))], axis=1)
        products += design.T @ design * (weight / len(design))
        sums += design.T @ values * (weight / len(design))
    products[np.arange(width), np.arange(width)] += ridge
    return np.linalg.solve(products, sums)


def _chest_weights(tables: Sequence[_Seen], ridge: float) -> Floats:
    """1 for an upright chest; -1 for the same turned or inverted, and for what is no chest."""
    groups = []
    for seen in tables:
        upright = [*seen.mild, *seen.wide]
        shown = [sign(view.directions) for view in seen.mild for sign in (np.asarray, inverted)]
        lying = np.array([turned(each, q).ravel() for i, each in enumerate(shown) for q in range(4) if i % 2 or q])
        for features, value in ((_directions(upright), 1.0), (lying, -0.5), (_directions(seen.none), -0.5)):
            groups.append((np.asarray(features, np.float64), np.full((len(features), 1), np.sign(value)), abs(value)))
    return _solve(groups, ridge)[:, 0]


def _mirror_weights(tables: Sequence[_Seen], ridge: float) -> Floats:
    """1 for a chest and -1 for its mirror image; there is no bias, because each has as many as the other."""
    groups = []
    for seen in tables:
        there = np.array([mirrored(view.directions).ravel() for view in seen.mild], np.float64)
        for features, value in ((_directions(seen.mild), 1.0), (there, -1.0)):
            groups.append((features, np.full((len(features), 1), value), 1.0))
    return np.asarray(_solve(groups, ridge)[:-1, 0])


def _edge_weights(tables: Sequence[_Seen], ridge: float) -> Floats:
    columns = []
    for edge in range(len(EDGES)):
        groups = []
        for seen in tables:
            known = np.isfinite(seen.past[:, edge])
            both = np.array([view.both for view in seen.wide], np.float64)[known]
            groups.append((both, seen.past[known, edge : edge + 1], 1.0))
        columns.append(_solve(groups, ridge)[:, 0])
    return np.array(columns)


def _with_thresholds(model: QualityModel, checked: Sequence[_Seen], false_alarms: float) -> QualityModel:
    """Thresholds that `false_alarms` of the views of the worst table cross."""
    chest = [np.array([chest_scores(view, model)[0, 0] for view in seen.mild]) for seen in checked]
    mirror = [np.array([mirror_score(view, model) for view in seen.mild]) for seen in checked]
    past = [np.array([past_borders(view, model) for view in seen.wide]) for seen in checked]
    edges = []
    for edge in range(len(EDGES)):
        whole = [found[seen.past[:, edge] < 0, edge] for found, seen in zip(past, checked, strict=True)]
        least = max(float(np.quantile(scores, 1 - false_alarms)) for scores in whole if len(scores))
        edges.append((least, max(least, _UNCUT)))
    return QualityModel(
        chest=model.chest,
        mirror=model.mirror,
        edges=model.edges,
        chest_scale=_low_threshold(chest, false_alarms),
        mirror_scale=_low_threshold(mirror, false_alarms),
        edge_scale=np.array(edges),
        source=model.source,
    )


def _low_threshold(scores: Sequence[Floats], false_alarms: float) -> Floats:
    threshold = min(float(np.quantile(found, false_alarms)) for found in scores)
    middle = min(float(np.median(found)) for found in scores)
    return np.array([threshold, max(middle - threshold, 1e-3)])
