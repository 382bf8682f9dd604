"""How well boxes agree: intersection over union."""

from typing import Any

import numpy as np
import numpy.typing as npt

Corners = npt.NDArray[np.floating[Any]]


def box_overlap(ours: Corners, theirs: Corners) -> npt.NDArray[np.float64]:
    """IoU in 0..1 of boxes [..., 4] (corners x1, y1, x2, y2, any unit) with others of the same shape: [...] float64.

    The area that two boxes share, divided by the area that they cover together (Jaccard); of boxes without an area 0.

    >>> float(box_overlap(np.array([0.0, 0, 2, 2]), np.array([1.0, 0, 3, 2])).round(3))
    0.333
    """
    first, second = (np.asarray(boxes, np.float64) for boxes in (ours, theirs))
    low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clip(0).prod(axis=-1)
    together = _areas(first) + _areas(second) - shared
    overlap: npt.NDArray[np.float64] = np.divide(shared, together, out=np.zeros_like(shared), where=together > 0)
    return overlap


def _areas(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    areas: npt.NDArray[np.float64] = (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1)
    return areas
