"""`chextriev train quality`: the parameters of the quality check from prepared data.

Weights are those of ridge regression on the train split of one or several study tables. Thresholds are quantiles of the
scores of views of the validation split, and of the train split by weights that were fitted without their patients: a
small validation split has too few odd images. A table counts as much as another, whatever its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

    views: of each kind, an image. ridge: penalty on the squares of the weights. false_alarms: share of the views that
    each of the six scores (chest, mirrored, four borders) may refuse. folds: of the patients of the train split.
    """

    views: int = 10
    ridge: float = 0.003
    false_alarms: float = 0.002
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.views, self.folds - 1) < 1 or self.ridge <= 0 or not 0 < self.false_alarms < 0.1:
            raise InvalidSetting(
                f"{self}: at least 1 view and 2 folds, ridge above 0 and false_alarms in 0 to 0.1 are needed"
            )


@dataclass(frozen=True, eq=False)
class _Seen:
    """Views of one table. past: [N, 4], how far lungs reach past the borders; nan where that is unknown.

    patient: [N], a number for each.
    """

    mild: list[View]
    wide: list[View]
    none: list[View]
    past: Floats
    patient: npt.NDArray[np.intp]

    def take(self, chosen: npt.NDArray[np.bool_]) -> "_Seen":
        rows = np.flatnonzero(chosen)
        mild, wide, none = ([views[row] for row in rows] for views in (self.mild, self.wide, self.none))
        return _Seen(mild, wide, none, self.past[rows], self.patient[rows])


def fit_quality(tables: Sequence[StudyTable], *, source: str, settings: QualityFit | None = None) -> QualityModel:
    """The parameters for these tables; source says in words what data they are.

    Raises EmptySplit where no table has images in the train and in the validation split.
    """
    chosen = settings or QualityFit()
    rng = np.random.default_rng(chosen.seed)
    fitted = [_look_at(part, chosen.views, rng) for part in _parts(tables, "train")]
    checked = [_look_at(part, chosen.views, rng) for part in _parts(tables, "validate")]
    weights = _weights(fitted, chosen.ridge, source)
    scored = [_Scores.of(weights, seen) for seen in checked]
    for fold in range(chosen.folds):
        held = [seen.patient % chosen.folds == fold for seen in fitted]
        if all(some.any() and not some.all() for some in held):
            others = [seen.take(~some) for seen, some in zip(fitted, held, strict=True)]
            without = _weights(others, chosen.ridge, source)
            scored += [_Scores.of(without, seen.take(some)) for seen, some in zip(fitted, held, strict=True)]
    return _with_thresholds(weights, scored, chosen.false_alarms)


def _weights(tables: Sequence[_Seen], ridge: float, source: str) -> QualityModel:
    return QualityModel(
        chest=_chest_weights(tables, ridge),
        mirror=_mirror_weights(tables, ridge),
        edges=_edge_weights(tables, ridge),
        chest_scale=np.zeros(2),
        mirror_scale=np.zeros(2),
        edge_scale=np.zeros((len(EDGES), 2)),
        source=source,
    )


def _parts(tables: Sequence[StudyTable], split: str) -> list[StudyTable]:
    parts = [table.of_split(split) for table in tables if (table.split == split).any()]
    if not parts:
        raise EmptySplit(f"no table has a radiograph in split {split!r}; prepare data with train and validate splits")
    return parts


def _look_at(table: StudyTable, views: int, rng: np.random.Generator) -> _Seen:
    mild, wide, none = [], [], []
    past = []
    for row in track(range(len(table)), "views"):
        radiograph = table.radiograph(row)
        lungs = lung_edges(radiograph.boxes.xyxy, radiograph.pixels.shape)
        for _ in range(views):
            mild.append(cut_view(radiograph.pixels, lungs, MILD, rng)[0])
            view, ends = cut_view(radiograph.pixels, lungs, WIDE, rng)
            wide.append(view)
            past.append(np.where(_inside(lungs), _past(ends), np.nan))
            none.append(no_chest(radiograph.pixels, rng))
    _, patient = np.unique(table.patient_id.astype(str), return_inverse=True)
    return _Seen(mild, wide, none, np.array(past), np.repeat(patient, views))


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


@dataclass(frozen=True, eq=False)
class _Scores:
    """Of views that the weights have not been fitted to. none: the best of eight of pictures that are no chest."""

    chest: Floats
    none: Floats
    mirror: Floats
    past: Floats
    known_past: Floats

    @classmethod
    def of(cls, model: QualityModel, seen: _Seen) -> "_Scores":
        return cls(
            chest=np.array([chest_scores(view, model)[0, 0] for view in seen.mild]),
            none=np.array([chest_scores(view, model).max() for view in seen.none]),
            mirror=np.array([mirror_score(view, model) for view in seen.mild]),
            past=np.array([past_borders(view, model) for view in seen.wide]),
            known_past=seen.past,
        )


def _with_thresholds(model: QualityModel, scored: Sequence[_Scores], false_alarms: float) -> QualityModel:
    """Thresholds that `false_alarms` of the views cross.

    That of the chest lies in the middle between there and the score that as few of the other pictures exceed, since the
    two are apart; where they are not, at the former.
    """
    chest, none = (np.concatenate([getattr(each, name) for each in scored]) for name in ("chest", "none"))
    mirror = np.concatenate([each.mirror for each in scored])
    past, known = (np.concatenate([getattr(each, name) for each in scored]) for name in ("past", "known_past"))
    least, other = float(np.quantile(chest, false_alarms)), float(np.quantile(none, 1 - 10 * false_alarms))
    middle = min(least, (least + other) / 2)
    edges = []
    for edge in range(len(EDGES)):
        whole = past[known[:, edge] < 0, edge]
        most = float(np.quantile(whole, 1 - false_alarms)) if len(whole) else _UNCUT
        edges.append((max(most, _UNCUT), max(most, _UNCUT)))
    exchanged = float(np.quantile(mirror, false_alarms))
    return replace(
        model,
        chest_scale=np.array([middle, max(float(np.median(chest)) - middle, 1e-3)]),
        mirror_scale=np.array([exchanged, max(float(np.median(mirror)) - exchanged, 1e-3)]),
        edge_scale=np.array(edges),
    )
