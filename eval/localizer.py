"""How well a localizer's boxes agree with those that were given, beside the mean layouts that know no image.

The measure is IoU, `chextriev.box_overlap.box_overlap`: its mean over radiographs for each region, for both lungs, and
over all 18 regions, with bootstrap intervals that draw patients. And whether the confidence of a box is what it says,
the IoU that it reaches.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Region
from chextriev.box_overlap import box_overlap
from chextriev.errors import InvalidSetting
from chextriev.eval.bootstrap import mean_intervals
from chextriev.eval.protocol import IntervalSpec
from chextriev.eval.run import ALL
from chextriev.localizer import Localizer
from chextriev.located_table import LocatedTable, locate_table
from chextriev.machine import describe_machine
from chextriev.study_table import StudyTable
from chextriev.valid_boxes import MEAN_LAYOUT, valid_boxes

Values = npt.NDArray[np.float64]

LUNGS = (Region.RIGHT_LUNG, Region.LEFT_LUNG)
BINS = ((0.0, 0.5), (0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0))
"""Of confidence."""
TRAIN_LAYOUT, BUILT_IN = "mean layout of the train split", "built-in mean layout"


@dataclass(frozen=True)
class LocalizerSettings:
    """split: of the radiographs, or "all". timed: radiographs that are located one at a time by the clock; 0: none."""

    split: str = "test"
    timed: int = 50
    interval: IntervalSpec = field(default_factory=IntervalSpec)

    def __post_init__(self) -> None:
        if self.timed < 0:
            raise InvalidSetting(f"eval localizer: {self.timed} timed radiographs; 0 or more are needed")


@dataclass(frozen=True)
class Overlap:
    """A mean IoU and its interval."""

    mean: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Overlaps:
    """The mean IoU of a source of boxes with those given: of each region by name, of both lungs and of all regions."""

    per_region: Mapping[str, Overlap]
    lungs: Overlap
    macro: Overlap


@dataclass(frozen=True)
class ConfidenceBin:
    """Boxes whose confidence lies from low to high: n of them, and the means of the IoU that they expect and reach."""

    low: float
    high: float
    n: int
    expected: float
    reached: float


@dataclass(frozen=True)
class LocalizerEvaluation:
    """The result.

    gap: mean |reached - expected| over the bins, weighted by their boxes. rank_correlation: Spearman's, of confidence
    and IoU over all boxes; None where either never varies. speed: milliseconds from decoded pixels to valid boxes, one
    radiograph at a time, and on what; empty where nothing was timed. parents: digests of localizer and study table.
    """

    source: str
    split: str
    n_radiographs: int
    n_patients: int
    n_unreadable: int
    interval: IntervalSpec
    localizer: Overlaps
    baselines: Mapping[str, Overlaps]
    calibration: tuple[ConfidenceBin, ...]
    gap: float
    rank_correlation: float | None
    parents: Mapping[str, str]
    speed: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def evaluate_localizer(
    localizer: Localizer, table: StudyTable, settings: LocalizerSettings | None = None
) -> tuple[LocalizerEvaluation, LocatedTable]:
    """Locate the regions of a split and compare them with its boxes; the result, and the boxes for a picture.

    EmptySplit where no radiograph of the split can be read.
    """
    settings = settings or LocalizerSettings()
    split = table if settings.split == ALL else table.of_split(settings.split)
    located = locate_table(split, localizer)
    overlaps = box_overlap(located.boxes_xyxy, located.table.boxes_xyxy)  # [N, 18]
    bins, gap = _calibration(located.confidence, overlaps)
    baselines = {
        name: _measured(box_overlap(_laid_out(layout, located.table), located.table.boxes_xyxy), located, settings)
        for name, layout in _layouts(table).items()
    }
    evaluation = LocalizerEvaluation(
        source=located.source,
        split=settings.split,
        n_radiographs=len(located.table),
        n_patients=len(set(located.table.patient_id)),
        n_unreadable=len(located.refusals),
        interval=settings.interval,
        localizer=_measured(overlaps, located, settings),
        baselines=baselines,
        calibration=bins,
        gap=gap,
        rank_correlation=_rank_correlation(located.confidence.ravel(), overlaps.ravel()),
        parents={"localizer": localizer.digest, "study table": table.digest},
        speed=_timed(localizer, located.table, settings.timed),
    )
    return evaluation, located


def _measured(overlaps: Values, located: LocatedTable, settings: LocalizerSettings) -> Overlaps:
    """Means over radiographs of IoUs [N, 18]. Every radiograph has every region, so means of means are means."""
    columns = np.column_stack([overlaps, overlaps[:, LUNGS].mean(axis=1), overlaps.mean(axis=1)])  # [N, 20]
    bounds = mean_intervals(columns, located.table.patient_id.astype(str), settings.interval)
    *regions, lungs, macro = (
        Overlap(float(mean), (float(low), float(high)))
        for mean, low, high in zip(columns.mean(axis=0), *bounds, strict=True)
    )
    return Overlaps(dict(zip(Region.labels(), regions, strict=True)), lungs, macro)


def _layouts(table: StudyTable) -> dict[str, npt.NDArray[np.floating[Any]]]:
    """What knows no image: mean boxes [18, 4] as fractions. Those of the train split, if there is one, need data."""
    rows = np.flatnonzero(table.split == "train")
    if not len(rows):
        return {BUILT_IN: MEAN_LAYOUT}
    sizes = np.column_stack([table.width, table.height, table.width, table.height])[rows]  # [n, 4]
    return {TRAIN_LAYOUT: (table.boxes_xyxy[rows] / sizes[:, None]).mean(axis=0), BUILT_IN: MEAN_LAYOUT}


def _laid_out(layout: npt.NDArray[np.floating[Any]], table: StudyTable) -> npt.NDArray[np.float32]:
    sizes = zip(table.width.tolist(), table.height.tolist(), strict=True)
    return np.stack([valid_boxes(layout, width=width, height=height).xyxy for width, height in sizes])


def _calibration(confidence: npt.NDArray[np.float32], overlaps: Values) -> tuple[tuple[ConfidenceBin, ...], float]:
    """The bins that hold boxes, and their mean gap."""
    expected, reached = confidence.ravel().astype(np.float64), overlaps.ravel()
    places = np.digitize(expected, [low for low, _ in BINS[1:]])
    bins = []
    for place, (low, high) in enumerate(BINS):
        inside = places == place
        if inside.any():
            means = float(expected[inside].mean()), float(reached[inside].mean())
            bins.append(ConfidenceBin(low, high, int(inside.sum()), *means))
    gap = sum(each.n * abs(each.reached - each.expected) for each in bins) / len(reached)
    return tuple(bins), gap


def _rank_correlation(first: npt.NDArray[np.floating[Any]], second: Values) -> float | None:
    ours, theirs = _mean_ranks(first), _mean_ranks(second)
    if not np.ptp(ours) or not np.ptp(theirs):
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])


def _mean_ranks(values: npt.NDArray[np.floating[Any]]) -> Values:
    """Ranks from 0; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Values = (ends - (counts + 1) / 2)[places]
    return ranks


def _timed(localizer: Localizer, table: StudyTable, count: int) -> dict[str, Any]:
    """Milliseconds a radiograph, decoded before the clock starts; the first one warms up and is not counted."""
    if count == 0:
        return {}
    spent: list[float] = []
    for turn in range(count + 1):
        pixels = table.radiograph(turn % len(table)).pixels
        begun = time.perf_counter()
        localizer.locate([pixels])
        spent.append(1000 * (time.perf_counter() - begun))
    return {
        "median_ms": median(spent[1:]),
        "p95_ms": float(np.quantile(spent[1:], 0.95)),
        "radiographs": count,
        "machine": describe_machine(),
    }
