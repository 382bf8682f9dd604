"""The ten groups of regions that the occlusion study hides, and radiographs without them.

Hidden means that the pixels of the group's boxes are black before the radiograph is encoded. Regions overlap, so the
crops of other regions lose these pixels too: what is measured is the part of the picture, not one crop of it.
Source of the groups: the occlusion study of CheXtriev (MICCAI 2024), whose bilateral pairs are hidden together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS, Region
from chextriev.preprocess import integer_corners, nearest_corners
from chextriev.radiograph import Radiograph
from chextriev.study_table import StudyTable

GROUPS: Mapping[str, tuple[Region, ...]] = {
    "lungs": (Region.RIGHT_LUNG, Region.LEFT_LUNG),
    "apical zones": (Region.RIGHT_APICAL_ZONE, Region.LEFT_APICAL_ZONE),
    "upper lung zones": (Region.RIGHT_UPPER_LUNG_ZONE, Region.LEFT_UPPER_LUNG_ZONE),
    "mid lung zones": (Region.RIGHT_MID_LUNG_ZONE, Region.LEFT_MID_LUNG_ZONE),
    "lower lung zones": (Region.RIGHT_LOWER_LUNG_ZONE, Region.LEFT_LOWER_LUNG_ZONE),
    "hilar structures": (Region.RIGHT_HILAR_STRUCTURES, Region.LEFT_HILAR_STRUCTURES),
    "costophrenic angles": (Region.RIGHT_COSTOPHRENIC_ANGLE, Region.LEFT_COSTOPHRENIC_ANGLE),
    "mediastinum": (Region.MEDIASTINUM, Region.UPPER_MEDIASTINUM),
    "cardiac silhouette": (Region.CARDIAC_SILHOUETTE,),
    "trachea": (Region.TRACHEA,),
}
"""Regions by the name of their group; every region is in exactly one."""


def hide(radiograph: Radiograph, regions: Sequence[Region]) -> Radiograph:
    """The radiograph with the boxes of these regions black, cut at the pixels at which crops are cut."""
    pixels = radiograph.pixels.copy()
    for x1, y1, x2, y2 in np.maximum(integer_corners(radiograph.boxes)[list(regions)], 0):
        pixels[y1:y2, x1:x2] = 0
    return replace(radiograph, pixels=pixels)


@dataclass(frozen=True, eq=False)
class HiddenTable(StudyTable):
    """A study table whose radiographs are read with some regions hidden."""

    hidden: tuple[Region, ...] = ()

    @classmethod
    def of(cls, table: StudyTable, hidden: tuple[Region, ...]) -> "HiddenTable":
        """The same rows."""
        return cls(**{field.name: getattr(table, field.name) for field in fields(StudyTable)}, hidden=hidden)

    def radiograph(self, row: int) -> Radiograph:
        """Read one radiograph from disk, and hide."""
        return hide(super().radiograph(row), self.hidden)


@dataclass(frozen=True)
class GroupExtent:
    """How much is hidden with a group, on average over radiographs.

    pixels: share of the image that turns black, 0 to 1. crops: how many of the 18 crops lose pixels.
    """

    pixels: float
    crops: float


def extent_of(table: StudyTable, regions: Sequence[Region]) -> GroupExtent:
    """What hiding these regions takes from the radiographs of the table."""
    sizes = np.stack([table.width, table.height], axis=1).astype(np.int64)  # [N, 2]
    corners = nearest_corners(table.boxes_xyxy).reshape(len(table), N_REGIONS, 2, 2)  # [N, 18, corner, x or y]
    corners = np.clip(corners, 0, sizes[:, None, None])
    hidden = corners[:, list(regions)]
    touched = np.zeros((len(table), N_REGIONS), bool)
    for box in range(len(regions)):
        touched |= _shared(corners, hidden[:, box, None]) > 0
    covered = _shared(hidden, hidden).sum(axis=1)
    if len(regions) == 2:
        covered -= _shared(hidden[:, 0], hidden[:, 1])
    return GroupExtent(float((covered / sizes.prod(axis=1)).mean()), float(touched.sum(axis=1).mean()))


def mean_boxes(table: StudyTable) -> tuple[npt.NDArray[np.float64], float]:
    """The mean box of each region [18, 4] in shares of the image's width and height, and the mean height / width."""
    sizes = np.stack([table.width, table.height] * 2, axis=1)[:, None].astype(np.float64)  # [N, 1, 4]
    return (table.boxes_xyxy / sizes).mean(axis=0), float((table.height / table.width).mean())


def _shared(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[...] pixels that boxes [..., corner, x or y] have in common."""
    low, high = np.maximum(first[..., 0, :], second[..., 0, :]), np.minimum(first[..., 1, :], second[..., 1, :])
    shared: npt.NDArray[np.int64] = np.maximum(high - low, 0).prod(axis=-1)
    return shared
