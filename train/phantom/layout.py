"""Where things lie in a phantom: outlines in a patient frame, their projection to pixels, and the 18 boxes that follow.

Patient frame: x runs from the midline to the patient's left (the right of the picture), y from the lung apex (0) to the
left costophrenic angle (1), both in lung heights. The extents of the regions follow the mean boxes of real frontal
radiographs.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS, Region, Side

Points = npt.NDArray[np.float64]  # [n, 2], x and y
SIDE_SIGN: dict[Side, int] = {"right": -1, "left": 1}
CARDIOTHORACIC_NORMAL, CARDIOTHORACIC_FAILURE, CARDIOTHORACIC_ENLARGED = 0.45, 0.52, 0.60

# Extents along y of what is cut out of each lung, as fractions of the distance from its apex to its base.
_ZONES = {
    "apical zone": (0.0, 0.18),
    "upper lung zone": (0.03, 0.40),
    "mid lung zone": (0.38, 0.62),
    "lower lung zone": (0.61, 1.0),
}
_HILUM = (0.03, 0.24, 0.34, 0.66)  # medial, lateral, top, bottom
_ANGLE_WIDTH, _ANGLE_TOP, _ANGLE_BOTTOM = 0.21, 0.83, 1.03
_UPPER_MEDIASTINUM = (-0.10, 0.17, 0.0, 0.43)
_TRACHEA = (-0.085, 0.085, -0.17, 0.44)
# Corners of the heart: x in heart widths from the midline, y in lung heights.
_HEART = np.array(
    [
        *((0.02, 0.40), (0.17, 0.42), (0.25, 0.50), (0.38, 0.60), (0.54, 0.71), (0.655, 0.83), (0.63, 0.92)),
        *((0.42, 0.955), (0.0, 0.95), (-0.24, 0.92), (-0.335, 0.82), (-0.345, 0.70), (-0.29, 0.58), (-0.16, 0.47)),
    ]
)


@dataclass(frozen=True)
class Anatomy:
    """What stays the same in all radiographs of a patient; lengths in lung heights."""

    half_width: float
    apex_offset: float
    dome: float
    right_lift: float
    heart_offset: float
    knob: float
    wall: float
    breast: float
    bone: float
    rib_count: float
    rib_phase: float
    rib_slope: float

    @classmethod
    def sample(cls, rng: np.random.Generator, *, sex: str, age: int) -> "Anatomy":
        """A patient; women are slightly narrower, the old have a larger aortic knob and thinner bone."""
        years = (age - 50) / 40
        return cls(
            half_width=float(np.clip(rng.normal(0.585 - 0.02 * (sex == "F"), 0.035), 0.48, 0.68)),
            apex_offset=float(rng.uniform(0.16, 0.23)),
            dome=float(rng.uniform(0.10, 0.19)),
            right_lift=float(np.clip(rng.normal(0.045, 0.02), 0.0, 0.09)),
            heart_offset=float(rng.normal(0.0, 0.022)),
            knob=float(np.clip(0.02 + 0.02 * years + rng.normal(0, 0.012), 0.0, 0.06)),
            wall=float(np.clip(rng.gamma(4.0, 0.03), 0.04, 0.30)),
            breast=float(rng.uniform(0.3, 1.0)) if sex == "F" else 0.0,
            bone=float(np.clip(rng.normal(1.0 - 0.15 * years, 0.2), 0.5, 1.6)),
            rib_count=float(rng.uniform(9.3, 10.8)),
            rib_phase=float(rng.uniform(0, 1)),
            rib_slope=float(rng.uniform(0.16, 0.32)),
        )


@dataclass(frozen=True)
class Pose:
    """How one exposure was taken; lengths in pixels, the angle in radians."""

    view: Literal["AP", "PA"]
    width: int
    height: int
    centre: tuple[float, float]
    lung_height: float
    angle: float
    inspiration: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Pose":
        """An exposure: AP (supine, bedside) is less centred, more rotated and less inspired than PA."""
        view: Literal["AP", "PA"] = "AP" if rng.random() < 0.6 else "PA"
        loose = 1.6 if view == "AP" else 1.0
        width, height = (
            2 * int(half) for half in rng.integers(216, 289, 2)
        )  # even, as the drawing grid is half as fine
        lung_height = min(0.64 * height, 0.66 * width) * float(rng.uniform(0.92, 1.06))
        return cls(
            view=view,
            width=width,
            height=height,
            centre=(width * (0.5 + float(rng.normal(0, 0.012))), height * (0.47 + float(rng.normal(0, 0.012 * loose)))),
            lung_height=lung_height,
            angle=float(np.clip(rng.normal(0, 0.018 * loose), -0.08, 0.08)),
            inspiration=float(np.clip(rng.normal(1.0 if view == "PA" else 0.94, 0.03), 0.84, 1.06)),
        )


@dataclass(frozen=True)
class Layout:
    """One radiograph's geometry: outlines in the patient frame, boxes in pixels."""

    anatomy: Anatomy
    pose: Pose
    heart_ratio: float

    def base(self, side: Side) -> float:
        """y of the costophrenic angle."""
        return self.pose.inspiration * (1.0 - (self.anatomy.right_lift if side == "right" else 0.0))

    def lateral_edge(self, y: npt.NDArray[np.floating], side: Side) -> npt.NDArray[np.floating]:
        """Distance of the chest wall from the midline at heights y."""
        depth = np.clip(y / self.base(side), 0.0, 1.0)
        apex, full = self.anatomy.apex_offset, self.anatomy.half_width
        return np.asarray(apex + (full - apex) * np.sqrt(1 - (1 - depth) ** 2.3))

    def diaphragm(self, offset: npt.NDArray[np.floating], side: Side) -> npt.NDArray[np.floating]:
        """y of the diaphragm at distances from the midline."""
        along = np.clip(offset / self.anatomy.half_width, 0.0, 1.0)
        bend = np.where(along > 0.45, (along - 0.45) / 0.55, 0.65 * (0.45 - along) / 0.45)
        return np.asarray(self.base(side) - self.anatomy.dome * (1 - bend**2))

    @cached_property
    def lungs(self) -> dict[Side, Points]:
        """Outlines of the lungs: down the chest wall, along the diaphragm and up the medial edge."""
        return {side: self._lung(side) for side in SIDE_SIGN}

    def _lung(self, side: Side) -> Points:
        down = np.linspace(0.0, self.base(side), 48)
        wall = np.column_stack([self.lateral_edge(down, side), down])
        inward = np.linspace(self.anatomy.half_width, 0.035, 32)[1:]
        floor = np.column_stack([inward, self.diaphragm(inward, side)])
        up = np.linspace(floor[-1, 1], 0.16, 32)[1:]
        inner = np.column_stack([np.full_like(up, 0.035), up])
        top = np.array([[0.05, 0.06], [0.09, 0.015]])
        return np.vstack([wall, floor, inner, top]) * [SIDE_SIGN[side], 1]

    @cached_property
    def heart(self) -> Points:
        """Outline of the cardiac silhouette; its width is heart_ratio of the inner width of the chest."""
        corners = np.vstack([_HEART, _HEART[:1]])
        steps = np.linspace(0, len(_HEART), 72, endpoint=False)
        x, y = (_closed_curve(steps, corners[:, axis]) for axis in (0, 1))
        width = self.heart_ratio * 2 * self.anatomy.half_width
        low = np.clip((y - 0.4) / 0.55, 0, 1)
        # A heart that grows does so below the great vessels.
        x = x * width * (0.45 + 0.55 * low) / (0.45 + 0.55 * 0.78) + self.anatomy.heart_offset
        return np.column_stack([x, y * self.pose.inspiration])

    @cached_property
    def upper_mediastinum(self) -> Points:
        """Outline of the great vessels, with the aortic knob on the patient's left."""
        knob = self.anatomy.knob
        right = [[-0.075, -0.25], [-0.07, 0.0], [-0.085, 0.2], [-0.09, 0.46]]
        left = [[0.1, 0.46], [0.09, 0.38], [0.1 + knob, 0.33], [0.1 + knob, 0.26], [0.085, 0.2], [0.075, 0.0]]
        return np.array([*right, *left, [0.075, -0.25]])

    def to_pixels(self, points: Points) -> Points:
        """Project points [n, 2] of the patient frame to pixels."""
        cos, sin = np.cos(self.pose.angle), np.sin(self.pose.angle)
        x, y = points[:, 0], points[:, 1] - 0.5
        turned = np.column_stack([cos * x - sin * y, sin * x + cos * y])
        return turned * self.pose.lung_height + self.pose.centre

    def from_pixels(
        self, x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Coordinates of pixels (columns x, rows y, broadcast) in the patient frame, as float32."""
        cos, sin = np.cos(self.pose.angle), np.sin(self.pose.angle)
        across = (x - self.pose.centre[0]) / self.pose.lung_height
        down = (y - self.pose.centre[1]) / self.pose.lung_height
        return (cos * across + sin * down).astype(np.float32), (cos * down - sin * across + 0.5).astype(np.float32)

    def boxes(self) -> npt.NDArray[np.int64]:
        """The 18 boxes [18, 4] int64, xyxy in whole pixels, cut at the border of the picture."""
        corners = np.empty((N_REGIONS, 4), np.int64)
        for region in Region:
            points = self.to_pixels(self._region_points(region))
            corners[region] = *np.floor(points.min(axis=0)), *np.ceil(points.max(axis=0))
        return np.clip(corners, 0, [self.pose.width, self.pose.height] * 2)

    def _region_points(self, region: Region) -> Points:
        if region.side is not None:
            return self._lung_points(region.label.removeprefix(f"{region.side} "), region.side)
        upper = _rectangle(*_UPPER_MEDIASTINUM)
        if region is Region.CARDIAC_SILHOUETTE:
            return self.heart
        if region is Region.TRACHEA:
            return _rectangle(*_TRACHEA)
        return upper if region is Region.UPPER_MEDIASTINUM else np.vstack([upper, self.heart])

    def _lung_points(self, part: str, side: Side) -> Points:
        outline, base, sign = self.lungs[side], self.base(side), SIDE_SIGN[side]
        if part == "lung":
            return outline
        if part == "hilar structures":
            medial, lateral, top, bottom = _HILUM
            return _rectangle(medial, lateral, top * base, bottom * base) * [sign, 1]
        if part == "costophrenic angle":
            outer = self.anatomy.half_width
            return _rectangle(outer - _ANGLE_WIDTH, outer, _ANGLE_TOP * base, _ANGLE_BOTTOM * base) * [sign, 1]
        top, bottom = (edge * base for edge in _ZONES[part])
        x = outline[(outline[:, 1] >= top) & (outline[:, 1] <= bottom), 0]
        return _rectangle(float(x.min()), float(x.max()), top, bottom)


def sample_layout(rng: np.random.Generator, anatomy: Anatomy, *, enlarged: bool, failing: bool) -> Layout:
    """A new exposure of a patient whose heart is enlarged, failing, both or neither."""
    pose = Pose.sample(rng)
    mean = CARDIOTHORACIC_ENLARGED if enlarged else CARDIOTHORACIC_FAILURE if failing else CARDIOTHORACIC_NORMAL
    magnified = 0.025 if pose.view == "AP" else 0.0
    ratio = float(np.clip(rng.normal(mean + magnified, 0.03), 0.36, 0.74))
    return Layout(replace(anatomy, heart_offset=anatomy.heart_offset + float(rng.normal(0, 0.008))), pose, ratio)


def zone_centre(layout: Layout, region: Region) -> tuple[float, float]:
    """The middle of a region in the patient frame."""
    points = layout._region_points(region)
    x, y = (points.min(axis=0) + points.max(axis=0)) / 2
    return float(x), float(y)


def _rectangle(left: float, right: float, top: float, bottom: float) -> Points:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _closed_curve(steps: npt.NDArray[np.float64], corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A smooth closed curve through `corners` (whose last repeats the first): Catmull-Rom."""
    count = len(corners) - 1
    index = steps.astype(int) % count
    fraction = steps - steps.astype(int)
    before, here, after, beyond = (corners[(index + shift) % count] for shift in (-1, 0, 1, 2))
    cubic = 3 * (here - after) + beyond - before
    square = 2 * before - 5 * here + 4 * after - beyond
    return np.asarray(here + 0.5 * fraction * (after - before + fraction * (square + fraction * cubic)))
